"""Drafts, history, edits, verdicts, quotas, order, accounts: what one person has and another does not see."""

import time
from dataclasses import replace

import argon2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotate.answers.adjudicate import adjudicate
from annotate.answers.ballots import ballots
from annotate.answers.choice import Choice
from annotate.answers.export import export
from annotate.figures.dashboard import gold_accuracy
from annotate.labels import LabelStore, NewTask, Submission
from annotate.store import accounts
from annotate.store.backup import check
from annotate.work import assign
from annotate.work.asks import Asks
from annotate.work.batches import batch_settings, change_batch, open_batches, overview
from annotate.work.drafts import save_draft
from annotate.work.history import history, own_progress, past_answer
from annotate.work.priority import open_tasks, set_priorities, uncertainty
from rlhf.errors import InputError, LabelError
from tests.annotate.conftest import draft_of

TASKS = [NewTask(prompt=f"question {i}", completions=("a", "b", "c")) for i in range(6)]


@pytest.fixture
def store(store):
    store.add_batch("round", TASKS)
    store.add_labeler("lea", role="lead")
    return store


def answer(task, client_id="c1", **more):
    return Submission(**{"task_id": task.id, "client_id": client_id, "ranks": (0, 1, 1)} | more)


# Drafts


def test_a_draft_survives_a_restart_and_goes_with_the_answer(store, url):
    task = store.lease("ann")
    so_far = {"ranks": [0, 1], "comment": "so\x00 far \ud800"}
    assert save_draft(store.database, "ann", task.id, so_far, 5).saved
    with LabelStore(url) as again:
        assert draft_of(again.database, "ann", task.id) == {
            "ranks": [0, 1],
            "comment": "so\ufffd far \ufffd",
        }
    store.submit("ann", answer(task))
    assert draft_of(store.database, "ann", task.id) is None


def test_a_late_save_does_not_undo_a_newer_one(store):
    task = store.lease("ann")
    assert save_draft(store.database, "ann", task.id, {"comment": "new"}, 20).saved
    assert not save_draft(store.database, "ann", task.id, {"comment": "old"}, 10).saved
    assert draft_of(store.database, "ann", task.id) == {"comment": "new"}


def test_drafts_are_ones_own_and_of_ones_own_tasks(store):
    task = store.lease("ann")
    save_draft(store.database, "ann", task.id, {"comment": "mine"}, 1)
    assert draft_of(store.database, "bob", task.id) is None
    for foreign in (task.id, 10**6):
        with pytest.raises(LabelError, match="not a task of yours"):
            save_draft(store.database, "bob", foreign, {}, 1)
    with pytest.raises(LabelError, match="too long"):
        save_draft(store.database, "ann", task.id, {"comment": "x" * 2_000_001}, 2)


# History, edits, verdicts


def test_history_is_ones_own_newest_first_in_pages(store):
    for number in range(4):
        store.submit("ann", answer(store.lease("ann"), f"a{number}", comment=str(number)))
    store.submit("bob", answer(store.lease("bob"), "b"))
    first = history(store.database, "ann", limit=3)
    assert [past.comment for past in first] == ["3", "2", "1"]
    assert [past.comment for past in history(store.database, "ann", before=first[-1].id)] == ["0"]
    assert first[0].ranks == (0, 1, 1) and first[0].task.completions == ("a", "b", "c")
    with pytest.raises(LabelError, match="no such answer of yours"):
        past_answer(store.database, "bob", first[0].id)


def test_an_edit_is_a_new_version_and_the_old_one_stays(store):
    task = store.lease("ann")
    old = store.submit("ann", answer(task))
    new = store.submit("ann", answer(task, "c2", ranks=(2, 1, 0), comment="again"))
    (now,) = history(store.database, "ann")
    assert (now.id, now.ranks, now.versions, now.late) == (new, (2, 1, 0), 2, False)
    assert past_answer(store.database, "ann", old).ranks == (0, 1, 1)


def test_a_verdict_shows_where_it_overrules_and_not_where_it_agrees(store):
    store.add_batch("double", TASKS[:1], overlap=2)
    task = store.lease("ann", "double")
    store.submit("ann", answer(task))
    store.submit("bob", answer(store.lease("bob", "double"), "b", ranks=(2, 1, 0)))
    adjudicate(store.database, "lea", answer(task, "v", ranks=(0, 5, 5), comment="b and c say the same"))
    assert history(store.database, "ann")[0].overruled is None
    overruled = history(store.database, "bob")[0].overruled
    assert (overruled.ranks, overruled.by, overruled.comment) == ((0, 5, 5), "lea", "b and c say the same")
    assert store.progress("double").answers == 2 and history(store.database, "lea") == []
    adjudicate(store.database, "lea", answer(task, "v2", ranks=(2, 1, 0)))
    assert history(store.database, "bob")[0].overruled is None


