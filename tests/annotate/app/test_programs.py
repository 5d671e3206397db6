"""A whole round as a script: gradio_client makes a batch and accounts, labels, decides, looks at figures and downloads."""

import base64
import io
import json
import zipfile

import pyarrow.parquet
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

from annotate.labels import LabelStore
from annotate.store.accounts import add_account, add_token
from annotate.work.batches import batch_settings
from tests.browser.conftest import PASSWORD, Server

TASKS = [{"prompt": f"q{i}", "completions": ["good", "bad"], "checkpoints": ["a", "b"]} for i in range(3)]


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    """The running app, and `program(name)`: gradio_client with that account's token."""
    with LabelStore(tmp_path_factory.mktemp("programs") / "labels.db") as store:
        add_account(store.database, "lea", PASSWORD, "lead")
        server = Server(store.database.engine.url.database)
        server.wait_for_gradio(add_token(store.database, "lea", "ready"))
        yield store, lambda token: client(server, token)
        server.kill()


def client(server, token):
    return Client(f"{server.url}/label/", headers={"Authorization": f"Bearer {token}"}, verbose=False)


def test_a_round_is_made_labeled_and_downloaded_by_a_script(app):
    store, program = app
    lea = program(add_token(store.database, "lea", "script"))
    made = lea.predict({"name": "round", "tasks": TASKS, "overlap": 2}, api_name="/create_batch")
    assert made == {"batch": "round", "tasks": 3}
    people = lea.predict(["ann", "ben"], True, api_name="/add_labelers")
    assert [one["name"] for one in people] == ["ann", "ben"] and all(
        len(one["password"]) > 8 for one in people
    )
    labelers = [program(one["token"]) for one in people]
    for labeler in labelers:
        while task := labeler.predict("round", api_name="/lease")["task"]:
            assert task["messages"][-1]["content"].startswith("q")
            ranks = [["good", "bad"].index(text) for text in task["texts"]]
            answer = {"client_id": task["client_id"], "kind": "rank", "ranks": ranks}
            stored = labeler.predict(task["id"], answer, api_name="/submit")
            assert stored["repeated"] is False
            assert labeler.predict(task["id"], answer, api_name="/submit") == {**stored, "repeated": True}
    progress = labelers[0].predict("round", api_name="/progress")
    assert progress["own"]["answers"] == 3 and progress["finished"] == progress["tasks"] == 3
    assert [row["answers"] for row in lea.predict(api_name="/batches")] == [6]
    exported = lea.predict("round", "rankings", api_name="/export")
    rows = [json.loads(line) for line in exported["jsonl"].splitlines()]
    assert len(rows) == exported["rows"] == 6 and len(exported["snapshot"]) == 16
    for row in rows:
        best = row["completions"][row["ranks"].index(0)]
        assert best == "good" and row["labeler"] in ("ann", "ben")


