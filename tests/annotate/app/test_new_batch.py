"""A batch from a lead's file whose columns have other names: read as the lead says, and what was read is said."""

import json

import pytest

from annotate.app.lead.new_batch import UploadIn, make_batch
from rlhf.errors import InputError

ROWS = [{"ask": f"q{n}", "reply_1": "Yes.", "reply_2": "No.", "note": "x"} for n in range(3)]


def file_of(folder, rows):
    path = folder / "upload-17"
    path = path.with_suffix(".jsonl")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_columns_with_other_names_are_named_in_the_form(store, tmp_path):
    path, said = file_of(tmp_path, [*ROWS, {"ask": 3}]), []
    new = UploadIn(name="named", map="prompt=ask,chosen=reply_1,rejected=reply_2", skip_bad_rows=True)
    made = make_batch(store.database, new, path, "mine.jsonl", say=said.append)
    assert made.tasks == 3
    assert "mine.jsonl: read 4 rows" in said[-1] and "left out 1" in said[-1] and "not used: note" in said[-1]
    assert str(path) not in said[-1]


def test_without_names_the_lead_is_told_what_was_there(store, tmp_path):
    with pytest.raises(
        InputError, match=r"mine.jsonl:1: nothing says which of reply_1 and reply_2 is better"
    ):
        make_batch(store.database, UploadIn(name="unnamed"), file_of(tmp_path, ROWS), "mine.jsonl")
