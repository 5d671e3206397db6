"""Labels to files, a few hundred rows at a time: K-wise rankings, pairs as trl takes them, demonstrations."""

import csv
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from annotate.answers.choice import ORDERING, RATING, Choice
from annotate.answers.snapshots import NothingChosen, StoredAnswer, stored_answers, take_snapshot
from annotate.store.database import Database
from annotate.store.schema import Annotation
from rlhf.data import as_messages
from rlhf.durable import write_atomically
from rlhf.errors import InputError

Rows = Callable[[], Iterator[dict[str, Any]]]
ROWS_PER_GROUP = 1000
MESSAGES = [{"role": "string", "content": "string"}]
# Columns and their types by format; a datasets folder and Parquet need them before the first row.
COLUMNS: dict[str, dict[str, Any]] = {
    "rankings": {
        "prompt": MESSAGES,
        "completions": ["string"],
        "ranks": ["int64"],
        "labeler": "string",
        "origin": "string",
        "flags": [["string"]],
        "ratings": ["int64"],
        "strength": "int64",
        "none_acceptable": "bool",
        "comment": "string",
        "checkpoints": ["string"],
        "samplings": ["string"],
        "batch": "string",
        "source": "string",
        "adjudicated": "bool",
        "created": "float64",
        "time_s": "float64",
        "fields": "string",
    },
    "pairs": {
        "prompt": MESSAGES,
        "chosen": MESSAGES,
        "rejected": MESSAGES,
        "labeler": "string",
        "origin": "string",
    },
    "demonstrations": {
        "prompt": MESSAGES,
        "completion": MESSAGES,
        "labeler": "string",
        "origin": "string",
        "source": "string",
        "fields": "string",
    },
    "ratings": {
        "prompt": MESSAGES,
        "completion": MESSAGES,
        "rating": "int64",
        "scale": "int64",
        "label": "bool",
        "labeler": "string",
        "origin": "string",
        "flags": ["string"],
        "comment": "string",
        "checkpoint": "string",
        "sampling": "string",
        "batch": "string",
        "source": "string",
        "adjudicated": "bool",
        "created": "float64",
        "time_s": "float64",
        "fields": "string",
    },
}
ANSWERS: dict[str, Any] = {
    "rankings": ORDERING,
    "pairs": ORDERING,
    "demonstrations": Annotation.kind == "demonstrate",
    "ratings": RATING,
}
FORMATS = tuple(COLUMNS)
# Line ends that JSON allows in a text, but at which many readers of JSONL would cut the line.
LINE_ENDS = {ord(end): f"\\u{ord(end):04x}" for end in "\x85\u2028\u2029"}


@dataclass(frozen=True)
class Exported:
    """How many rows were written, and the snapshot that fixes the answers they came from."""

    rows: int
    snapshot: str


def export(database: Database, target: Path, format: str, choice: Choice) -> Exported:
    """Write the chosen answers as .jsonl, .csv or .parquet by the target's ending, or as a `datasets` folder.

    A file appears whole or not at all; memory does not grow with the number of answers. Raises InputError for another
    ending, an existing folder, or nothing to write.
    """
    if format not in COLUMNS:
        raise InputError(f"format {format}: choose one of {', '.join(FORMATS)}")
    check_target(target)
    try:
        snapshot, ids = take_snapshot(database, choice, ANSWERS[format])
    except NothingChosen:
        raise InputError(f"no {format} to export; nothing was written") from None
    written = 0

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal written
        with database.read() as connection:
            for answer in stored_answers(connection, ids):
                for row in rows_of(answer, format):
                    written += 1
                    yield row

    write_rows(rows, COLUMNS[format], target)
    return Exported(written, snapshot.id)


def rows_of(answer: StoredAnswer, format: str) -> Iterator[dict[str, Any]]:
    """One answer's rows: a ranking, each of its decided pairs, a demonstration, or each of its ratings.

    source: label, import or chat, the way the answer was given; sampling settings and a page's own fields are JSON texts.
    """
    prompt = as_messages(answer.prompt)
    who = {"labeler": answer.labeler, "origin": answer.origin}
    if format == "demonstrations":
        yield {
            "prompt": prompt,
            "completion": _said(answer.row.demonstration),
            **who,
            "source": answer.row.origin,
            "fields": json.dumps(answer.row.fields),
        }
    elif format == "ratings":
        yield from _ratings(answer, prompt, who)
    elif not answer.ranks:  # a verdict that puts nothing in order
        return
    elif format == "pairs":
        for better, worse in answer.ranking().pairs():
            chosen, rejected = answer.completions[better], answer.completions[worse]
            yield {"prompt": prompt, "chosen": _said(chosen), "rejected": _said(rejected), **who}
    else:
        yield {
            "prompt": prompt,
            "completions": list(answer.completions),
            "ranks": list(answer.ranks),
            **who,
            "flags": [list(item.flags) for item in answer.items],
            "ratings": [item.rating for item in answer.items],
            "strength": answer.row.strength,
            "none_acceptable": bool(answer.row.none_acceptable),
            "comment": answer.row.comment,
            "checkpoints": list(answer.checkpoints),
            "samplings": [json.dumps(sampling) for sampling in answer.samplings],
            "batch": answer.batch,
            "source": answer.row.origin,
            "adjudicated": bool(answer.row.adjudicates),
            "created": answer.row.created,
            "time_s": answer.row.time_s,
            "fields": json.dumps(answer.row.fields),
        }


