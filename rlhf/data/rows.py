"""What readers give: prompts, demonstrations and rankings. Imports nothing."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Message = dict[str, str]
Prompt = str | list[Message]
ROLES = ("system", "user", "assistant")
MAY_BE_TURNS = frozenset("[{")  # what a conversation that is kept as a text begins with
CONTENTS = ('"content"', '"value"', '"text"')
HALVES = re.compile("[\ud800-\udfff]")  # of surrogate pairs: texts that were cut within an emoji
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


@dataclass(frozen=True, kw_only=True)
class Demonstration:
    """A prompt and the answer a person wrote for it.

    unlearned: places in the prompt of assistant turns that are not to be learned, as the source says (OpenAI's `weight: 0`) or for want of words.
    """

    prompt: Prompt
    completion: str
    unlearned: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """One labeler's ranking of K completions: rank 0 is best, equal ranks tie.

    scores: what the source gave each completion, in the source's unit, higher is better (ratings, votes).
    margin: by how much the best was preferred, in the source's unit, where it says so for the pair.
    fields: what a labeling page asked besides, by name, as a JSON object; "" for nothing. beside: what else our exports
    say of the answer (strength, comment, none_acceptable, scale of its ratings), as a JSON object; "" for nothing.
    """

    prompt: Prompt
    completions: tuple[str, ...]
    ranks: tuple[int, ...]
    labeler: str = ""
    flags: tuple[tuple[str, ...], ...] = ()
    ratings: tuple[int | None, ...] = ()
    scores: tuple[float, ...] = ()
    margin: float | None = None
    fields: str = ""
    beside: str = field(default="", repr=False)

    def pairs(self) -> list[tuple[int, int]]:
        """(better, worse) indices of all pairs that are not ties."""
        places = range(len(self.ranks))
        return [(i, j) for i in places for j in places if self.ranks[i] < self.ranks[j]]


@dataclass(frozen=True, kw_only=True)
class PromptRow:
    """A prompt with all columns of its row by name, for rewards that check an answer (`ground_truth`, …)."""

    prompt: Prompt
    columns: dict[str, Any] = field(default_factory=dict)


class BadRow(Exception):
    """What is wrong with one row; the reader adds where it stands."""


class NotHeld(BadRow):
    """A row that holds nothing of the use it was asked for."""


class LeftOut(Exception):
    """Why a well-formed row cannot be used, worded to follow "left out 3": `that part early`. It is counted, no error."""


class Row(dict[str, Any]):
    """One row by column, names in lower case, without the columns that hold nothing.

    answers, left, ignored: the columns of a labeling tool's export that hold the answers, the one shown on the left, and
    those to leave out, as the user named them. empty: the columns that hold nothing.
    """

    answers: tuple[str, ...] = ()
    left: str | None = None
    ignored: frozenset[str] = frozenset()
    empty: tuple[str, ...] = ()

    def changed(self, columns: dict[str, Any]) -> "Row":
        """The same row with other columns."""
        row = Row(columns)
        row.answers, row.left, row.ignored, row.empty = self.answers, self.left, self.ignored, self.empty
        return row

    def inner(self, columns: dict[str, Any]) -> "Row":
        """A row that stands inside this one, without the columns that `--map` leaves out, as this one is without them."""
        return self.changed(
            {
                name.lower(): unpacked(name.lower(), value)
                if isinstance(value, str) and value[:1] in MAY_BE_TURNS
                else value
                for name, value in columns.items()
                if value is not None and name.lower() not in self.ignored
            }
        )


def without_halves(value: Any) -> Any:
    """The value with U+FFFD for halves of surrogate pairs, as tokenizers have it: no file, page or hash can hold one."""
    return replaced(value, HALVES)


def replaced(value: Any, pattern: re.Pattern[str]) -> Any:
    """A text, or JSON of texts, with U+FFFD for what the pattern finds."""
    if isinstance(value, str):
        return pattern.sub("\ufffd", value)
    if isinstance(value, dict):
        return {replaced(key, pattern): replaced(inner, pattern) for key, inner in value.items()}
    return [replaced(inner, pattern) for inner in value] if isinstance(value, list | tuple) else value


def json_within(text: str) -> Any:
    """What a text of JSON within something else holds, without halves of surrogate pairs. Raises ValueError for any other text."""
    try:
        return without_halves(json.loads(text))
    except RecursionError as problem:
        raise ValueError("nested too deep") from problem


def unpacked(name: str, value: str) -> Any:
    """The conversation or message that a column keeps as the text of JSON; any other text, and a document, as it is."""
    if name == "text" or not any(key in value for key in CONTENTS):
        return value
    try:
        found = json_within(value)
    except ValueError:
        return value
    given = found if isinstance(found, list) else [found]
    return found if given and all(_is_message(one) for one in given) else value


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and any(
        isinstance(value.get(role), str) and said in value
        for role, said in (("role", "content"), ("from", "value"), ("speaker", "text"), ("role", "text"))
    )


def as_messages(prompt: Prompt) -> list[Message]:
    """The prompt as a conversation; a string is one message of the user."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def fingerprint(rows: Any) -> str:
    """sha256 of the rows as canonical JSON, a row at a time."""
    spell = json.JSONEncoder(sort_keys=True, separators=(",", ":"), default=_spelled).encode
    if isinstance(rows, str | dict) or not isinstance(rows, Sequence):
        return hashlib.sha256(spell(rows).encode()).hexdigest()
    digest = hashlib.sha256(b"[")
    for number, row in enumerate(rows):
        digest.update(f"{',' if number else ''}{spell(row)}".encode())
    digest.update(b"]")
    return digest.hexdigest()


def _spelled(value: Any) -> Any:
    """Rows of a source as the list they are; anything else in its own words, but for where it lies in memory."""
    return list(value) if isinstance(value, Sequence) else ADDRESS.sub("", f"{value}")
