"""Rows of JSON: lines, one list, an object that holds one; decoded as they arrive."""

import io
import json
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from rlhf.data.rows import BadRow, LeftOut, without_halves
from rlhf.data.splits import chosen_split, split_called
from rlhf.errors import InputError

Placed = tuple[str, Any]
ROWS_KEYS = ("data", "rows", "train", "examples", "samples", "records", "items")
TEXTS = ("prompt", "instruction", "question", "input", "text")  # columns that are no lists of texts in a row
CHUNK = 2**20
NO_SPLITS = "tells no splits apart; name the file alone"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class NamedTwice(BadRow):
    """A row with an object in which one name stands twice: Python would take the last of the two without a word."""


def _object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A decoded object. Raises NamedTwice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise NamedTwice(f'"{twice}" stands twice in one object; leave one out or rename it')
    return found


DECODER, LENIENT = json.JSONDecoder(object_pairs_hook=_object_of), json.JSONDecoder()


def json_lines(file: Any, path: Path) -> Iterator[Placed]:
    shown = f"{path}:"
    for number, line in enumerate(file, start=1):
        if not line.isspace() and line.strip() != BYTE_ORDER_MARK:
            yield f"{shown}{number}", json_row(line)


def json_row(line: bytes) -> Any:
    """The row of one line of JSON, or the BadRow that says what is wrong with it."""
    try:
        row = DECODER.decode(line.removeprefix(BYTE_ORDER_MARK).decode())
        return without_halves(row) if b"\\ud" in line or b"\\uD" in line else row
    except NamedTwice as problem:
        return problem
    except RecursionError:
        return BadRow("nested too deep")
    except UnicodeDecodeError:
        return BadRow("no UTF-8 text; save it as UTF-8")
    except ValueError as problem:
        return BadRow(f"not JSON ({getattr(problem, 'msg', problem)})")


def json_rows(file: Any, path: Path, split: str | None = None) -> Iterator[Placed]:
    """A list of rows, an object that holds one or one of each split, one row, or lines of JSON under the name .json.

    split: the one to read where there are several. Raises InputError where it is not there.
    """
    head = list(islice(file, 200))
    lines = [line for line in head if line.strip()]
    start = lines[0].lstrip(b"\xef\xbb\xbf \t\r\n")[:1] if lines else b""
    rest = _Joined(io.BytesIO(b"".join(head)), file)
    are_lines = start == b"{" and len(lines) > 1 and isinstance(json_row(lines[0]), dict | NamedTwice)
    if split is not None and (start != b"{" or are_lines):
        raise InputError(f"{path}: {NO_SPLITS}")
    if start == b"[":
        yield from _array(io.TextIOWrapper(io.BufferedReader(rest, CHUNK), encoding="utf-8-sig"), path)
    elif are_lines:
        yield from json_lines(io.BufferedReader(rest, CHUNK), path)
    elif lines:
        yield from _object(rest.readall(), path, split)


class _Joined(io.RawIOBase):
    """What was read already, then the rest of the file."""

    def __init__(self, head: BinaryIO, file: BinaryIO) -> None:
        self.parts = [head, file]

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        for part in self.parts:
            if data := part.read(len(buffer)):
                buffer[: len(data)] = data
                return len(data)
        return 0


def _object(data: bytes, path: Path, split: str | None) -> Iterator[Placed]:
    found = json_row(data)
    if isinstance(found, BadRow):
        raise InputError(f"{path}: {found}")
    if isinstance(found, dict) and _is_columns(found):
        raise InputError(
            f'{path}: holds columns and no rows; save it as rows (pandas: to_json(…, orient="records", lines=True))'
        )
    lists = _lists_in(found)
    splits: dict[str, list[Any]] = {}
    for name, rows in lists.items():
        if called := split_called(name):
            splits.setdefault(called, []).extend(rows)
    if split is not None or len(splits) > 1 or (splits and len(found) == 1):
        yield from _of_split(splits, path, split)
        return
    inner = [name for name in ROWS_KEYS if name in lists]
    if len(inner) == 1 and "annotations" not in found:
        yield from ((f"{path}:{number}", row) for number, row in enumerate(lists[inner[0]], start=1))
    else:
        yield f"{path}:1", found


