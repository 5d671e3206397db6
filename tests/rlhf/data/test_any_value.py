"""Whatever stands in whatever column: a result, or one line that refuses it, and never a text that is not in the file."""

import csv
import json
import tempfile
from contextlib import suppress
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlhf.data import as_messages, read_demonstrations, read_prompts, read_rankings, read_texts
from rlhf.data.formats.context import MAY_MATTER
from rlhf.errors import InputError
from tests.rlhf.data.shapes import SHAPES

COLUMNS = (
    "prompt", "completion", "chosen", "rejected", "messages", "conversations", "instruction", "input", "output", "question",
    "answer", "system", "history", "context", "response", "response_a", "response_b", "winner", "label", "score", "ranks",
    "completions", "answers", "text", "turns", "instances", "inputs", "outputs", "data", "annotations", "fields", "responses",
    "message_id", "parent_id", "role", "replies", "info", "summaries", "choice", "transcript", "score_a", "score_b",
    "conversation_a", "conversation_b", "helpfulness", "best.responses", "preferred_output", "non_preferred_output", "turn",
    "labeler", "ratings", "scores", "flags", "margin", "weight", "is_correct", "rating", "preference_strength", "images",
)  # fmt: skip
TEXT = st.text(max_size=12) | st.sampled_from(
    [
        "a",
        "b",
        "model_a",
        "\n\nHuman: q\n\nAssistant: a",
        "user",
        "<extra_id_1>",
        "### Human: x",
        "[1, 2]",
        "\ud800",
        "\x00",
        " ",
    ]
)
SCALARS = st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | TEXT
MESSAGE = st.fixed_dictionaries(
    {}, optional={"role": st.sampled_from(["user", "assistant", "system", "tool"]) | SCALARS, "content": SCALARS, "from": SCALARS,
                  "value": SCALARS, "text": SCALARS, "rank": SCALARS, "replies": st.lists(SCALARS, max_size=2), "weight": SCALARS,
                  "status": SCALARS, "input": SCALARS, "output": SCALARS, "type": SCALARS, "score": SCALARS, "result": SCALARS},
)  # fmt: skip
VALUES = st.recursive(
    SCALARS | MESSAGE,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
ROWS = st.lists(st.dictionaries(st.sampled_from(COLUMNS), VALUES, max_size=6), min_size=1, max_size=3)
READERS = (read_rankings, read_demonstrations, read_prompts, read_texts)


def texts_in(value):
    """Every text of a value, also of one that is JSON in a cell."""
    if isinstance(value, str):
        yield value
        if value[:1] in "[{'":
            try:
                yield from texts_in(json.loads(value))
            except ValueError:
                yield value[1:]
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield name
            yield from texts_in(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from texts_in(inner)


HALVES = {0xD800: "?", 0xFFFD: "?"}  # what files make of half a surrogate pair, and what readers do


def said(result):
    if isinstance(result, str):
        return result.split("\n")
    if isinstance(result, list):
        return [message["content"] for message in result]
    answers = result.completions if hasattr(result, "completions") else (result.completion,)
    return [*(message["content"] for message in as_messages(result.prompt)), *answers]


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_csv(path, rows):
    names = list(dict.fromkeys(name for row in rows for name in row)) or ["prompt"]
    with path.open("w", newline="", encoding="utf-8", errors="replace") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        for row in rows:
            writer.writerow({name: cell_of(value) for name, value in row.items()})


def cell_of(value):
    return value if isinstance(value, str) or value is None else json.dumps(value)


def write_parquet(path, rows):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


@pytest.mark.parametrize(
    "ending, write", [("jsonl", write_lines), ("csv", write_csv), ("parquet", write_parquet)]
)
@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(rows=ROWS)
def test_any_json_value_in_any_column_is_read_or_refused(ending, write, rows):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"rows.{ending}"
        try:
            write(path, rows)
        except (pyarrow.ArrowException, UnicodeEncodeError, OverflowError):
            return  # no table holds such rows
        cells = [cell_of(value) or "" for row in rows for value in row.values()] if ending == "csv" else []
        there = "\0".join([*cells, *(text for row in rows for text in texts_in(row))]).translate(HALVES)
        for read in READERS:
            for skip in (False, True):
                try:
                    found = list(read(path, skip))
                except InputError as problem:
                    assert "\n" not in f"{problem}"
                    continue
                for part in (part for result in found for part in said(result)):
                    pieces = [
                        piece for line in part.translate(HALVES).split("\n") for piece in line.split("TL;DR:")
                    ]
                    assert all(
                        piece.strip() in there or piece.removeprefix(label) in there
                        for piece in pieces
                        for label in ("SUBREDDIT: r/", "TITLE: ", "POST: ")
                        if piece.strip() and not piece.startswith(("SUBREDDIT: r/", "TITLE: ", "POST: "))
                    ), (read.__name__, part)


# Where a column may stand, as the path to the object that gets it; rows that say something together come as two.
INNER = {"Label Studio": "data", "Argilla": "fields", "self-instruct": "instances", "LangSmith": "inputs"}
TOGETHER = {
    "rated answers": [
        {"prompt": "q", "response": "a", "score": 1},
        {"prompt": "q", "response": "b", "score": 2},
    ],
    "rated conversations": [
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "score": 1},
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "b"}], "score": 2},
    ],
    "flat trees": [
        {"message_id": "1", "parent_id": None, "role": "prompter", "text": "q"},
        {"message_id": "2", "parent_id": "1", "role": "assistant", "text": "a", "rank": 0},
        {"message_id": "3", "parent_id": "1", "role": "assistant", "text": "b", "rank": 1},
    ],
}


def with_column(row, more, inside=None):
    """The row with more columns, or with them in the object or the list of objects that stands in a column."""
    if inside is None:
        return row | more
    inner = row[inside]
    return row | {inside: [inner[0] | more] if isinstance(inner, list) else inner | more}


PLACES = [
    *(([row], None) for row, _ in SHAPES.values()),
    *(([SHAPES[name][0]], inside) for name, inside in INNER.items()),
    *((rows, None) for rows in TOGETHER.values()),
]


@pytest.fixture(scope="module")
def readable(tmp_path_factory):
    """(rows, where a column may stand in the last, reader) for all that a reader takes."""
    path, found = tmp_path_factory.mktemp("readable") / "rows.jsonl", []
    for rows, inside in PLACES:
        write_lines(path, rows)
        for read in (read_rankings, read_demonstrations, read_prompts):
            with suppress(InputError):
                read(path)
                found.append((rows, inside, read))
    return found


@pytest.mark.parametrize("column", MAY_MATTER)
def test_a_column_that_may_matter_stands_in_the_prompt_or_is_refused_by_its_name(tmp_path, readable, column):
    path, told = tmp_path / "rows.jsonl", "Told beside."
    for rows, inside, read in readable:
        if rows[-1].get(column):
            continue
        for value in (told, [{"role": "user", "content": told}]):
            write_lines(path, [with_column(row, {column: value}, inside) for row in rows])
            try:
                prompts = [getattr(found, "prompt", found) for found in read(path)]
            except InputError as problem:
                # A context that is a conversation may be the prompt, and then the question is what is refused.
                named = column in f"{problem}" or column == "context"
                assert named and "rows.jsonl:1: " in f"{problem}", (read.__name__, rows)
            else:
                said = ["\n".join(one["content"] for one in as_messages(prompt)) for prompt in prompts]
                assert any(told in prompt for prompt in said), (read.__name__, rows, value)
