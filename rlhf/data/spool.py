"""Rows that were read, kept outside the process's memory from some size on. Read like a list, made once, never changed."""

import copy
import hashlib
import json
import tempfile
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar, overload

from rlhf.data.account import Account

T = TypeVar("T")
DECODER = json.JSONDecoder()
IN_MEMORY = 32 * 2**20  # bytes that a set may take before it goes to a temporary file


class Rows(Sequence[T], Generic[T]):
    """The rows of a source and the account of how they were read.

    A copy of the source: nothing that happens to its files afterwards changes them. Each access decodes one row; a slice
    is a list.
    """

    def __init__(self, account: Account, encode: Callable[[T], Any], decode: Callable[[Any], T]) -> None:
        self.account = account
        self._encode, self._decode = encode, decode
        self._json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=spelled_value).encode
        self._file = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115  lives as long as the rows
        self._starts = array("Q", [0])
        self._hashes = array("q")
        self._order: array[int] | None = None
        self._sha256 = hashlib.sha256()

    def append(self, row: T) -> None:
        """Add a row; only the reader does."""
        data = self._json(self._encode(row))
        kept = data.encode("utf-8", "surrogatepass")
        self._sha256.update(kept + b"\n")
        self._file.write(kept)
        self._starts.append(self._starts[-1] + len(kept))
        self._hashes.append(hash(kept))

    @property
    def num_kept(self) -> int:
        """Rows appended so far."""
        return len(self._starts) - 1

    def arrange(self, order: Sequence[int]) -> None:
        """Make these places, in this order, the rows."""
        self._order = array("Q", order)

    def at(self, places: Sequence[int]) -> "Rows[T]":
        """The rows at these places, in this order; they share what was read, and its account."""
        chosen = copy.copy(self)
        kept = self._order
        chosen._order = array("Q", places if kept is None else (kept[place] for place in places))
        return chosen

    def fingerprint(self) -> str:
        """sha256 that depends on the rows and their order."""
        digest = hashlib.sha256(self.account.sha256.encode())
        if self._order is not None:
            digest.update(self._order.tobytes())
        return digest.hexdigest()

    def finish(self) -> None:
        """Complete the account."""
        import numpy

        self.account.num_given = len(self)
        self.account.sha256 = self._sha256.hexdigest()
        found = numpy.frombuffer(self._hashes, dtype=numpy.int64) if self._hashes else numpy.zeros(0)
        self.account.num_duplicates = int(len(found) - len(numpy.unique(found)))

    def __len__(self) -> int:
        return self.num_kept if self._order is None else len(self._order)

    def _row(self, place: int) -> T:
        kept = place if self._order is None else self._order[place]
        start, end = self._starts[kept], self._starts[kept + 1]
        self._file.seek(start)
        return self._decode(
            DECODER.raw_decode(self._file.read(end - start).decode("utf-8", "surrogatepass"))[0]
        )

    @overload
    def __getitem__(self, place: int) -> T: ...
    @overload
    def __getitem__(self, place: slice) -> list[T]: ...
    def __getitem__(self, place: int | slice) -> T | list[T]:
        if isinstance(place, slice):
            return [self._row(one) for one in range(*place.indices(len(self)))]
        if not -len(self) <= place < len(self):
            raise IndexError(f"row {place} of {len(self)}")
        return self._row(place % len(self))

    def __iter__(self) -> Iterator[T]:
        return map(self._row, range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def __repr__(self) -> str:
        return f"<{len(self)} rows of {self.account.source}>"


def spelled_value(value: Any) -> Any:
    """A cell of a table that JSON has no word for, in columns kept beside a prompt: times in ISO form, bytes as nothing."""
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return None if isinstance(value, bytes) else f"{value}"
