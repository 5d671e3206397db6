"""The label store: one place to one person, every answer once, nothing overwritten."""

import threading
import time

import pytest
from sqlalchemy import text

from annotate.answers.choice import Choice
from annotate.labels import NewTask
from annotate.store.backup import check
from annotate.work.submit import Submission
from rlhf.errors import LabelError

TASKS = [
    NewTask(prompt=f"question {i}", completions=("a", "b", "c"), ended=(True, False, None)) for i in range(4)
]


@pytest.fixture
def store(store):
    store.add_batch("round", TASKS)
    return store


def answer(task, client_id="c1", **more):
    return Submission(**{"task_id": task.id, "client_id": client_id, "ranks": (0, 1, 1)} | more)


def test_a_ranking_comes_back_as_it_was_given(store):
    task = store.lease("ann")
    assert task.completions == ("a", "b", "c") and task.ended == (True, False, None)
    store.submit(
        "ann", answer(task, ratings=(7, None, 1), flags=(("opinion",), (), ()), shown_order=(2, 0, 1))
    )
    (ranking,) = store.rankings()
    assert (ranking.prompt, ranking.completions, ranking.ranks) == (task.prompt, ("a", "b", "c"), (0, 1, 1))
    assert (ranking.labeler, ranking.ratings, ranking.flags) == ("ann", (7, None, 1), (("opinion",), (), ()))


def test_conversations_and_hostile_text_are_kept_as_they_are(store):
    prompt = [{"role": "user", "content": "<script>alert(1)</script> {{7*7}} \u202e ${x}"}]
    long = "ä" * 1_000_000
    store.add_batch("hostile", [NewTask(prompt=prompt, completions=(long, "'; DROP TABLE task; --"))])
    task = store.lease("ann", "hostile")
    assert task.prompt == prompt and task.completions == (long, "'; DROP TABLE task; --")
    with pytest.raises(LabelError, match="NUL"):
        store.add_batch("nul", [NewTask(prompt="x\x00", completions=("a", "b"))])
    assert "nul" not in store.batches()


def test_a_place_goes_to_one_labeler_and_comes_back_when_it_expires(store):
    store.add_batch("one", TASKS[:1])
    task = store.lease("ann", "one")
    assert store.lease("bob", "one") is None
    assert store.lease("ann", "one").id == task.id
    with store.database.write() as connection:
        connection.execute(text("UPDATE lease SET expires = 1"))
    assert store.lease("bob", "one").id == task.id


def test_a_late_answer_is_kept_and_marked(store):
    task = store.lease("ann", minutes=0.0001)
    time.sleep(0.05)
    number = store.submit("ann", answer(task))
    with store.database.read() as connection:
        assert connection.execute(text(f"SELECT late FROM annotation WHERE id = {number}")).scalar() in (
            1,
            True,
        )
    assert len(store.rankings()) == 1


def test_the_same_client_id_is_one_answer(store):
    task = store.lease("ann")
    first = store.submit("ann", answer(task))
    assert store.submit("ann", answer(task, time_s=3.0)) == first
    with pytest.raises(LabelError, match="another answer was kept"):
        store.submit("ann", answer(task, ranks=(2, 1, 0)))
    assert [ranking.ranks for ranking in store.rankings()] == [(0, 1, 1)]
    with pytest.raises(LabelError, match="another labeler"):
        store.submit("bob", answer(task))


def test_an_edit_supersedes_and_a_snapshot_stays(store):
    task = store.lease("ann")
    store.submit("ann", answer(task))
    snapshot = store.snapshot()
    store.submit("ann", answer(task, "c2", ranks=(2, 1, 0)))
    assert [ranking.ranks for ranking in store.rankings()] == [(2, 1, 0)]
    assert [ranking.ranks for ranking in store.rankings(snapshot=snapshot.id)] == [(0, 1, 1)]
    assert store.snapshot().id != snapshot.id
    assert store.progress("round").answers == 1


def test_overlap_gives_a_task_to_several_people_once_each(store):
    store.add_batch("double", TASKS[:1], overlap=2)
    for name in ("ann", "bob"):
        store.submit(name, answer(store.lease(name, "double"), name))
        assert store.lease(name, "double") is None
    assert store.lease("cleo", "double") is None
    assert store.progress("double").finished == 1


def test_a_skip_leaves_the_place_to_others(store):
    store.add_batch("one", TASKS[:1])
    store.submit("ann", answer(store.lease("ann", "one"), kind="skip", ranks=()))
    assert store.lease("ann", "one") is None
    assert store.lease("bob", "one") is not None


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"ranks": (0, 1)}, "2 ranks for 3 answers"),
        ({"ranks": (0, -1, 1)}, "a rank of -1"),
        ({"ranks": (0, 10**20, 1)}, "a rank of 1000"),
        ({"ratings": (8, 1, 1)}, "1 to 7"),
        ({"kind": "maybe"}, "no kind of answer"),
        ({"task_id": 999}, "no such task"),
        ({"kind": "demonstrate", "ranks": (), "demonstration": "x"}, "wants rank"),
        ({"shown_order": (0, 0, 1)}, "each of 3 answers once"),
        ({"flags": (("rude",), (), ())}, "no flag named rude"),
        ({"strength": 2}, "between two answers"),
        ({"time_s": float("nan")}, "no time"),
    ],
)
def test_an_answer_that_does_not_fit_writes_nothing(store, more, reason):
    with pytest.raises(LabelError, match=reason):
        store.submit("ann", answer(store.lease("ann"), **more))
    assert store.rankings() == []


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        (NewTask(prompt=[], completions=("a", "b")), "task 2: the prompt has no message"),
        (NewTask(prompt="q", completions=("a", "b"), priority=float("nan")), "task 2: a priority of nan"),
        (NewTask(prompt="q", completions=("a", "b"), priority=float("inf")), "task 2: a priority of inf"),
    ],
)
def test_a_task_that_cannot_be_shown_or_ordered_is_refused(store, task, reason):
    with pytest.raises(LabelError, match=reason):
        store.add_batch("odd", [TASKS[0], task])
    assert "odd" not in store.batches()


def test_demonstrations_come_back(store):
    store.add_batch("write", [NewTask(prompt="say hi", completions=())], kind="demonstrate")
    task = store.lease("ann", "write")
    store.submit("ann", answer(task, kind="demonstrate", ranks=(), demonstration="Hi."))
    (row,) = store.demonstrations()
    assert (row.prompt, row.completion) == ("say hi", "Hi.")


def test_threads_racing_for_places_and_double_clicking_get_each_once(store):
    store.add_batch("race", [NewTask(prompt=f"r{i}", completions=("a", "b")) for i in range(60)])
    names = [f"racer {i}" for i in range(6)]
    taken: list[int] = []

    def work(name):
        store.add_labeler(name)
        while task := store.lease(name, "race"):
            taken.append(task.id)
            for _ in range(2):
                store.submit(name, answer(task, f"{name}-{task.id}", ranks=(0, 1)))

    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(taken) == len(set(taken)) == 60
    assert len(store.rankings("race")) == 60
    assert check(store.database) == []


def test_people_can_be_told_from_simulated_labelers(store):
    store.add_labeler("robot", origin="simulated")
    for name in ("ann", "robot"):
        store.submit(name, answer(store.lease(name), name))
    assert {ranking.labeler for ranking in store.rankings()} == {"ann", "robot"}
    assert {ranking.labeler for ranking in store.rankings(include_simulated=False)} == {"ann"}
    assert store.snapshot(choice=Choice(include_simulated=False)).num_annotations == 1
