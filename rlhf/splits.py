"""Dividing data between models that must not have seen each other's: by conversation, never by row. Imports no torch."""

import hashlib
import unicodedata
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from rlhf.data import Prompt, Rows, as_messages
from rlhf.errors import InputError

T = TypeVar("T")


def conversation_key(prompt: Prompt) -> str:
    """What a prompt began with, case, spaces and the spelling of accents aside: all turns of one dialogue, and all branches
    of a tree, share it."""
    first = next((m["content"] for m in as_messages(prompt) if m["role"] == "user"), "")
    return " ".join(unicodedata.normalize("NFC", first.lower()).split())


def split_point(prompt: Prompt, salt: str = "") -> float:
    """A number in [0, 1) that depends on the prompt's conversation only: equal for all of its rows, in every file."""
    digest = hashlib.sha256(f"{salt}\0{conversation_key(prompt)}".encode()).hexdigest()
    return int(digest[:13], 16) / 16**13


def held_out(
    rows: Sequence[T], prompt: Callable[[T], Prompt], share: float
) -> tuple[Sequence[T], Sequence[T]]:
    """Rows to learn from, and about `share` of them held out, both in their order; no conversation is on both sides.

    At least one conversation is held out, and one learned. Raises InputError where there is only one.
    """
    points = array("d", (split_point(prompt(row), "held out") for row in rows))
    limit = max(share, min(points, default=0.0) * (1 + 1e-9) or 1e-300)
    limit = min(limit, max(points, default=0.0))
    learned = array("Q", (i for i, point in enumerate(points) if point >= limit))
    out = array("Q", (i for i, point in enumerate(points) if point < limit))
    if not out:
        raise InputError("all rows are alike; at least 2 that are not are needed, one of them to validate on")
    return _at(rows, learned), _at(rows, out)


def _at(rows: Sequence[T], places: Sequence[int]) -> Sequence[T]:
    return rows.at(places) if isinstance(rows, Rows) else [rows[i] for i in places]


def assigned_split(prompt: Prompt, shares: Mapping[str, float]) -> str:
    """The part that a prompt's conversation falls into; shares add up to at most 1 and what is left is "rest"."""
    at = split_point(prompt)
    for name, share in shares.items():
        at -= share
        if at < 0:
            return name
    return "rest"


def in_random_order(rows: Iterable[T], prompt: Callable[[T], Prompt]) -> list[T]:
    """The rows by a hash of their conversation: an order that more rows, or other files, do not change."""
    return sorted(rows, key=lambda row: split_point(prompt(row), "order"))


def interleaved(sources: Sequence[Sequence[T]], num_rows: int) -> list[T]:
    """Up to num_rows rows, one from each source in turn while it has any: a small source is used up, not drowned."""
    chosen: list[T] = []
    for i in range(max(map(len, sources), default=0)):
        chosen += [source[i] for source in sources if i < len(source)]
        if len(chosen) >= num_rows:
            break
    return chosen[:num_rows]
