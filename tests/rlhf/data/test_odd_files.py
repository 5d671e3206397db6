"""Files that are odd, but not wrong: read as what they say, or refused in one line."""

import json
import unicodedata

import pyarrow
import pyarrow.parquet
import pytest

from rlhf.data import read_demonstrations
from rlhf.errors import InputError
from rlhf.splits import conversation_key

TOLD = {"prompt": ["q"], "completion": ["a"]}


@pytest.mark.parametrize(
    "dates", [pyarrow.array([10**8], pyarrow.date32()), pyarrow.array([10**17], pyarrow.timestamp("us"))]
)
def test_a_date_beyond_pythons_in_another_column_is_no_reason_to_stop(tmp_path, dates):
    pyarrow.parquet.write_table(pyarrow.table({**TOLD, "day": dates}), tmp_path / "a.parquet")
    (found,) = read_demonstrations(tmp_path / "a.parquet")
    assert (found.prompt, found.completion) == ("q", "a")


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
