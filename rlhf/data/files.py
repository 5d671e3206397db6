"""Files as they are: rows of JSON lines, JSON, CSV, TSV, Parquet and text, read bit by bit, also compressed."""

import bz2
import csv
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

from rlhf.data.json_text import CHUNK, NO_SPLITS, json_lines, json_rows
from rlhf.data.rows import BadRow, json_within
from rlhf.errors import InputError, first_line

Placed = tuple[str, Any]
LINES = (".jsonl", ".ndjson")
TABLES = (".csv", ".tsv")
KINDS = (*LINES, ".json", *TABLES, ".parquet", ".arrow", ".txt")
COMPRESSED = (".gz", ".zst", ".bz2", ".xz")
ROWS_TO_JUDGE_A_COLUMN = 20
STRUCTURED = re.compile(r"\s*(\[.*\]|\{.*\})\s*", re.DOTALL)
OUR_LISTS, OUR_LIST = ("completions", "ranks", "flags", "ratings", "scores"), re.compile(r"\[.*\]", re.DOTALL)
OUR_EXPORTS = {"labeler", "origin"}  # columns that every table we write has
# What tables raise for a date beyond Python's, a time zone that is not known here, and texts that are no UTF-8.
UNKNOWN_TO_PYTHON = (ValueError, OverflowError, LookupError)
POINTER = b"version https://git-lfs.github.com/spec/"
FORMULA_STARTS = tuple("=+-@\t\r\n'")


def kind_of(path: Path) -> str:
    """The ending that says what a file is, such as ".jsonl", without that of its compression; "" for none we read."""
    name = path.name.lower()
    for ending in COMPRESSED:
        name = name.removesuffix(ending)
    kind = Path(name).suffix
    return kind if kind in KINDS else ""


def rows_of(
    path: Path,
    texts_as: str,
    watch: Callable[[BinaryIO], None] = lambda file: None,
    split: str | None = None,
) -> Iterator[Placed]:
    """(place, row) of a file; a line that is no JSON comes as a BadRow.

    texts_as: "prompt" for the lines of a text file, "text" for its paragraphs. watch: told of the file, for progress.
    split: the one to read of a JSON file that has several. Raises InputError for a file that cannot be read.
    """
    kind = kind_of(path)
    if split is not None and kind != ".json":
        raise InputError(f"{path}: {NO_SPLITS}")
    try:
        _refuse_pointer(path)
        if kind in (".parquet", ".arrow"):
            yield from _table(path, kind)
            return
        with path.open("rb") as raw:
            watch(raw)
            with _unpacked(raw, path) as file:
                yield from _text_rows(file, path, kind, texts_as, split)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, lzma.LZMAError, zlib.error) as problem:
        reason = (
            "it is no UTF-8 text; save it as UTF-8"
            if isinstance(problem, UnicodeDecodeError)
            else first_line(problem)
        )
        raise InputError(f"{path}: cannot be read ({reason})") from None


def _refuse_pointer(path: Path) -> None:
    """Raises InputError for what Git leaves in the place of a large file: its lines would be prompts."""
    if path.is_file():
        with path.open("rb") as file:
            if file.read(len(POINTER)) == POINTER:
                raise InputError(f"{path}: is a pointer of Git LFS and not the file; git lfs pull fetches it")


def _text_rows(file: Any, path: Path, kind: str, texts_as: str, split: str | None) -> Iterator[Placed]:
    if kind in LINES:
        yield from json_lines(file, path)
    elif kind == ".json":
        yield from json_rows(file, path, split)
    elif kind in TABLES:
        yield from _cells(_text(file, newline=""), path, kind)
    elif kind == ".txt":
        lines = _text(file, newline=None)
        yield from _plain_lines(lines, path) if texts_as == "prompt" else _paragraphs(lines, path)
    else:
        raise InputError(f"{path}: unknown kind of file; use {' '.join(KINDS)} or a datasets folder")


def _unpacked(raw: BinaryIO, path: Path) -> Any:
    ending = path.suffix.lower()
    if ending == ".gz":
        return gzip.GzipFile(fileobj=raw)
    if ending == ".bz2":
        return bz2.BZ2File(raw)
    if ending == ".xz":
        return lzma.LZMAFile(raw)
    if ending == ".zst":
        import pyarrow

        return io.BufferedReader(
            _Readable(pyarrow.CompressedInputStream(pyarrow.PythonFile(raw), "zstd")), CHUNK
        )
    return io.BufferedReader(raw, CHUNK) if isinstance(raw, io.RawIOBase) else raw