def test_a_lead_who_labels_can_also_give_the_verdict(store):
    task = store.lease("lea")
    store.submit("lea", answer(task))
    adjudicate(store.database, "lea", answer(task, "v", ranks=(1, 0, 0)))
    assert history(store.database, "lea")[0].overruled.ranks == (1, 0, 0)
    assert [ranking.ranks for ranking in store.rankings()] == [(0, 1, 1)]


@pytest.mark.parametrize(
    ("ratings", "flags"), [((), ()), ((1, None, 2), ()), ((), ((), ("opinion",), ())), ((1, 1, 2), ((),) * 3)]
)
def test_none_acceptable_may_come_without_an_order(store, tmp_path, ratings, flags):
    task = store.lease("ann")
    orderless = answer(task, ranks=(), none_acceptable=True, ratings=ratings, flags=flags)
    store.submit("ann", orderless)
    store.add_batch("gold", [replace(TASKS[0], gold=(0, 1, 1))], gold_every=1)
    store.submit("bob", replace(orderless, task_id=store.lease("bob", "gold").id, client_id="gold"))
    (past,) = history(store.database, "ann")
    assert past.none_acceptable and past.ranks == ()
    if ratings or flags:
        assert (past.ratings, past.flags) == (ratings or (None,) * 3, flags or ((),) * 3)
    assert check(store.database) == []
    assert store.rankings() == [] and store.rankings(snapshot=store.snapshot().id) == []
    assert gold_accuracy(store.database, Choice()) == {}
    with store.database.read() as connection:
        assert ballots(connection, Choice()) == []
    with pytest.raises(InputError, match="no rankings to export"):
        export(store.database, tmp_path / "rankings.jsonl", "rankings", Choice())
    if rated := [rating for rating in ratings if rating]:
        assert export(store.database, tmp_path / "ratings.jsonl", "ratings", Choice()).rows == len(rated)
    adjudicate(store.database, "lea", replace(orderless, client_id="verdict"))
    assert history(store.database, "ann")[0].overruled is None
    with store.database.write() as connection:
        connection.exec_driver_sql("UPDATE ranking_item SET rank = 0 WHERE place = 1")
    assert bool(check(store.database)) == bool(ratings or flags)  # half an order


def test_own_progress_counts_what_stands(store):
    tasks = [store.lease("ann")]
    store.submit("ann", answer(tasks[0]))
    store.submit("ann", answer(tasks[0], "edit"))
    store.submit("ann", answer(store.lease("ann"), "s", kind="skip", ranks=()))
    change_batch(store.database, "round", quota=3)
    progress = own_progress(store.database, "ann", "round")
    assert (progress.answers, progress.today, progress.skipped, progress.left) == (1, 1, 1, 2)
    assert own_progress(store.database, "bob").answers == 0


# Batches and the order of tasks


def test_a_quota_ends_one_labelers_work(store):
    change_batch(store.database, "round", quota=2)
    for number in range(2):
        store.submit("ann", answer(store.lease("ann"), f"q{number}"))
    assert (
        store.lease("ann") is None and assign.reason_without_task(store.database, "ann", "round") == "quota"
    )
    assert store.lease("bob") is not None
    assert len(store.lease_many("cleo", 10)) == 2


def test_a_closed_batch_gives_out_nothing_and_keeps_what_comes(store):
    task = store.lease("ann")
    change_batch(store.database, "round", open=False)
    assert store.lease("bob") is None and assign.reason_without_task(store.database, "bob") == "closed"
    assert open_batches(store.database, "bob") == []
    store.submit("ann", answer(task))
    assert len(store.rankings()) == 1


