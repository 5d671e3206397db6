"""Why there is no task, how long a place is held whatever clocks say, and what a labeler's own numbers tell."""

import itertools

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from annotate.answers.choice import Choice
from annotate.app.server import create_app
from annotate.app.settings import AppSettings
from annotate.figures.dashboard import fast_decisions, labeler_times
from annotate.labels import LabelStore, NewTask, Submission
from annotate.store import accounts
from annotate.work.assign import reason_without_task
from annotate.work.history import own_progress
from rlhf.errors import LabelError

YEAR_S = 365 * 86400


def ranked(task, client_id, ranks=(0, 1), **more):
    return Submission(task_id=task.id, client_id=client_id, ranks=ranks, **more)


def test_what_others_hold_is_not_done(store):
    store.add_batch("one", [NewTask(prompt="q", completions=("a", "b"))])
    task = store.lease("ann", "one")
    assert store.lease("bob", "one") is None
    assert reason_without_task(store.database, "bob", "one") == "busy"
    store.release("ann", task.id)
    assert reason_without_task(store.database, "bob", "one") == ""
    store.submit("ann", ranked(task, "1"))
    assert reason_without_task(store.database, "bob", "one") == "done"


def test_nobody_waits_for_what_they_have_answered_or_skipped_themselves(store):
    store.add_batch("two", [NewTask(prompt=f"q{i}", completions=("a", "b")) for i in range(2)], overlap=2)
    store.submit("ann", ranked(store.lease("ann", "two"), "1"))
    store.submit("ann", ranked(store.lease("ann", "two"), "2", kind="skip", ranks=()))
    store.lease("bob", "two")
    assert reason_without_task(store.database, "ann", "two") == "done"


def test_a_place_given_while_the_clock_was_a_year_ahead_is_free_when_it_is_right(store):
    store.add_batch("one", [NewTask(prompt="q", completions=("a", "b"))])
    task = store.lease("ann", "one")
    with store.database.write() as connection:
        connection.execute(
            text(f"UPDATE lease SET expires = expires + {YEAR_S}, created = created + {YEAR_S}")
        )
    assert store.lease("bob", "one").id == task.id
    store.submit("bob", ranked(task, "bob", time_s=900.0))
    store.submit("ann", ranked(task, "ann", time_s=900.0))  # kept all the same
    assert fast_decisions(store.database, Choice(batch="one", labelers=("ann",))) == []
    with pytest.raises(LabelError, match="1440 at most"):
        store.lease("ann", "one", minutes=1441)


def test_guesses_of_a_time_that_has_not_come_shut_nobody_out(store, monkeypatch):
    accounts.add_account(store.database, "dora", "correct horse")
    monkeypatch.setattr(accounts, "_verified", lambda row, password: password == "correct horse")
    for _ in range(accounts.FAILURES_PER_NAME):
        with pytest.raises(accounts.LoginRefused):
            accounts.log_in(store.database, "dora", "wrong", "10.0.0.1")
    with pytest.raises(accounts.LoginRefused, match="too many"):
        accounts.log_in(store.database, "dora", "correct horse", "10.0.0.1")
    with store.database.write() as connection:
        connection.execute(text(f"UPDATE login_failure SET created = created + {YEAR_S}"))
    assert accounts.log_in(store.database, "dora", "correct horse", "10.0.0.1")


def test_a_task_taken_up_again_began_when_it_was_first_given(store):
    store.add_batch("long", [NewTask(prompt="p", completions=("x" * 2000, "y" * 2000))])
    first = store.lease("ann", "long")
    with store.database.write() as connection:  # two hours later, the place is long over
        connection.execute(text("UPDATE lease SET expires = expires - 7200, created = created - 7200"))
    again = store.lease("ann", "long")
    assert again.started == pytest.approx(first.started - 7200)
    store.submit("ann", ranked(again, "1", time_s=903.0))
    choice = Choice(batch="long")
    assert fast_decisions(store.database, choice) == []
    assert labeler_times(store.database, choice)["ann"].median_s == 903


@pytest.fixture
def golden(tmp_path):
    """A client of ann's, and whether a task is a gold question."""
    with LabelStore(tmp_path / "labels.db") as store:
        accounts.add_account(store.database, "ann", None)
        client = TestClient(create_app(store, AppSettings()), base_url="http://localhost")
        client.headers["Authorization"] = f"Bearer {accounts.add_token(store.database, 'ann', 'test')}"
        client.store = store
        yield client


@pytest.mark.parametrize(("quota", "given"), [(3, 3), (0, 12)])
def test_no_number_that_a_labeler_sees_tells_gold_questions_apart(golden, quota, given):
    tasks = [NewTask(prompt=f"p{i}", completions=("a", "b")) for i in range(6)]
    gold = [NewTask(prompt=f"g{i}", completions=("a", "b"), gold=(0, 1)) for i in range(6)]
    golden.store.add_batch("mixed", [*tasks, *gold], quota=quota, gold_every=2)

    def numbers():
        shown = golden.get("/api/progress?batch=mixed").json()
        (listed,) = golden.get("/api/batches").json()["batches"] or [shown]
        assert {name: listed[name] for name in shown} == shown
        return shown

    seen = [numbers()]
    while task := golden.post("/api/next?batch=mixed").json()["task"]:
        said = {"client_id": task["client_id"], "kind": "rank", "ranks": [0, 1]}
        golden.post(f"/api/tasks/{task['id']}/answers", json=said)
        seen.append(numbers())
    assert seen[-1]["own"]["answers"] == given
    assert 0 < own_progress(golden.store.database, "ann", "mixed").gold < given
    for before, after in itertools.pairwise(seen[:-1]):
        assert after["tasks"] == before["tasks"] == 12
        assert after["finished"] - before["finished"] == 1
        assert after["own"]["answers"] - before["own"]["answers"] == 1
        assert not quota or before["own"]["left"] - after["own"]["left"] == 1
    assert seen[-1]["own"]["left"] == (0 if quota else None)