def _ratings(answer: StoredAnswer, prompt: list[Any], who: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Rows as trainers from unpaired preferences take them, trl's KTOTrainer among them, one for each rated answer.

    label: whether the rating is in the upper half of its scale; none for its middle.
    """
    for place, item in enumerate(answer.items):
        if item.rating is None:
            continue
        side = 2 * item.rating - (answer.scale + 1)
        yield {
            "prompt": prompt,
            "completion": _said(answer.completions[place]),
            "rating": item.rating,
            "scale": answer.scale,
            "label": side > 0 if side else None,
            **who,
            "flags": list(item.flags),
            "comment": answer.row.comment,
            "checkpoint": answer.checkpoints[place],
            "sampling": json.dumps(answer.samplings[place]),
            "batch": answer.batch,
            "source": answer.row.origin,
            "adjudicated": bool(answer.row.adjudicates),
            "created": answer.row.created,
            "time_s": answer.row.time_s,
            "fields": json.dumps(answer.row.fields),
        }


def _said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def check_target(target: Path) -> None:
    """Raises InputError where an export may not go."""
    if target.suffix not in ("", ".jsonl", ".csv", ".parquet"):
        raise InputError(f"{target}: write to .jsonl, .csv, .parquet or a folder")
    if target.exists():
        raise InputError(f"{target} exists already; name a file or folder that does not")


def write_rows(rows: Rows, columns: dict[str, Any], target: Path) -> None:
    """Write rows of known columns to a file or a `datasets` folder, as `export` does."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.suffix:
            _write_file(rows, columns, target)
        else:
            _write_folder(rows, columns, target)
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error.strerror or error})") from None


def _write_file(rows: Rows, columns: dict[str, Any], target: Path) -> None:
    writers: dict[str, Callable[[Path], None]] = {
        ".jsonl": lambda path: _write_jsonl(rows, path),
        ".csv": lambda path: _write_csv(rows, list(columns), path),
        ".parquet": lambda path: _write_parquet(rows, columns, path),
    }
    write_atomically(target, writers[target.suffix])


def _write_jsonl(rows: Rows, path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False).translate(LINE_ENDS) + "\n" for row in rows())


def _write_csv(rows: Rows, columns: list[str], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for row in rows():
            writer.writerow({name: cell(value) for name, value in row.items()})


def cell(value: Any) -> str:
    """A table cell that no spreadsheet takes for a formula."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return "'" + text if text[:1] in tuple("=+-@\t\r\n'") else text


def _features(columns: dict[str, Any]) -> Any:
    from datasets import Features, List, Value

    def feature(kind: Any) -> Any:
        if isinstance(kind, list):
            return List(feature(kind[0]))
        return (
            {name: feature(inner) for name, inner in kind.items()} if isinstance(kind, dict) else Value(kind)
        )

    return Features({name: feature(kind) for name, kind in columns.items()})


def _write_parquet(rows: Rows, columns: dict[str, Any], path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    schema = _features(columns).arrow_schema
    with parquet.ParquetWriter(path, schema) as writer:
        group: list[dict[str, Any]] = []
        for row in rows():
            group.append(row)
            if len(group) == ROWS_PER_GROUP:
                writer.write_table(pyarrow.Table.from_pylist(group, schema))
                group = []
        if group:
            writer.write_table(pyarrow.Table.from_pylist(group, schema))


def _write_folder(rows: Rows, columns: dict[str, Any], target: Path) -> None:
    from datasets import Dataset

    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        file = scratch / "rows.parquet"
        _write_parquet(rows, columns, file)
        dataset = Dataset.from_parquet(str(file), cache_dir=str(scratch / "cache"))
        dataset.save_to_disk(str(scratch / "folder"))
        (scratch / "folder").rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
