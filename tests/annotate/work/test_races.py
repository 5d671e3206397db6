"""People at once: one place to one person, every answer counted, every batch completed once. On both databases."""

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from sqlalchemy import text

from annotate.labels import LabelStore, NewTask, Submission
from annotate.store.backup import check
from annotate.work.batches import BatchSettings
from annotate.work.live import add_live_batch, claim_requests, fulfil_request
from annotate.work.webhooks import set_webhook

PEOPLE = [f"racer {i}" for i in range(8)]


@pytest.fixture
def stores(url):
    """One store per racer, as from several processes."""
    opened = [LabelStore(url) for _ in PEOPLE]
    for name in PEOPLE:
        opened[0].add_labeler(name)
    yield opened
    for store in opened:
        store.close()


def at_once(*calls):
    """Results of calls that start together."""
    barrier = threading.Barrier(len(calls))

    def run(call):
        barrier.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(run, call) for call in calls]]


def everybody(stores, call, *more):
    """Call (store, name, …) for every racer at once."""
    return at_once(*(partial(call, *given) for given in zip(stores, PEOPLE, *more, strict=True)))


def lease_all(stores, batch):
    return everybody(stores, lambda store, name: store.lease(name, batch))


def submit_all(stores, tasks, label):
    return everybody(
        stores,
        lambda store, name, task: store.submit(name, ranking(task, f"{label} {name} {task}")),
        tasks,
    )


def ranking(task, client_id, ranks=(0, 1)):
    return Submission(task_id=task, client_id=client_id, ranks=ranks)


def test_of_people_racing_for_the_last_place_one_wins(stores):
    for number in range(12):
        stores[0].add_batch(f"last {number}", [NewTask(prompt="q", completions=("a", "b"))])
        assert sum(task is not None for task in lease_all(stores, f"last {number}")) == 1


def test_the_others_get_the_next_task(stores):
    for number in range(6):
        tasks = [
            NewTask(prompt=f"q{i}", completions=("a", "b"), priority=float(i)) for i in range(len(PEOPLE))
        ]
        stores[0].add_batch(f"enough {number}", tasks, task_order="priority")
        got = [task.id for task in lease_all(stores, f"enough {number}")]
        assert len(set(got)) == len(PEOPLE)


def test_several_places_of_one_task_go_to_as_many_people(stores):
    for number in range(6):
        stores[0].add_batch(f"three {number}", [NewTask(prompt="q", completions=("a", "b"))], overlap=3)
        assert sum(task is not None for task in lease_all(stores, f"three {number}")) == 3


def test_answers_to_one_task_at_once_are_all_counted_and_complete_the_batch_once(stores):
    for number in range(6):
        batch = f"counted {number}"
        stores[0].add_batch(batch, [NewTask(prompt="q", completions=("a", "b"))], overlap=len(PEOPLE))
        set_webhook(stores[0].database, batch, "http://127.0.0.1:9/", "x" * 16)
        tasks = [task.id for task in lease_all(stores, batch)]
        submit_all(stores, tasks, batch)
        assert stores[0].progress(batch).answers == len(PEOPLE)
    with stores[0].database.read() as connection:
        notices = connection.execute(
            text("SELECT batch_id, count(*) FROM webhook_delivery GROUP BY batch_id")
        )
        assert [count for _, count in notices] == [1] * 6
    assert check(stores[0].database) == []


def test_the_last_two_tasks_finished_at_once_complete_the_batch(stores):
    for number in range(6):
        tasks = [NewTask(prompt=f"q{i}", completions=("a", "b")) for i in range(len(PEOPLE))]
        stores[0].add_batch(f"end {number}", tasks)
        set_webhook(stores[0].database, f"end {number}", "http://127.0.0.1:9/", "x" * 16)
        submit_all(stores, [task.id for task in lease_all(stores, f"end {number}")], str(number))
    with stores[0].database.read() as connection:
        assert connection.execute(text("SELECT count(*) FROM webhook_delivery")).scalar() == 6


def test_a_double_click_at_once_is_one_answer(stores):
    stores[0].add_batch("click", [NewTask(prompt=f"q{i}", completions=("a", "b")) for i in range(10)])
    while task := stores[0].lease(PEOPLE[0], "click"):
        click = ranking(task.id, f"click {task.id}")
        assert len(set(at_once(*(partial(store.submit, PEOPLE[0], click) for store in stores)))) == 1
    assert len(stores[0].rankings("click")) == 10 and check(stores[0].database) == []


def test_edits_in_two_tabs_at_once_leave_one_standing(stores):
    stores[0].add_batch("edit", [NewTask(prompt="q", completions=("a", "b"))])
    task = stores[0].lease(PEOPLE[0], "edit").id
    edits = (
        lambda store=store, i=i: store.submit(PEOPLE[0], ranking(task, f"edit {i}"))
        for i, store in enumerate(stores)
    )
    assert len(set(at_once(*edits))) == len(stores)
    assert len(stores[0].rankings("edit")) == 1 and check(stores[0].database) == []


def test_ten_tabs_of_one_person_show_one_task(stores):
    stores[0].add_batch("tabs", [NewTask(prompt=f"q{i}", completions=("a", "b")) for i in range(20)])
    tabs = (lambda store=store: store.lease(PEOPLE[0], "tabs").id for store in stores)
    assert len(set(at_once(*tabs))) == 1


def test_everybody_works_through_a_batch_without_a_wait_or_a_doubled_place(stores):
    tasks = [NewTask(prompt=f"q{i}", completions=("a", "b")) for i in range(40)]
    stores[0].add_batch("work", tasks, overlap=3, quota=30)

    def work(store, name):
        taken = 0
        while task := store.lease(name, "work"):
            store.submit(name, ranking(task.id, f"{name} {task.id}"))
            taken += 1
        return taken

    counts = everybody(stores, work)
    progress = stores[0].progress("work")
    assert sum(counts) == progress.answers == progress.wanted == 120 and max(counts) <= 30
    assert check(stores[0].database) == []


def test_samplers_share_the_work(stores):
    prompts = [f"q{i}" for i in range(20)]
    add_live_batch(stores[0].database, BatchSettings(name="live"), prompts, "ppo/1", k=2)
    with stores[0].database.write() as connection:
        connection.execute(text("UPDATE live_request SET state = 'wanted'"))
    shares = at_once(*(lambda store=store: claim_requests(store.database, 3) for store in stores))
    ids = [wanted.id for share in shares for wanted in share]
    assert len(ids) == len(set(ids)) == 20
    at_once(
        *(lambda store=store, i=i: fulfil_request(store.database, i, ["a", "b"], [True, True])
          for store in stores for i in ids[:1])
    )  # fmt: skip
    assert stores[0].progress("live").tasks == 1