def test_settings_are_kept_and_checked(store):
    asks = Asks(ratings=True, flags=("opinion", "sexual"), none_acceptable=True, strength=True)
    store.add_batch("asking", TASKS, asks=asks, guidelines="# Be kind", overlap=2)
    assert batch_settings(store.database, "asking").asks == asks
    change_batch(store.database, "asking", guidelines="# Be brief", overlap=3)
    after = batch_settings(store.database, "asking")
    assert (after.guidelines, after.overlap, after.asks) == ("# Be brief", 3, asks)
    assert {row.name: row.wanted for row in overview(store.database)}["asking"] == 18
    large = [{name: number} for name in ("overlap", "quota", "gold_every") for number in (2**31, 10**20)]
    for wrong in ({"overlap": 0}, {"quota": -1}, {"task_order": "best"}, {"kind": "rank"}, *large):
        with pytest.raises(LabelError, match="batch asking"):
            change_batch(store.database, "asking", **wrong)


@pytest.mark.parametrize("number", [2**31, 10**20])
def test_a_number_that_no_database_keeps_is_one_line(store, number):
    with pytest.raises(LabelError, match=r"token|keep a value") as refused:
        accounts.revoke_token(store.database, number, "ann")
    assert "\n" not in str(refused.value)


def walk(store, labeler):
    """The order in which a labeler would get every task of the round."""
    order = []
    while (task := store.lease(labeler, "round")) is not None:
        order.append(task.id)
        store.submit(labeler, answer(task, f"{labeler}-{task.id}", kind="skip", ranks=()))
    return order


def test_at_random_everyone_walks_another_way_and_by_priority_the_same(store):
    names = [f"walker {number}" for number in range(8)]
    for name in names:
        store.add_labeler(name)
    walks = {tuple(walk(store, name)) for name in names[:6]}
    assert len(walks) > 2 and all(sorted(order) == sorted(next(iter(walks))) for order in walks)
    numbers = {task.id: float(task.id) for task in open_tasks(store.database, "round")}
    set_priorities(store.database, "round", numbers)
    assert batch_settings(store.database, "round").task_order == "priority"
    for name in names[6:]:
        assert walk(store, name) == sorted(numbers, reverse=True)
    with pytest.raises(LabelError, match="finite"):
        set_priorities(store.database, "round", {1: float("nan")})


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=5), st.floats(-5, 5))
def test_uncertainty_is_one_for_equals_and_falls_with_distance(scores, shift):
    value = uncertainty(scores)
    assert 0 <= value <= 1 + 1e-12
    assert uncertainty([score + shift for score in scores]) == pytest.approx(value, abs=1e-9)
    assert uncertainty([0.0, 0.0]) == pytest.approx(1.0)
    assert uncertainty([0.0, 1.0]) > uncertainty([0.0, 2.0]) > uncertainty([0.0, 100.0])


def test_a_task_one_had_can_be_taken_up_again(store):
    task = store.lease("ann", minutes=0.001)
    time.sleep(0.1)
    assert assign.lease_one(store.database, "ann", task.id).expires > time.time()
    assert assign.renew(store.database, "ann", task.id) > time.time()
    with pytest.raises(LabelError, match="not a task of yours"):
        assign.lease_one(store.database, "bob", task.id)


def test_a_place_that_went_to_somebody_else_is_not_taken_back(store):
    store.add_batch("one", TASKS[:1])
    task = store.lease("ann", "one", minutes=0.001)
    time.sleep(0.1)
    assert store.lease("bob", "one").id == task.id
    assert assign.renew(store.database, "ann", task.id) is None
    number = store.submit("ann", answer(task))
    assert past_answer(store.database, "ann", number).late
    assert store.submit("bob", answer(task, "b"))
    assert len(store.rankings("one")) == 2


# Accounts


HASHER, DECOY = accounts._hasher(), accounts.DECOY  # before tests/conftest.py makes them cheap


def test_a_hash_costs_what_is_recommended_and_a_name_that_nobody_has_costs_the_same():
    cost = argon2.extract_parameters(HASHER.hash("x"))
    assert argon2.extract_parameters(DECOY) == cost
    assert (cost.memory_cost, cost.time_cost) >= (2**16, 3)  # RFC 9106, section 4, the second choice


def test_passwords_are_hashed_and_checked(store):
    db = store.database
    accounts.add_account(db, "dora", "correct horse")
    with db.read() as connection:
        kept = connection.exec_driver_sql("SELECT password_hash FROM labeler WHERE name = 'dora'").scalar()
    assert kept.startswith("$argon2id$") and "horse" not in kept
    token = accounts.log_in(db, "dora", "correct horse", "127.0.0.1")
    assert accounts.account_of_session(db, token).name == "dora"
    for name, password in (("dora", "wrong horse"), ("nobody", "correct horse"), ("ann", "")):
        with pytest.raises(accounts.LoginRefused, match="name or password is wrong"):
            accounts.log_in(db, name, password, "127.0.0.1")
    with pytest.raises(LabelError, match="8 characters"):
        accounts.add_account(db, "short", "seven77")
    with pytest.raises(LabelError, match="already"):
        accounts.add_account(db, "dora", "another password")


