"""One JSON object with a list of rows for each split: one is read, and no other is lost in silence."""

import json

import pytest

from rlhf.data import ReadOptions, read_demonstrations
from rlhf.errors import InputError


def rows(*words):
    return [{"prompt": f"q {word}", "completion": word} for word in words]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"train": rows("a", "b"), "validation": rows("c"), "test": rows("d")}))
    return path


def answers(source, say=None):
    return [row.completion for row in read_demonstrations(source, options=ReadOptions(say=say))]


def test_train_is_read_and_the_others_are_counted(file):
    said = []
    assert answers(file, said.append) == ["a", "b"]
    assert "left out 2 of other splits" in said[-1]


@pytest.mark.parametrize(("split", "words"), [("validation", ["c"]), ("test", ["d"]), ("train", ["a", "b"])])
def test_a_split_is_named_after_the_file(file, split, words):
    assert answers(f"{file}:{split}") == words


def test_a_split_that_is_not_there_is_refused_by_those_that_are(file):
    with pytest.raises(InputError, match="no split dev; name one of train, validation, test"):
        answers(f"{file}:dev")
    file.write_text(json.dumps({"validation": rows("c"), "test": rows("d")}))
    with pytest.raises(InputError, match="no split train; name one of validation, test"):
        answers(file)


def test_a_split_may_be_called_a_set_or_begin_large(file):
    file.write_text(json.dumps({"Trainset": rows("a"), "test_data": rows("b"), "data": rows("c")}))
    assert answers(file) == ["a"] and answers(f"{file}:test") == ["b"]


def test_a_single_one_is_read_whatever_its_name(file):
    file.write_text(json.dumps({"validation": rows("c")}))
    assert answers(file) == ["c"]


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.csv"])
def test_a_file_of_rows_has_no_splits(tmp_path, name):
    path = tmp_path / name
    path.write_text(json.dumps(rows("a")) if name.endswith("n") else "prompt,completion\nq,a\n")
    with pytest.raises(InputError, match="tells no splits apart"):
        answers(f"{path}:test")