class _Readable(io.RawIOBase):
    """pyarrow's stream as one of Python's, which has lines."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _text(file: Any, newline: str | None) -> io.TextIOWrapper:
    """The file as text: UTF-8, or UTF-16 where its first bytes say so, as spreadsheets write it."""
    start = file.peek(2)[:2]
    encoding = "utf-16" if start in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    return io.TextIOWrapper(file, encoding=encoding, newline=newline)


# Tables


def _cells(file: io.TextIOWrapper, path: Path, kind: str) -> Iterator[Placed]:
    csv.field_size_limit(2**31 - 1)
    header, above = file.readline(), 0
    while header and not header.strip():
        header, above = file.readline(), above + 1
    delimiter = "\t" if kind == ".tsv" else next((sign for sign in (",", ";", "\t") if sign in header), ",")
    # A space behind each separator of the header is none of the cells', nor is it what makes a quote a text's own.
    is_spaced = 0 < header.count(delimiter) == header.count(f"{delimiter} ")
    reader = csv.reader(chain([header], file), delimiter=delimiter, strict=True, skipinitialspace=is_spaced)
    table = _records(reader, path, above)
    _, names = next(table, (1, []))
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{path}:1: two columns are called {' '.join(twice.split())}; rename one")
    first = list(islice(table, ROWS_TO_JUDGE_A_COLUMN))
    structured = {
        i for i in range(len(names)) if _is_structured(names[i], [row[i] for _, row in first if len(row) > i])
    }
    is_ours = set(names) >= OUR_EXPORTS
    for number, row in chain(first, table):
        if row:
            yield f"{path}:{number}", _table_row(names, row, structured, is_ours)


def _records(table: Any, path: Path, above: int) -> Iterator[tuple[int, list[str]]]:
    """(line it begins in, cells) of a table's rows; a quote that is never closed would take all rows behind it along.

    above: lines of the file before those of the table.
    """
    while True:
        line = above + table.line_num + 1
        try:
            yield line, next(table)
        except StopIteration:
            return
        except csv.Error as problem:
            raise InputError(
                f"{path}:{line}: a cell that begins with a quote must end with one, and quotes inside it be doubled "
                f"({first_line(problem)}); or save the set as JSON lines"
            ) from None


def _is_structured(name: str, cells: list[str]) -> bool:
    """Whether a column holds JSON: all of its cells that are not empty look like lists or objects."""
    there = [cell for cell in cells if cell]
    looks = OUR_LIST if name in OUR_LISTS else STRUCTURED
    return bool(there) and all(looks.fullmatch(cell) for cell in there)


def _table_row(names: list[str], cells: list[str], structured: set[int], is_ours: bool) -> Any:
    if len(cells) < len(names) and any(names[len(cells) :]):
        return BadRow(f"{len(cells)} cells under {len(names)} column names; the row is cut off")
    if len(cells) > len(names):
        return BadRow(
            f"{len(cells)} cells under {len(names)} column names; quote cells that hold the separator"
        )
    row = {}
    for i, (name, text) in enumerate(zip(names, cells, strict=False)):
        if not name:
            continue
        value = _cell(text, i in structured, is_ours)
        if isinstance(value, BadRow):
            return BadRow(f'"{name}" {value}')
        row[name] = value
    return row


def _cell(text: str, is_structured: bool, is_ours: bool) -> Any:
    """A cell: text, or JSON. is_ours: without the apostrophe that our exports put before what a spreadsheet would run.

    A column counts as JSON where all of its first cells look like lists or objects; one such cell among texts is a text.
    """
    if is_ours and text[:1] == "'" and text[1:2] in FORMULA_STARTS and text[1:2]:
        return text[1:]
    if not is_structured or not text:
        return text
    try:
        return json_within(text)
    except ValueError:
        return BadRow(
            "holds a list or object that is not JSON (Python's spelling?); save the set as JSON lines"
        )


def _table(path: Path, kind: str) -> Iterator[Placed]:
    import pyarrow
    import pyarrow.parquet

    try:
        if kind == ".parquet":
            batches: Any = pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=256)
        else:
            batches = _arrow_batches(path)
        number = 0
        for batch in batches:
            for row in batch_rows(batch, f"{path}"):
                number += 1
                yield f"{path}:{number}", row
    except (pyarrow.ArrowException, ValueError) as problem:
        raise InputError(f"{path}: cannot be read ({first_line(problem)})") from None


def batch_rows(batch: Any, shown: str) -> list[dict[str, Any]]:
    """The rows of a table's batch. Raises InputError, which names the source as shown, for two columns of one name."""
    names = batch.schema.names
    if len({*names}) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{shown}: two columns are called {twice}; rename one")
    try:
        rows: list[dict[str, Any]] = batch.to_pylist()
        return rows
    except UNKNOWN_TO_PYTHON:
        columns = [
            _values(column, f"{shown}: the column {name}")
            for name, column in zip(names, batch.columns, strict=True)
        ]
        return [dict(zip(names, cells, strict=True)) for cells in zip(*columns, strict=True)]


def _values(column: Any, shown: str) -> list[Any]:
    """A column's values; dates that Python has no word for as the numbers they are kept as. Raises InputError for others."""
    try:
        values: list[Any] = column.to_pylist()
    except UNKNOWN_TO_PYTHON as problem:
        try:
            values = column.cast(f"int{column.type.bit_width}").to_pylist()
        except (ValueError, NotImplementedError):
            raise InputError(
                f"{shown} cannot be read ({first_line(problem)}); mend it, or save the set without it"
            ) from None
    return values


def _arrow_batches(path: Path) -> Iterator[Any]:
    import pyarrow

    with pyarrow.memory_map(f"{path}") as source:
        try:
            yield from pyarrow.ipc.open_stream(source)
        except pyarrow.ArrowInvalid:
            found = pyarrow.ipc.open_file(source)
            yield from (found.get_batch(i) for i in range(found.num_record_batches))


# Text


def _plain_lines(lines: Iterator[str], path: Path) -> Iterator[Placed]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield f"{path}:{number}", {"prompt": line.removesuffix("\n")}


def _paragraphs(lines: Iterator[str], path: Path) -> Iterator[Placed]:
    """A text's parts between blank lines, whatever its line ends are."""
    part: list[str] = []
    start = 1
    for number, line in enumerate(lines, start=1):
        if line != "\n":
            part.append(line)
            continue
        if "".join(part).strip():
            yield f"{path}:{start}", {"text": "".join(part).removesuffix("\n")}
        part, start = [], number + 1
    if "".join(part).strip():
        yield f"{path}:{start}", {"text": "".join(part).removesuffix("\n")}