def _lists_in(found: Any) -> dict[str, list[Any]]:
    """The lists of rows in an object, by name."""
    columns = found.items() if isinstance(found, dict) else ()
    lists = {name: rows for name, rows in columns if isinstance(rows, list) and rows}
    return {name: rows for name, rows in lists.items() if all(isinstance(row, dict) for row in rows)}


def _of_split(splits: dict[str, list[Any]], path: Path, split: str | None) -> Iterator[Placed]:
    """The rows of one split, and of the others that they are left out."""
    if not splits:
        raise InputError(f"{path}: {NO_SPLITS}")
    wanted = chosen_split(f"{path}", f"{path}", [*splits], split)
    for name, rows in splits.items():
        for number, row in enumerate(rows, start=1):
            yield f"{path}:{name}:{number}", row if name == wanted else LeftOut("of other splits")


def _is_columns(found: dict[str, Any]) -> bool:
    """Whether an object holds the cells of a table by column, under numbers as pandas saves them or in lists of texts."""
    columns = list(found.values())
    if len(columns) < 2:
        return False
    if all(isinstance(cells, dict) and cells for cells in columns):
        return all(cells.keys() == columns[0].keys() for cells in columns) and all(
            name.isdigit() for name in columns[0]
        )
    asked = next((found[name] for name in TEXTS if name in found), None)
    are_lists = all(isinstance(cells, list) and len(cells) == len(columns[0]) for cells in columns)
    return are_lists and bool(asked) and all(isinstance(cell, str) for cell in asked or ())


def _array(file: io.TextIOWrapper, path: Path) -> Iterator[Placed]:
    """The elements of a JSON array, decoded as they arrive."""
    size, is_end = CHUNK, False
    buffer, num_rows, lines_before, is_after_row = file.read(size), 0, 0, False
    at = buffer.index("[") + 1

    def here() -> str:
        return f"{path}:{lines_before + 1 + buffer.count(chr(10), 0, at)}"

    while True:
        at = _past_space(buffer, at)
        if buffer[at : at + 1] == "]" and (is_after_row or not num_rows):
            return _nothing_follows(buffer[at + 1 :], file, here())
        if is_after_row and buffer[at : at + 1]:
            if buffer[at] != ",":
                raise InputError(f"{here()}: not JSON (a comma or ] is missing after row {num_rows})")
            at, is_after_row = _past_space(buffer, at + 1), False
        problem: Any = None
        if not is_after_row:
            try:
                row, end = _element(buffer, at)
            except (ValueError, RecursionError) as found:
                problem = found
            if problem is None and (end < len(buffer) or is_end):
                num_rows, is_after_row = num_rows + 1, True
                is_cut = any(buffer.find(escape, at, end) >= 0 for escape in ("\\ud", "\\uD"))
                yield f"{path}:{num_rows}", without_halves(row) if is_cut else row
                at, size = end, CHUNK
                continue
        if is_end or isinstance(problem, RecursionError):
            reason = "nested too deep" if isinstance(problem, RecursionError) else "not JSON, or cut off"
            raise InputError(f"{here()}: {reason} (in row {num_rows + 1})")
        more = file.read(size)
        lines_before += buffer.count("\n", 0, at)
        buffer, at, size, is_end = buffer[at:] + more, 0, size * 2, not more


def _element(buffer: str, at: int) -> tuple[Any, int]:
    """The element that begins there, or the NamedTwice that is wrong with it, and where it ends. Raises ValueError."""
    try:
        return DECODER.raw_decode(buffer, at)
    except NamedTwice as problem:
        return problem, LENIENT.raw_decode(buffer, at)[1]


def _nothing_follows(rest: str, file: io.TextIOWrapper, where: str) -> None:
    """Raises InputError where more than white space stands behind the end of an array."""
    while not rest.strip(" \t\r\n"):
        rest = file.read(CHUNK)
        if not rest:
            return
    raise InputError(
        f"{where}: not JSON (more follows the list that ends here; write one list, or one row a line)"
    )


SPACE = re.compile(r"[ \t\r\n]*")


def _past_space(buffer: str, at: int) -> int:
    found = SPACE.match(buffer, at)
    return found.end() if found else at
