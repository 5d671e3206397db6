"""Instructions whose fulfilment a program can check, in the manner of IFEval (Zhou et al. 2023). Imports no torch."""

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rlhf.data import Prompt, as_messages
from rlhf.errors import InputError

CLOSING = "I hope this helps."
KEYWORDS = ("water", "time", "people", "simple", "always", "home", "light", "plan")
REWARD = "rlhf.measuring.constraints:constraint_kept"  # as --reward names it
Argument = int | str | None


@dataclass(frozen=True)
class Kind:
    """A kind of constraint: as one reads it, its argument in place of {}; a check of an answer; arguments to draw from."""

    says: str
    holds: Callable[[str, Any], bool]
    arguments: tuple[int | str, ...] = ()


def words_of(text: str) -> list[str]:
    """The words of a text, without punctuation."""
    return re.findall(r"\w+(?:['’-]\w+)*", text)


def num_bullets(text: str) -> int:
    """Lines that begin with a star or a hyphen and a space."""
    return len(re.findall(r"^\s*[*-] ", text, re.MULTILINE))


KINDS = {
    "at most n words": Kind(
        "Use at most {} words.", lambda text, n: 0 < len(words_of(text)) <= n, (20, 30, 50)
    ),
    "at least n words": Kind(
        "Use at least {} words.", lambda text, n: len(words_of(text)) >= n, (20, 30, 40)
    ),
    "n bullet points": Kind(
        'Answer with exactly {} bullet points, each on a line of its own that begins with "* ".',
        lambda text, n: num_bullets(text) == n,
        (2, 3, 4),
    ),
    "keyword": Kind(
        'Use the word "{}" in your answer.', lambda text, word: word in words_of(text.lower()), KEYWORDS
    ),
    "no comma": Kind("Do not use any comma.", lambda text, _: bool(text) and "," not in text),
    "lowercase": Kind(
        "Write your whole answer in lowercase letters, no capitals anywhere.",
        lambda text, _: bool(words_of(text)) and text == text.lower(),
    ),
    "uppercase": Kind(
        "Write your whole answer in capital letters.",
        lambda text, _: bool(words_of(text)) and text == text.upper(),
    ),
    "closing sentence": Kind(
        f'End your answer with exactly this sentence: "{CLOSING}"',
        lambda text, _: text.rstrip(' "\n').endswith(CLOSING),
    ),
    "quotation marks": Kind(
        "Put your whole answer in double quotation marks.",
        lambda text, _: len(text) > 2 and text[0] == text[-1] == '"',
    ),
}


@dataclass(frozen=True)
class Constraint:
    """What an answer must be like. Raises InputError for a kind that there is none of."""

    kind: str
    argument: Argument = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"constraint: no kind {self.kind!r}; known are {', '.join(KINDS)}")

    @property
    def text(self) -> str:
        """As one reads it."""
        return KINDS[self.kind].says.format(self.argument)

    def holds(self, answer: str) -> bool:
        """Whether an answer keeps it."""
        return KINDS[self.kind].holds(answer, self.argument)

    def behind(self, prompt: Prompt) -> Prompt:
        """The prompt with the constraint written behind its last message."""
        *before, last = as_messages(prompt)
        return [*before, {**last, "content": f"{last['content']}\n\n{self.text}"}]


def random_constraint(rng: random.Random) -> Constraint:
    """A constraint of a random kind with a random number or word."""
    kind = rng.choice(list(KINDS))
    arguments = KINDS[kind].arguments
    return Constraint(kind, rng.choice(arguments) if arguments else None)


def draw_constraints(prompts: Sequence[Prompt], num_tasks: int, seed: int) -> list[tuple[Prompt, Constraint]]:
    """The first num_tasks prompts, each beside a constraint; the same for the same seed."""
    rng = random.Random(seed)
    return [(prompt, random_constraint(rng)) for prompt in list(prompts)[:num_tasks]]


def add_constraints(prompts: Sequence[Prompt], num_tasks: int, seed: int) -> list[tuple[Prompt, Constraint]]:
    """`draw_constraints` with each constraint written behind its prompt's last message."""
    drawn = draw_constraints(prompts, num_tasks, seed)
    return [(constraint.behind(prompt), constraint) for prompt, constraint in drawn]


def constrained_row(prompt: Prompt, constraint: Constraint) -> dict[str, Any]:
    """A row of a prompts file for `constraint_kept`: a prompt that says the constraint, and what it is."""
    return {"prompt": prompt, "constraint": asdict(constraint)}


def constraint_kept(
    prompts: Sequence[Prompt], completions: Sequence[str], constraint: Sequence[Mapping[str, Any] | None]
) -> list[float | None]:
    """A reward function: 1 for a completion that keeps its prompt's constraint, 0 for another, None without one.

    constraint: the prompts' column of that name, {"kind": …, "argument": …} each. Raises InputError for any other.
    """
    return [
        None if given is None else float(_constraint(given).holds(text))
        for text, given in zip(completions, constraint, strict=True)
    ]


def _constraint(given: Mapping[str, Any]) -> Constraint:
    try:
        return Constraint(**given)
    except TypeError:
        raise InputError(f'constraint: {given!r} is not {{"kind": …, "argument": …}}') from None
