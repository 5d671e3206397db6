"""A batch from a lead's file whose columns have other names: read as the lead says, and what was read is said."""

import json

import pytest

from annotate.app.lead.new_batch import UploadIn, make_batch
from annotate.labels import NewTask
from rlhf.errors import InputError, LabelError

ROWS = [{"ask": f"q{n}", "reply_1": "Yes.", "reply_2": "No.", "note": "x"} for n in range(3)]


def file_of(folder, rows, name="upload-17"):
    path = folder / f"{name}.jsonl"
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


GOLD = {"prompt": "2 + 2?", "completions": ["4", "5"], "ranks": [0, 1]}
THREE = GOLD | {"completions": ["4", "5", "6"], "ranks": [0, 1, 1]}


@pytest.mark.parametrize(
    ("kind", "gold", "wrong"),
    [
        ("rate", GOLD, "task 1, a gold question: these belong to rank and compare, not to rate"),
        (
            "demonstrate",
            GOLD,
            "task 1, a gold question: these belong to rank and compare, not to demonstrate",
        ),
        ("compare", THREE, "task 1, a gold question: 3 answers; compare takes 2"),
        ("rank", {"x": 1}, "^gold.jsonl:1: "),
    ],
)
def test_a_batch_whose_gold_questions_do_not_fit_is_not_made(store, tmp_path, kind, gold, wrong):
    path, known = file_of(tmp_path, [GOLD | {"prompt": "3 + 1?"}]), file_of(tmp_path, [gold], "gold")
    new = UploadIn(name="b", kind=kind)
    with pytest.raises((InputError, LabelError), match=wrong):
        make_batch(store.database, new, path, "mine.jsonl", known)
    if gold != {"x": 1}:
        task = NewTask(prompt="2 + 2?", completions=tuple(gold["completions"]), gold=tuple(gold["ranks"]))
        with pytest.raises(LabelError, match=wrong):
            store.add_batch("b", [task], kind=kind)
    assert store.batches() == []
    assert make_batch(store.database, new, path, "mine.jsonl").tasks == 1


@pytest.mark.parametrize("kind", ["rank", "compare"])
def test_a_batch_is_made_with_its_ranks_and_its_gold_questions(store, tmp_path, kind):
    path, known = file_of(tmp_path, [GOLD | {"prompt": "3 + 1?"}]), file_of(tmp_path, [GOLD], "gold")
    new = UploadIn(name="b", kind=kind, keep_ranks=True, overlap=2, gold_every=1)
    made = make_batch(store.database, new, path, "mine.jsonl", known)
    assert (made.tasks, made.answers) == (1, 1)
    assert [task.prompt for task in store.lease_many("ann", 1, "b")] == ["2 + 2?"]
    assert [(row.completions, row.ranks) for row in store.rankings("b")] == [(("4", "5"), (0, 1))]
