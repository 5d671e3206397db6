"""Labels in and out: nothing lost on the way, nothing a spreadsheet would run."""

import csv
import io
import json
import re
from dataclasses import replace

import pytest
from datasets import load_dataset, load_from_disk

from annotate.answers.adjudicate import adjudicate
from annotate.answers.choice import Choice
from annotate.answers.export import FORMATS, export
from annotate.answers.foreign import read_labels
from annotate.answers.importing import import_rankings
from annotate.figures.tables import as_csv, tables
from annotate.labels import Asks, NewTask, Submission
from annotate.simulate import simulate
from annotate.store.backup import check
from annotate.work.batches import BatchSettings
from rlhf.data import Ranking, read_rankings
from rlhf.errors import InputError, LabelError
from rlhf.starter.items import take_items
from tests.rows import write

RANKINGS = [
    Ranking(prompt="q1", completions=("a", "b", "c"), ranks=(0, 1, 1), labeler="zoe",
            flags=(("opinion",), (), ()), ratings=(7, None, 1)),
    Ranking(prompt="q1", completions=("a", "b", "c"), ranks=(2, 1, 0), labeler="yan"),
    Ranking(prompt="q2", completions=("=1+1", 'say "b"\n\u2028,c'), ranks=(1, 0), labeler="zoe"),
]  # fmt: skip


def put(store, rankings=RANKINGS, name="batch", **more):
    keep = more.pop("keep_ranks", True)
    return import_rankings(store.database, BatchSettings(name=name, origin="import", **more), rankings, keep)


def essence(rankings):
    return sorted((str(r.prompt), r.completions, r.ranks, r.labeler) for r in rankings)


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv", "out.parquet", "folder"])
def test_rankings_go_out_and_come_back(store, tmp_path, name):
    done = put(store)
    assert (done.tasks, done.answers) == (2, 3)
    assert essence(store.rankings()) == essence(RANKINGS)
    written = export(store.database, tmp_path / name, "rankings", Choice())
    assert written.rows == 3
    back = read_rankings(tmp_path / name)
    assert [(r.completions, r.ranks, r.labeler, r.ratings) for r in back] == [
        (r.completions, r.ranks, r.labeler, r.ratings) for r in store.rankings()
    ]
    assert back[0].flags == (("opinion",), (), ())
    assert store.rankings(snapshot=written.snapshot) == store.rankings()


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_what_is_said_beside_an_order_comes_back(store, tmp_path, ending):
    asks = Asks(strength=True, none_acceptable=True)
    store.add_batch("b", [NewTask(prompt="q", completions=("x", "y"))] * 2, asks=asks)
    for n, more in enumerate([{"strength": 2, "comment": "=close"}, {"none_acceptable": True}]):
        task = store.lease("ann", "b")
        store.submit("ann", Submission(task_id=task.id, client_id=f"{n}", ranks=(0, 1), **more))
    export(store.database, file := tmp_path / f"out.{ending}", "rankings", Choice(batch="b"))
    put(store, read_labels(file), name="again")
    export(store.database, tmp_path / "again.jsonl", "rankings", Choice(batch="again"))
    rows = [json.loads(line) for line in (tmp_path / "again.jsonl").read_text().splitlines()]
    assert sorted((row["strength"] or 0, row["comment"], row["none_acceptable"]) for row in rows) == [
        (0, "", True), (2, "=close", False)
    ]  # fmt: skip


def test_imported_answers_are_marked_and_their_labelers_cannot_log_in(store):
    put(store)
    origins = {labeler["name"]: labeler["origin"] for labeler in store.labelers()}
    assert origins["zoe"] == origins["yan"] == "imported" and origins["ann"] == "person"
    assert store.progress("batch").finished == 2 and store.lease("ann", "batch") is None


def test_imported_tasks_with_room_are_labeled_further(store):
    put(store, overlap=3)
    task = store.lease("ann", "batch")
    store.submit("ann", Submission(task_id=task.id, client_id="c", ranks=tuple(range(len(task.completions)))))
    assert store.progress("batch").answers == 4 and store.progress("batch").wanted == 6


