"""What a batch asks of its labelers besides the order: kept by the store, whatever page or program sends the answer."""

import pytest

from annotate.answers.choice import Choice
from annotate.answers.export import export
from annotate.answers.foreign import read_labels
from annotate.answers.importing import import_rankings
from annotate.labels import Asks, BatchSettings, NewTask, Submission
from annotate.work.batches import batch_settings, change_batch
from annotate.work.history import history
from rlhf.errors import LabelError

TASK = NewTask(prompt="q", completions=("a", "b", "c"))


def answer(store, name, batch="b", **said):
    task = store.lease(name, batch)
    given = {"kind": "rank", "ranks": (0, 1, 2)} | said
    return store.submit(name, Submission(task_id=task.id, client_id=f"{name}-{task.id}", **given))


def test_fixed_answers_are_shown_as_stored_and_random_ones_to_each_in_an_order_of_their_own(store):
    for name, order in (("fixed", "fixed"), ("random", "random")):
        store.add_batch(name, [TASK] * 20, overlap=3, asks=Asks(shown_order=order))
    orders = {
        name: {task.shown_order for who in ("ann", "bob") for task in store.lease_many(who, 20, name)}
        for name in ("fixed", "random")
    }
    assert orders["fixed"] == {(0, 1, 2)} and len(orders["random"]) > 1
    with pytest.raises(LabelError, match="shown_order cannot be changed; drafts are kept in it"):
        change_batch(store.database, "fixed", shown_order="random")


def test_a_batch_whose_tasks_may_not_be_skipped_takes_no_skip(store):
    store.add_batch("b", [TASK], asks=Asks(may_skip=False))
    with pytest.raises(LabelError, match="may not be skipped"):
        answer(store, "ann", kind="skip", ranks=())
    answer(store, "ann")


@pytest.mark.parametrize(("ratings", "comment", "taken"), [
    ((3, 5, None), "", False), ((3, 5, None), "  ", False), ((3, 5, None), "rude", True), ((4, 7, None), "", True),
])  # fmt: skip
def test_a_rating_below_the_batchs_limit_owes_a_comment(store, ratings, comment, taken):
    store.add_batch("b", [TASK], asks=Asks(ratings=True, comment_below=4))
    if taken:
        answer(store, "ann", ratings=ratings, comment=comment)
        return
    with pytest.raises(LabelError, match="below 4 needs a comment"):
        answer(store, "ann", ratings=ratings, comment=comment)
    assert history(store.database, "ann") == []


def test_what_a_batch_asks_is_changed_one_thing_at_a_time(store):
    store.add_batch("b", [TASK], asks=Asks(ratings=True, flags=("opinion",), shown_order="fixed", scale=5))
    change_batch(store.database, "b", may_skip=False, quota=3)
    change_batch(store.database, "b", comment_below=2)
    change_batch(store.database, "b", show_progress=False)
    settings = batch_settings(store.database, "b")
    wanted = Asks(
        ratings=True, flags=("opinion",), shown_order="fixed", scale=5, may_skip=False, comment_below=2, show_progress=False
    )  # fmt: skip
    assert (settings.asks, settings.quota) == (wanted, 3)
    for refused in (
        {"comment_below": 6},
        {"scale": 7},
        {"comment": False},
        {"flags": ("x",)},
        {"kind": "rate"},
    ):
        with pytest.raises(LabelError, match="batch b: "):
            change_batch(store.database, "b", quota=9, **refused)
    assert batch_settings(store.database, "b") == settings
    with pytest.raises(LabelError, match="may not be skipped"):
        answer(store, "ann", kind="skip", ranks=())


def test_changes_made_at_the_same_time_are_all_kept(store):
    from concurrent.futures import ThreadPoolExecutor

    store.add_batch("b", [TASK], asks=Asks(ratings=True))
    changes = [{"may_skip": False}, {"show_progress": False}, {"comment_below": 3}, {"none_acceptable": True}]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda change: change_batch(store.database, "b", **change), changes))
    asks = batch_settings(store.database, "b").asks
    assert [getattr(asks, name) for change in changes for name in change] == [False, False, 3, True]


@pytest.mark.parametrize("asks", [
    {"comment_below": 3}, {"comment_below": 8, "ratings": True}, {"comment_below": 3, "ratings": True, "comment": False},
    {"shown_order": "sorted"},
])  # fmt: skip
def test_settings_that_mean_nothing_are_refused(store, asks):
    with pytest.raises(LabelError, match="batch b: "):
        store.add_batch("b", [TASK], asks=Asks(**asks))


def test_a_batch_of_an_earlier_version_asks_as_it_did(store):
    from sqlalchemy import update

    from annotate.store.schema import Batch

    store.add_batch("b", [TASK])
    with store.database.write() as connection:
        connection.execute(update(Batch).values(asks={"ratings": True, "flags": []}))
    asks = batch_settings(store.database, "b").asks
    assert (asks.ratings, asks.may_skip, asks.show_progress, asks.comment_below) == (True, True, True, 0)


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_fields_go_through_history_export_and_import(store, tmp_path, ending):
    fields = {"domain": 'code, "mostly"', "sure": True, "topics": ["a", "b"], "level": 3}
    store.add_batch("b", [TASK])
    answer(store, "ann", fields=fields)
    assert history(store.database, "ann")[0].fields == fields
    file = tmp_path / f"labels.{ending}"
    export(store.database, file, "rankings", Choice(batch="b"))
    import_rankings(store.database, BatchSettings(name="again"), read_labels(file))
    again = [past for past in history(store.database, "ann") if past.task.batch == "again"]
    assert [past.fields for past in again] == [fields]
