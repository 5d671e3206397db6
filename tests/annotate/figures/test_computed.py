"""Figures that take long: pages get older ones at once, and newer ones when answers have come."""

import threading

import pytest

from annotate.figures.computed import Computed
from annotate.labels import NewTask, Submission


@pytest.fixture
def computed(store):
    store.add_batch("b", [NewTask(prompt=f"q{i}", completions=("a", "b")) for i in range(9)])
    values = Computed(store.database)
    yield values
    values.close()


def answer(store):
    task = store.lease("ann", "b")
    store.submit("ann", Submission(task_id=task.id, client_id=str(task.id), ranks=(0, 1)))


def test_a_value_is_computed_once_until_an_answer_comes(store, computed):
    def count():
        calls.append(1)
        return len(store.rankings())

    calls = []
    answer(store)
    assert computed.current("k", count) == 1
    assert computed.current("k", count) == 1 and computed.soon("k", count).current
    assert len(calls) == 1
    answer(store)
    assert computed.current("k", count) == 2
    assert len(calls) == 2


def test_a_page_gets_the_older_value_with_its_time_while_the_newer_one_is_on_its_way(store, computed):
    may_end = threading.Event()

    def slow():
        assert may_end.wait(30)
        return len(store.rankings())

    first = computed.soon("k", slow, 0.01)
    assert first.value is None and not first.current
    may_end.set()
    assert computed.current("k", slow) == 0
    then = computed.soon("k", slow).at
    may_end.clear()
    answer(store)
    older = computed.soon("k", slow, 0.01)
    assert (older.value, older.at, older.current) == (0, then, False)
    may_end.set()
    assert computed.current("k", slow) == 1
    newer = computed.soon("k", slow)
    assert newer.value == 1 and newer.current and newer.at > then


def test_an_error_reaches_whoever_waits_and_the_next_one_tries_again(store, computed):
    with pytest.raises(ZeroDivisionError):
        computed.current("k", lambda: 1 / 0)
    assert computed.current("k", lambda: 5) == 5