def test_sessions_survive_a_restart_expire_and_end(store, url):
    db = store.database
    accounts.add_account(db, "dora", "correct horse")
    token = accounts.log_in(db, "dora", "correct horse", "127.0.0.1")
    with LabelStore(url) as again:
        assert accounts.account_of_session(again.database, token).name == "dora"
    short = accounts.open_session(db, "dora", hours=0.00001)
    time.sleep(0.05)
    assert accounts.account_of_session(db, short) is None
    accounts.log_out(db, token)
    assert accounts.account_of_session(db, token) is None
    for change in (
        lambda: accounts.set_password(db, "dora", "another password"),
        lambda: accounts.set_active(db, "dora", False),
    ):
        token = accounts.open_session(db, "dora")
        change()
        assert accounts.account_of_session(db, token) is None
    with pytest.raises(accounts.LoginRefused):
        accounts.log_in(db, "dora", "another password", "127.0.0.1")


def test_a_session_that_is_used_is_renewed(store):
    db = store.database
    token = accounts.open_session(db, "ann", hours=12)
    for _ in range(3):  # 11 hours pass, and again, and again
        with db.write() as connection:
            connection.exec_driver_sql(
                "UPDATE session SET created = created - 39600, expires = expires - 39600"
            )
        assert accounts.account_of_session(db, token).name == "ann"


def test_guessing_is_throttled_by_name_and_by_address_over_a_restart(store, url, monkeypatch):
    monkeypatch.setattr(accounts, "FAILURES_PER_NAME", 2)
    monkeypatch.setattr(accounts, "FAILURES_PER_ADDRESS", 3)
    db = store.database
    accounts.add_account(db, "dora", "correct horse")
    for _ in range(accounts.FAILURES_PER_NAME):
        with pytest.raises(accounts.LoginRefused):
            accounts.log_in(db, "dora", "guess guess", "10.0.0.1")
    with LabelStore(url) as again, pytest.raises(accounts.LoginRefused, match="too many") as caught:
        accounts.log_in(again.database, "dora", "correct horse", "10.0.0.2")
    assert 0 < caught.value.wait_s <= accounts.THROTTLE_S
    for number in range(accounts.FAILURES_PER_ADDRESS):
        with pytest.raises(accounts.LoginRefused):
            accounts.log_in(db, f"name {number}", "guess guess", "10.0.0.3")
    with pytest.raises(accounts.LoginRefused, match="too many"):
        accounts.log_in(db, "somebody", "guess guess", "10.0.0.3")


def test_tokens_name_an_account_until_they_end(store):
    db = store.database
    token = accounts.add_token(db, "ann", "script")
    assert accounts.account_of_token(db, token).name == "ann"
    assert accounts.account_of_token(db, token + "x") is None
    (row,) = accounts.tokens(db, "ann")
    with pytest.raises(LabelError, match="no such token"):
        accounts.revoke_token(db, row["id"], "bob")
    accounts.revoke_token(db, row["id"], "ann")
    assert accounts.account_of_token(db, token) is None
    assert accounts.account_of_token(db, accounts.add_token(db, "ann", "old", days=-1)) is None


def test_roles_are_ordered(store):
    admin = accounts.local_account(store.database)
    assert admin.at_least("labeler") and admin.at_least("admin")
    assert accounts.local_account(store.database) == admin
    assert not accounts.has_accounts(store.database)
    assert not accounts.account_named(store.database, "lea").at_least("admin")


@pytest.mark.parametrize("second", ["", " ", "lea", "x" * 201])
def test_several_accounts_are_made_all_or_none(store, second):
    given = {"zoe": "a password", second: "a password"}
    with pytest.raises(LabelError):
        accounts.add_accounts(store.database, given, "token")
    assert accounts.account_named(store.database, "zoe") is None
    tokens = accounts.add_accounts(store.database, {"zoe": "a password"}, "token")
    assert accounts.account_of_token(store.database, tokens["zoe"]).name == "zoe"
    assert accounts.log_in(store.database, "zoe", "a password", "here")