def test_a_second_ranking_of_the_same_answers_is_not_lost(store):
    done = put(store, [RANKINGS[0], RANKINGS[0], RANKINGS[1]])
    assert (done.tasks, done.answers) == (2, 3) and len(store.rankings()) == 3


def test_labelers_that_are_one_to_the_database_rank_tasks_of_their_own(store):
    names = ["zo\ud800", "zo\udfff", "z" * 201, "z" * 202, "", " "]
    done = put(store, [replace(RANKINGS[1], labeler=name) for name in names])
    assert (done.tasks, done.answers) == (2, 6)
    found = {ranking.labeler for ranking in store.rankings()}
    assert found == {"zo\ufffd", "z" * 200, "imported"}


def test_an_import_is_whole_or_not_at_all(store):
    bad = Ranking(prompt="q", completions=("a", "b"), ranks=(0, 1), labeler="zoe", ratings=(9, 9))
    with pytest.raises(LabelError, match="1 to 7"):
        put(store, [*RANKINGS, bad])
    assert store.batches() == [] and store.rankings() == []
    assert "zoe" not in {labeler["name"] for labeler in store.labelers()}


def test_unranked_import_waits_for_people(store):
    put(store, keep_ranks=False)
    progress = store.progress("batch")
    assert (progress.tasks, progress.answers) == (2, 0)


