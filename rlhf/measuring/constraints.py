"""Instructions whose fulfilment a program can check, in the manner of IFEval (Zhou et al. 2023). Imports no torch."""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rlhf.data import Prompt, as_messages

KEYWORDS = ("water", "time", "people", "simple", "always", "home", "light", "plan")
CLOSING = "I hope this helps."


@dataclass(frozen=True)
class Constraint:
    """What an answer must be like: as one reads it, and as a check of the answer's text."""

    kind: str
    text: str
    holds: Callable[[str], bool]


def random_constraint(rng: random.Random) -> Constraint:
    """A constraint of a random kind with random numbers or words."""
    return rng.choice(KINDS)(rng)


def add_constraints(prompts: Sequence[Prompt], num_tasks: int, seed: int) -> list[tuple[Prompt, Constraint]]:
    """Up to num_tasks prompts, each with a constraint written behind its last message; the same for the same seed."""
    rng = random.Random(seed)
    tasks: list[tuple[Prompt, Constraint]] = []
    for prompt in list(prompts)[:num_tasks]:
        constraint = random_constraint(rng)
        *before, last = as_messages(prompt)
        tasks.append(([*before, {**last, "content": f"{last['content']}\n\n{constraint.text}"}], constraint))
    return tasks


def words_of(text: str) -> list[str]:
    """The words of a text, without punctuation."""
    return re.findall(r"\w+(?:['’-]\w+)*", text)


def num_bullets(text: str) -> int:
    """Lines that begin with a star or a hyphen and a space."""
    return len(re.findall(r"^\s*[*-] ", text, re.MULTILINE))


def _at_most(rng: random.Random) -> Constraint:
    n = rng.choice((20, 30, 50))
    return Constraint("at most n words", f"Use at most {n} words.", lambda text: 0 < len(words_of(text)) <= n)


def _at_least(rng: random.Random) -> Constraint:
    n = rng.choice((20, 30, 40))
    return Constraint("at least n words", f"Use at least {n} words.", lambda text: len(words_of(text)) >= n)


def _bullets(rng: random.Random) -> Constraint:
    n = rng.choice((2, 3, 4))
    says = f'Answer with exactly {n} bullet points, each on a line of its own that begins with "* ".'
    return Constraint("n bullet points", says, lambda text: num_bullets(text) == n)


def _keyword(rng: random.Random) -> Constraint:
    word = rng.choice(KEYWORDS)
    return Constraint(
        "keyword", f'Use the word "{word}" in your answer.', lambda text: word in words_of(text.lower())
    )


def _no_comma(rng: random.Random) -> Constraint:
    return Constraint("no comma", "Do not use any comma.", lambda text: bool(text) and "," not in text)


def _lowercase(rng: random.Random) -> Constraint:
    says = "Write your whole answer in lowercase letters, no capitals anywhere."
    return Constraint("lowercase", says, lambda text: bool(words_of(text)) and text == text.lower())


def _uppercase(rng: random.Random) -> Constraint:
    says = "Write your whole answer in capital letters."
    return Constraint("uppercase", says, lambda text: bool(words_of(text)) and text == text.upper())


def _closing(rng: random.Random) -> Constraint:
    says = f'End your answer with exactly this sentence: "{CLOSING}"'
    return Constraint("closing sentence", says, lambda text: text.rstrip(' "\n').endswith(CLOSING))


def _quoted(rng: random.Random) -> Constraint:
    says = "Put your whole answer in double quotation marks."
    return Constraint("quotation marks", says, lambda text: len(text) > 2 and text[0] == text[-1] == '"')


KINDS = (_at_most, _at_least, _bullets, _keyword, _no_comma, _lowercase, _uppercase, _closing, _quoted)