def test_a_lead_does_everything_else_as_a_script_too(app):
    store, program = app
    lea = program(add_token(store.database, "lea", "script"))

    def ask(name, *given, **named):
        return lea.predict(*given, api_name=f"/{name}", **named)

    rows = [{"question": f"q{i}", "good": "yes", "bad": "no"} for i in range(2)]
    read = {"name": "file", "overlap": 2, "gold_every": 1, "map": "prompt=question,chosen=good,rejected=bad"}
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    assert ask("import_batch", read, "mine.jsonl", lines) == {"batch": "file", "tasks": 2, "answers": 0}
    with pytest.raises(AppError, match=r"mine\.jsonl:1"):
        ask("import_batch", {"name": "broken"}, "mine.jsonl", '{"x": 1}\n')
    with pytest.raises(AppError, match="not base64"):
        ask("import_batch", {"name": "broken"}, "mine.parquet", "no such!")
    assert ask("change_batch", "file", {"guidelines": "Be fair.", "quota": 5}) is True
    settings = batch_settings(store.database, "file")
    assert (settings.guidelines, settings.quota) == ("Be fair.", 5)
    gold = [{"prompt": "2 + 2?", "completions": ["4", "5"], "ranks": [0, 1]}]
    assert ask("add_gold", "file", gold) == 1
    people = ask("add_labelers", ["dan", "eve"], True)
    for person, ranks in zip(people, ([0, 1], [1, 0]), strict=True):
        labeler = program(person["token"])
        while task := labeler.predict("file", api_name="/lease")["task"]:
            order = [ranks[sorted(task["texts"], reverse=True).index(text)] for text in task["texts"]]
            answer = {"client_id": task["client_id"], "kind": "rank", "ranks": order}
            labeler.predict(task["id"], answer, api_name="/submit")
    found = ask("figures", "file")
    assert {row[0]: row[1] for row in found["gold"]["rows"]} == {"dan": 0.0, "eve": 1.0}
    (agreement,) = found["agreement"]["rows"]
    assert agreement[found["agreement"]["columns"].index("agreement")] == 0.0
    worst = ask("disagreements", "file")["disagreements"][0]
    assert worst["share"] == 1.0 and {given["labeler"] for given in worst["answers"]} == {"dan", "eve"}
    verdict = {
        "client_id": worst["client_id"],
        "kind": worst["task"]["kind"],
        "ranks": [0, 1],
        "comment": "so",
    }
    assert ask("adjudicate", worst["task"]["id"], verdict)["id"] > 0
    assert ask("disagreements", "file")["disagreements"][-1]["adjudicated"]["by"] == "lea"

    assert ask("change_labeler", "dan", active=False) == {"name": "dan"}
    assert {row["name"]: row["active"] for row in ask("labelers")}["dan"] is False
    with pytest.raises(Exception, match="not provided"):
        program(people[0]["token"])
    assert len(ask("change_labeler", "dan", active=True, new_password=True)["password"]) > 8
    for name, said in (("lea", "nobody their own"), ("nobody", "there is none")):
        with pytest.raises(AppError, match=said):
            ask("change_labeler", name, active=False)

    for format, rows in (("rankings", 4), ("pairs", 4)):
        exported = ask("export", "file", format)
        assert len(exported["jsonl"].splitlines()) == exported["rows"] == rows
    decided = ask("export", "file", adjudicated=True, labelers=["eve"])["jsonl"].splitlines()
    assert [json.loads(row)["adjudicated"] for row in decided].count(True) == 1
    assert ask("export", "file", file="csv")["csv"].startswith("prompt,completions,ranks,labeler")
    parquet = io.BytesIO(base64.b64decode(ask("export", "file", "pairs", "parquet")["parquet"]))
    assert pyarrow.parquet.read_table(parquet).num_rows == 4
    zipped = ask("export", "file", file="zip")
    assert zipped["name"] == "file-rankings.zip"
    assert zipfile.ZipFile(io.BytesIO(base64.b64decode(zipped["zip"]))).namelist()
    for given, said in (
        ({"file": "xlsx"}, "choose one of jsonl, csv, parquet, zip"),
        ({"since": "tomorrow"}, "tomorrow is no day"),
        ({"until": "2001-01-01"}, "no rankings to export"),
        ({"min_agreement": 2.0}, "give a share from 0 to 1"),
    ):
        with pytest.raises(AppError, match=said):
            ask("export", "file", **given)


def test_what_a_labelers_program_may_not_do_is_refused_in_one_line(app):
    store, program = app
    add_account(store.database, "cleo", PASSWORD)
    cleo = program(add_token(store.database, "cleo", "script"))
    for call in (
        lambda: cleo.predict({"name": "mine", "tasks": TASKS}, api_name="/create_batch"),
        lambda: cleo.predict(["dora"], False, api_name="/add_labelers"),
        lambda: cleo.predict("round", "rankings", api_name="/export"),
        lambda: cleo.predict("cleo", active=True, api_name="/change_labeler"),
        lambda: cleo.predict(api_name="/labelers"),
        lambda: cleo.predict("round", api_name="/figures"),
        lambda: cleo.predict("round", [], api_name="/add_gold"),
        lambda: cleo.predict(1, {}, api_name="/adjudicate"),
    ):
        with pytest.raises(AppError, match="this needs the role lead"):
            call()
    with pytest.raises(AppError, match="not a task of yours"):
        answer = {"client_id": "1", "kind": "rank", "ranks": [0, 1]}
        cleo.predict(1, answer, api_name="/submit")
    with pytest.raises(AppError, match="kind"):
        cleo.predict(1, {"client_id": "1"}, api_name="/submit")
    assert "mine" not in store.batches()


def test_without_a_token_there_is_nothing(app):
    with pytest.raises(Exception, match="not provided"):
        app[1]("rlhf_unknown")