def test_pairs_are_in_trls_format(store, tmp_path):
    put(store)
    assert export(store.database, tmp_path / "pairs.jsonl", "pairs", Choice()).rows == 2 + 3 + 1
    rows = load_dataset(
        "json", data_files=str(tmp_path / "pairs.jsonl"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert rows[0]["prompt"] == [{"role": "user", "content": "q1"}]
    assert {(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in rows} >= {("a", "b")}


def test_cells_are_no_formulas(store, tmp_path):
    put(store, [Ranking(prompt=text, completions=("x", "y"), ranks=(0, 1), labeler=text) for text in "=+-@'"])
    export(store.database, tmp_path / "a.csv", "rankings", Choice())
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["labeler"] for row in rows] == ["'" + text for text in "=+-@'"]
    assert [ranking.labeler for ranking in read_rankings(tmp_path / "a.csv")] == list("=+-@'")


FORMULAS = "=+-@\t\r\n'"


def test_no_cell_of_any_table_is_a_formula(store, tmp_path):
    """Every text that a person or a model gives, at the start of a cell, in every export and every figure."""
    asks = Asks(shown_order="fixed", flags=("opinion",))
    for i, mark in enumerate(FORMULAS):
        name, text = f"{mark}name {i}", f"{mark}text {i}"
        store.add_labeler(name)
        for kind, completions in (("rank", (text, "y")), ("rate", (text, "y")), ("demonstrate", ())):
            batch, given = f"{mark}{kind} {i}", {"checkpoints": (text,) * len(completions)}
            task = NewTask(prompt=text, completions=completions, **given)
            store.add_batch(batch, [task], kind=kind, asks=asks)
            said = {
                "rank": {"ranks": (0, 1)},
                "rate": {"ratings": (7, 1)},
                "demonstrate": {"demonstration": text},
            }[kind]
            leased = store.lease(name, batch)
            flags = (("opinion",), ()) if completions else ()
            submission = Submission(
                task_id=leased.id, client_id=batch, kind=kind, comment=text, flags=flags, **said
            )
            store.submit(name, submission)
    cells = []
    for format in FORMATS:
        export(store.database, tmp_path / f"{format}.csv", format, Choice())
        cells += list(csv.reader((tmp_path / f"{format}.csv").open(newline="")))
    for table in tables(store.database, Choice()).values():
        cells += list(csv.reader(io.StringIO(as_csv(table))))
    seen = {cell[1:2] for row in cells for cell in row if cell.startswith("'")}
    assert seen == set(FORMULAS)
    starts = {cell[:1] for row in cells for cell in row if not re.fullmatch(r"-?[\d.e-]+", cell)}
    assert starts & set(FORMULAS) == {"'"}


def test_exports_overwrite_nothing_and_name_known_endings(store, tmp_path):
    put(store)
    export(store.database, tmp_path / "folder", "pairs", Choice())
    assert len(load_from_disk(str(tmp_path / "folder"))) == 6
    (tmp_path / "mine.csv").write_text("mine")
    for name in ("folder", "mine.csv"):
        with pytest.raises(InputError, match="exists"):
            export(store.database, tmp_path / name, "pairs", Choice())
    assert (tmp_path / "mine.csv").read_text() == "mine"
    with pytest.raises(InputError, match="xlsx"):
        export(store.database, tmp_path / "a.xlsx", "pairs", Choice())
    with pytest.raises(InputError, match="nothing was written"):
        export(store.database, tmp_path / "b.csv", "demonstrations", Choice())


def labels_in(store, tmp_path, **choice):
    """(labeler, prompt) of what an export of the choice holds."""
    target = tmp_path / f"{len(list(tmp_path.iterdir()))}.jsonl"
    export(store.database, target, "rankings", Choice(**choice))
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    return {(row["labeler"], row["prompt"][0]["content"]) for row in rows}


def test_exports_are_chosen(store, tmp_path):
    put(store)
    store.add_labeler("robot", origin="simulated")
    store.add_batch("other", [NewTask(prompt="q3", completions=("a", "b"))])
    task = store.lease("robot", "other")
    store.submit("robot", Submission(task_id=task.id, client_id="r", ranks=(0, 1)))
    everything = {("zoe", "q1"), ("yan", "q1"), ("zoe", "q2"), ("robot", "q3")}
    assert labels_in(store, tmp_path) == everything
    assert labels_in(store, tmp_path, batch="other") == {("robot", "q3")}
    assert labels_in(store, tmp_path, include_simulated=False) == everything - {("robot", "q3")}
    assert labels_in(store, tmp_path, labelers=("zoe",)) == {("zoe", "q1"), ("zoe", "q2")}
    with pytest.raises(InputError, match="no rankings"):
        labels_in(store, tmp_path, until=1.0)
    assert labels_in(store, tmp_path, since=1.0) == everything


def test_minimum_agreement_keeps_tasks_whose_labelers_agree(store, tmp_path):
    agreed = [
        Ranking(prompt="same", completions=("a", "b"), ranks=(0, 1), labeler=name) for name in ("zoe", "yan")
    ]
    put(store, [*RANKINGS, *agreed])
    assert labels_in(store, tmp_path, min_agreement=0.9) == {("zoe", "same"), ("yan", "same")}
    assert len(labels_in(store, tmp_path, min_agreement=0.0)) == 4  # q2 has one labeler and so no agreement


def test_a_verdict_takes_the_place_of_the_answers_when_asked(store, tmp_path):
    put(store)
    store.add_labeler("lea", role="lead")
    adjudicate(store.database, "lea", Submission(task_id=1, client_id="v", ranks=(1, 0, 2)))
    assert labels_in(store, tmp_path) == {("zoe", "q1"), ("yan", "q1"), ("zoe", "q2")}
    assert labels_in(store, tmp_path, adjudicated=True) == {("lea", "q1"), ("zoe", "q2")}
    snapshot = store.snapshot(choice=Choice(adjudicated=True))
    assert [r.ranks for r in store.rankings(snapshot=snapshot.id)] == [(1, 0), (1, 0, 2)]


# Other tools' files; the fixtures follow their documentation.

TREE = {"message_tree_id": "t", "prompt": {"message_id": "1", "role": "prompter", "text": "Hello", "replies": [
    {"message_id": "2", "role": "assistant", "text": "Good day", "rank": 1, "replies": []},
    {"message_id": "3", "role": "assistant", "text": "Hi!", "rank": 0, "replies": [
        {"message_id": "4", "role": "prompter", "text": "More", "replies": [
            {"message_id": "5", "role": "assistant", "text": "x", "rank": 0, "replies": []},
            {"message_id": "6", "role": "assistant", "text": "y", "rank": 2, "replies": []},
            {"message_id": "7", "role": "assistant", "text": "z", "rank": 1, "replies": []},
            {"message_id": "8", "role": "assistant", "text": "gone", "rank": 3, "deleted": True, "replies": []}]}]},
    {"message_id": "9", "role": "assistant", "text": "unranked", "rank": None, "replies": []}]}}  # fmt: skip
TREE_RANKINGS = [
    ([{"role": "user", "content": "Hello"}], ("Good day", "Hi!"), (1, 0)),
    ([{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi!"},
      {"role": "user", "content": "More"}], ("x", "y", "z"), (0, 2, 1)),
]  # fmt: skip


def flattened(node, parent=None):
    yield {key: value for key, value in node.items() if key != "replies"} | {"parent_id": parent}
    for reply in node["replies"]:
        yield from flattened(reply, node["message_id"])


@pytest.mark.parametrize("rows", [[TREE], list(flattened(TREE["prompt"]))], ids=["nested", "flat"])
def test_openassistant_trees_are_read(tmp_path, rows):
    found = read_labels(write(tmp_path / "trees.jsonl", *rows))
    assert [(r.prompt, r.completions, r.ranks) for r in found] == TREE_RANKINGS


def label_studio_task(selected, who, cancelled=False):
    result = [{"id": "x", "type": "pairwise", "from_name": "pw", "to_name": "answer1,answer2",
               "value": {"selected": selected}}]  # fmt: skip
    return {"id": who, "completed_by": who, "was_cancelled": cancelled, "lead_time": 4.2, "result": result}


def test_a_label_studio_pairwise_export_is_read(tmp_path):
    data = {"prompt": "Who?", "answer1": "Me.", "answer2": "You."}
    annotations = [
        label_studio_task("left", 1),
        label_studio_task("right", 2),
        label_studio_task("left", 3, True),
    ]
    (tmp_path / "export.json").write_text(json.dumps([{"id": 1, "data": data, "annotations": annotations}]))
    found = read_labels(tmp_path / "export.json")
    assert [(r.prompt, r.completions, r.ranks, r.labeler) for r in found] == [
        ("Who?", ("Me.", "You."), (0, 1), "label-studio 1"),
        ("Who?", ("Me.", "You."), (1, 0), "label-studio 2"),
    ]


def test_a_label_studio_ranker_export_is_read(tmp_path):
    data = {
        "prompt": "Who?",
        "items": [{"id": "a", "title": "1", "body": "Me."}, {"id": "b", "body": "You."}],
    }
    result = [
        {"type": "ranker", "from_name": "rank", "to_name": "items", "value": {"ranker": {"rank": ["b", "a"]}}}
    ]
    task = {
        "data": data,
        "annotations": [{"completed_by": {"id": 7, "email": "p@example.org"}, "result": result}],
    }
    (tmp_path / "export.json").write_text(json.dumps([task]))
    (found,) = read_labels(tmp_path / "export.json")
    assert (found.completions, found.ranks, found.labeler) == (
        ("Me.", "You."),
        (1, 0),
        "label-studio p@example.org",
    )


FIELDS = {"prompt": "Who?", "response-1": "Me.", "response-2": "You.", "response-3": "They."}
RANKED = ("Me.", "You.", "They."), (1, 0, 2)
ARGILLA = {
    "records.to_json": {"id": "1", "fields": FIELDS, "suggestions": {}, "status": "completed", "responses": {
        "ranking": [{"value": ["response-2", "response-1", "response-3"], "user_id": "u1"}],
        "why": [{"value": "because", "user_id": "u1"}]}},
    "to_list flattened": {**FIELDS, "id": "1", "ranking.responses": [["response-2", "response-1", "response-3"], ["x"]],
        "ranking.responses.users": ["u1", "u2"], "ranking.responses.status": ["submitted", "discarded"]},
    "FeedbackDataset": {**FIELDS, "ranking": [{"user_id": "u1", "status": "submitted", "value": [
        {"value": "response-1", "rank": 1}, {"value": "response-2", "rank": 0}, {"value": "response-3", "rank": 2}]}]},
}  # fmt: skip


@pytest.mark.parametrize("kind", ARGILLA)
def test_an_argilla_export_is_read(tmp_path, kind):
    (found,) = read_labels(write(tmp_path / "records.jsonl", ARGILLA[kind]))
    by_text = dict(zip(found.completions, found.ranks, strict=True))
    assert by_text == dict(zip(*RANKED, strict=True))
    assert (found.prompt, found.labeler) == ("Who?", "argilla u1")


def test_argillas_choice_of_the_best_is_read(tmp_path):
    row = {"id": "1", "fields": {"instruction": "Who?", "left": "Me.", "right": "You."},
           "responses": {"best": [{"value": "right", "user_id": "u"}]}}  # fmt: skip
    (found,) = read_labels(write(tmp_path / "records.jsonl", row))
    assert (found.completions, found.ranks) == (("Me.", "You."), (1, 0))


TRL = [
    {"prompt": "q", "chosen": "a", "rejected": "b"},
    {"prompt": [{"role": "user", "content": "q"}], "chosen": [{"role": "assistant", "content": "a"}],
     "rejected": [{"role": "assistant", "content": "b"}]},
    {"chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
     "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "b"}]},
    {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"},
]  # fmt: skip


@pytest.mark.parametrize("row", TRL, ids=["plain", "conversational", "implicit prompt", "HH"])
def test_trl_preference_sets_and_hh_are_read(tmp_path, row):
    (found,) = read_labels(write(tmp_path / "pairs.jsonl", row))
    assert (found.completions, found.ranks) == (("a", "b"), (0, 1))


BAD = {
    "not JSON": "{",
    "missing": {"prompt": "q", "chosen": "a"},
    "between 2 and 9": {"prompt": "q", "completions": list("abcdefghij"), "ranks": list(range(10))},
    "NUL": {"prompt": "q", "chosen": "a\x00", "rejected": "b"},
    "a rank of -1": {"prompt": "q", "completions": ["a", "b"], "ranks": [0, -1]},
    "ranks are whole numbers below": {"prompt": "q", "completions": ["a", "b"], "ranks": [0, 10**20]},
    "whole numbers": {"prompt": "q", "completions": ["a", "b"], "ranks": ["0", 1.5]},
    "no prompt": {"id": 1, "fields": {"a": "x", "b": "y"}, "responses": {"r": [{"value": ["a", "b"]}]}},
}


@pytest.mark.parametrize("reason", BAD)
def test_a_malformed_row_is_named_by_line_and_skipped_on_request(tmp_path, reason):
    bad = BAD[reason] if isinstance(BAD[reason], str) else json.dumps(BAD[reason])
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{json.dumps(TRL[0])}\n\n{bad}\n{json.dumps(TRL[1])}\n")
    with pytest.raises(InputError, match=rf"rows\.jsonl:3: .*{reason}"):
        read_labels(path)
    assert len(read_labels(path, skip_bad_rows=True)) == 2


def test_simulated_labelers_finish_a_batch_like_people(store):
    items = take_items("train", 40, 1)
    tasks = [
        NewTask(
            prompt=item.prompt, completions=(item.answer, "I do not care about that."), ended=(True, True)
        )
        for item in items
    ]
    store.add_batch("round", tasks, overlap=3)
    given = simulate(store, "round", {item.prompt: item for item in items}, seed=2)
    assert given == 120 and store.progress("round").finished == 40
    assert {row["origin"] for row in store.labelers() if row["answers"]} == {"simulated"}
    assert sum(ranking.ranks[0] < ranking.ranks[1] for ranking in store.rankings()) > 100
    assert simulate(store, "round", {item.prompt: item for item in items}, seed=2) == 0
    assert check(store.database) == []


def test_simulated_labelers_refuse_what_they_cannot_judge(store):
    put(store, keep_ranks=False)
    with pytest.raises(LabelError, match="let people rank"):
        simulate(store, "batch", {}, seed=1)
