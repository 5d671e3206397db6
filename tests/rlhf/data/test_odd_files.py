"""Files that are odd, but not wrong: read as what they say, or refused in one line."""

import json
import unicodedata
from decimal import Decimal

import pyarrow
import pyarrow.parquet
import pytest

from rlhf.data import read_demonstrations, read_prompts, read_rankings, read_texts
from rlhf.errors import InputError
from rlhf.splits import conversation_key

TOLD = {"prompt": ["q"], "completion": ["a"]}


@pytest.mark.parametrize(
    "dates",
    [
        pyarrow.array([10**8], pyarrow.date32()),
        pyarrow.array([10**17], pyarrow.timestamp("us")),
        pyarrow.array([10**15], pyarrow.timestamp("us", "Mars/Olympus")),
    ],
)
def test_a_date_that_python_does_not_know_in_another_column_is_no_reason_to_stop(tmp_path, dates):
    pyarrow.parquet.write_table(pyarrow.table({**TOLD, "day": dates}), tmp_path / "a.parquet")
    (found,) = read_demonstrations(tmp_path / "a.parquet")
    assert (found.prompt, found.completion) == ("q", "a")


def test_a_column_that_cannot_be_read_is_named(tmp_path):
    cell = [None, pyarrow.py_buffer(b"\0\0\0\0\1\0\0\0"), pyarrow.py_buffer(b"\xff")]
    no_text = pyarrow.Array.from_buffers(pyarrow.string(), 1, cell)
    pyarrow.parquet.write_table(pyarrow.table({**TOLD, "note": no_text}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"a\.parquet: the column note cannot be read \(.*utf-8"):
        read_demonstrations(tmp_path / "a.parquet")


@pytest.mark.parametrize("kind", [pyarrow.decimal128(3, 1), pyarrow.float16()])
def test_a_rating_is_a_number_however_a_table_keeps_it(tmp_path, kind):
    import numpy

    made = Decimal if pyarrow.types.is_decimal(kind) else numpy.float16
    rating = pyarrow.array([made("2.0"), made("4.5")], kind)
    told = {"prompt": ["q", "q"], "completion": ["a", "b"], "rating": rating}
    pyarrow.parquet.write_table(pyarrow.table(told), tmp_path / "a.parquet")
    (found,) = read_demonstrations(tmp_path / "a.parquet")
    assert found.completion == "b" and found.prompt == "q"
    (ranking,) = read_rankings(tmp_path / "a.parquet")
    assert (ranking.ranks, ranking.scores) == ((1, 0), (2.0, 4.5))


def test_decimals_that_contradict_a_pair_are_refused(tmp_path):
    scores = {"score_chosen": [Decimal("1.5")], "score_rejected": [Decimal("4.0")]}
    pair = {"prompt": ["q"], "chosen": ["a"], "rejected": ["b"], **scores}
    pyarrow.parquet.write_table(pyarrow.table(pair), tmp_path / "a.parquet")
    with pytest.raises(InputError, match='"score_chosen" is below "score_rejected"'):
        read_rankings(tmp_path / "a.parquet")


def test_two_columns_of_one_name_are_refused(tmp_path):
    columns = [pyarrow.array([text]) for text in "qab"]
    table = pyarrow.Table.from_arrays(columns, names=["prompt", "completion", "completion"])
    with (tmp_path / "a.arrow").open("wb") as file, pyarrow.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(InputError, match="two columns are called completion"):
        read_demonstrations(tmp_path / "a.arrow")


@pytest.mark.parametrize(
    "name, content",
    [
        ("a.jsonl", "{GOOD}\n{TWICE}\n{GOOD}\n"),
        ("lines.json", "{GOOD}\n{TWICE}\n{GOOD}\n"),
        ("array.json", "[{GOOD},\n {TWICE},\n {GOOD}]"),
    ],
)
@pytest.mark.parametrize(
    "twice",
    [
        '{"prompt": "q", "completion": "a", "completion": "b"}',
        '{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "content": "a"}]}',
    ],
)
def test_a_name_that_stands_twice_in_an_object_is_refused_and_not_silently_the_last(
    tmp_path, monkeypatch, name, content, twice
):
    monkeypatch.setattr("rlhf.data.json_text.CHUNK", 32)
    path, good = tmp_path / name, '{"prompt": "q", "completion": "a"}'
    path.write_text(content.replace("{GOOD}", good).replace("{TWICE}", twice))
    reason = rf'{name}:2: "(completion|content)" stands twice in one object'
    with pytest.raises(InputError, match=reason):
        read_demonstrations(path)
    found = read_demonstrations(path, skip_bad_rows=True)
    assert len(found) == 2 and found.account.left_out == {"that cannot be read": 1}
    path.write_text(content.replace("{TWICE}", good).replace("{GOOD}", twice))
    assert len(read_demonstrations(path, skip_bad_rows=True)) == 1  # the first row, too


def test_a_file_of_nothing_but_a_byte_order_mark_is_empty(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf\n")
    with pytest.raises(InputError, match="the data set is empty"):
        read_demonstrations(tmp_path / "a.jsonl")


@pytest.mark.parametrize("left", [{"train": False}, {"loss": False}, {"weight": 0}])
def test_a_turn_that_is_not_to_be_trained_on_is_not_learned(tmp_path, left):
    turns = [{"role": role, "content": role} for role in ("user", "assistant", "user", "assistant")]
    turns[1] |= left
    turns[3] |= {"train": True, "loss": True}
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": turns}))
    (found,) = read_demonstrations(tmp_path / "a.jsonl")
    assert found.unlearned == (1,)


def test_two_spellings_of_an_accent_are_one_conversation():
    text = "Is that a Café?"
    assert conversation_key(unicodedata.normalize("NFD", text)) == conversation_key(text) == text.lower()


def test_a_table_may_have_a_space_behind_each_separator(tmp_path):
    (tmp_path / "a.csv").write_text('prompt, completion\n"q, r", "a, b"\ns, t\n')
    found = read_demonstrations(tmp_path / "a.csv")
    assert [(row.prompt, row.completion) for row in found] == [("q, r", "a, b"), ("s", "t")]
    (tmp_path / "a.csv").write_text("prompt,completion\nq, a\n")  # what a model says behind a prompt
    assert [row.completion for row in read_demonstrations(tmp_path / "a.csv")] == [" a"]


def test_blank_lines_may_stand_before_a_table(tmp_path):
    (tmp_path / "a.csv").write_text("\n \nprompt,completion\nq,a\nr\n")
    with pytest.raises(InputError, match=r"a\.csv:5: 1 cells under 2"):
        read_demonstrations(tmp_path / "a.csv")
    assert len(read_demonstrations(tmp_path / "a.csv", skip_bad_rows=True)) == 1


def test_a_row_without_a_text_is_left_out_and_counted(tmp_path):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in ("", "x", " \n")))
    rows = read_texts(tmp_path / "a.jsonl")
    assert list(rows) == ["x"] and rows.account.left_out == {"without a text": 2}


