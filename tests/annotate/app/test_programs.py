"""A whole round as a script: gradio_client makes a batch and accounts, labels, looks at the progress and downloads."""

import json

import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

from annotate.labels import LabelStore
from annotate.store.accounts import add_account, add_token
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


def test_what_a_labelers_program_may_not_do_is_refused_in_one_line(app):
    store, program = app
    add_account(store.database, "cleo", PASSWORD)
    cleo = program(add_token(store.database, "cleo", "script"))
    for call in (
        lambda: cleo.predict({"name": "mine", "tasks": TASKS}, api_name="/create_batch"),
        lambda: cleo.predict(["dora"], False, api_name="/add_labelers"),
        lambda: cleo.predict("round", "rankings", api_name="/export"),
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