@pytest.mark.parametrize(
    "columns",
    [
        {"prompt": {"0": "q", "1": "r"}, "label": {"0": 1, "1": None}},
        {"prompt": ["q", "r"], "chosen": ["a", "b"]},
    ],
)
def test_json_of_columns_says_how_to_save_rows(tmp_path, columns):
    (tmp_path / "a.json").write_text(json.dumps(columns))
    with pytest.raises(InputError, match=r"a\.json: holds columns and no rows; save it as rows"):
        read_rankings(tmp_path / "a.json")


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_json_that_is_no_utf8_says_what_to_do(tmp_path, name):
    (tmp_path / name).write_text(json.dumps({"prompt": "q", "completion": "a"}), encoding="utf-16")
    with pytest.raises(InputError, match="no UTF-8 text; save it as UTF-8"):
        read_demonstrations(tmp_path / name)


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl.gz", "a.parquet"])
def test_a_pointer_of_git_lfs_is_no_data(tmp_path, name):
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(InputError, match=r"a\.\S+: is a pointer of Git LFS"):
        read_prompts(tmp_path / name)


def test_ranks_that_a_table_keeps_as_fractions_are_whole(tmp_path):
    told = {"prompt": ["q"], "completions": [["a", "b"]], "ranks": [[1.0, 0.0]]}
    pyarrow.parquet.write_table(pyarrow.table(told), tmp_path / "a.parquet")
    (found,) = read_rankings(tmp_path / "a.parquet")
    assert found.ranks == (1, 0) and all(isinstance(rank, int) for rank in found.ranks)
