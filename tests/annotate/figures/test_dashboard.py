"""What the lead sees, against numbers worked by hand."""

import math
import random

import numpy as np
import pytest

from annotate.answers.adjudicate import adjudicate, disagreement_by_task, disagreements
from annotate.answers.ballots import ballots
from annotate.answers.choice import Choice
from annotate.app.texts import languages, texts
from annotate.figures import dashboard
from annotate.figures.strengths import strength_table, strengths
from annotate.figures.tables import FIGURES, tables
from annotate.labels import NewTask, Submission
from annotate.work.asks import Asks
from rlhf.errors import LabelError

ALL = Choice()


def rank(store, labeler, batch, ranks, **more):
    """Lease the labeler's next task in a batch and rank it."""
    task = store.lease(labeler, batch)
    given = {"task_id": task.id, "client_id": f"{labeler}-{task.id}-{batch}", "ranks": ranks} | more
    return store.submit(labeler, Submission(**given))


def given(store, choice):
    with store.database.read() as connection:
        return ballots(connection, choice)


@pytest.fixture
def judged(store):
    """Three labelers on one task of three answers: ann and bob agree but on one pair, cleo turns everything."""
    store.add_batch("b", [NewTask(prompt="q", completions=("x" * 900, "y", "z"))], overlap=3)
    rank(store, "ann", "b", (0, 1, 2), time_s=1.5, flags=(("opinion", "sexual"), (), ()))
    rank(store, "bob", "b", (0, 1, 1), time_s=100.0, flags=(("opinion",), (), ()))
    rank(store, "cleo", "b", (2, 1, 0), time_s=30.0)
    return store


def test_throughput_counts_by_day_and_labeler(judged):
    found = dashboard.throughput(judged.database, ALL)
    assert {(row.labeler, row.answers) for row in found} == {("ann", 1), ("bob", 1), ("cleo", 1)}
    assert all(len(row.day) == 10 for row in found)


def test_agreement_by_hand(judged):
    overall = dashboard.agreement_overall(given(judged, ALL))
    # xy: B B W, xz: B B W, yz: B T W → pairs of labelers alike: 1/3, 1/3, 0
    assert overall.percent == pytest.approx(2 / 9) and overall.pairs == 3
    by_labeler = dashboard.agreement_by_labeler(given(judged, ALL))
    assert by_labeler["ann"].percent == pytest.approx(2 / 6)
    assert by_labeler["cleo"].percent == 0.0
    (day,) = dashboard.agreement_over_time(given(judged, ALL)).values()
    assert day == overall


def test_the_labelers_table_gathers_what_the_other_figures_say(judged):
    judged.add_labeler("bot", origin="simulated")
    judged.add_batch("c", [NewTask(prompt=f"r{i}", completions=("x", "y", "z")) for i in range(2)])
    for _ in range(2):
        rank(judged, "bot", "c", (0, 1, 2))
    found = tables(judged.database, ALL)
    assert tuple(found) == FIGURES
    rows = {row[0]: dict(zip(found["labelers"].columns, row, strict=True)) for row in found["labelers"].rows}
    assert next(iter(rows)) == "bot"  # the busiest first
    assert (rows["bot"]["simulated"], rows["bot"]["answers"]) == (True, 2)
    assert [rows["bot"][name] for name in ("median_s", "fast", "alpha", "with_most", "gold")] == [None] * 5
    cleo = rows["cleo"]
    assert (cleo["simulated"], cleo["answers"], cleo["with_most"], cleo["fast"]) == (False, 1, 0.0, 1)
    assert cleo["alpha"] == dashboard.agreement_by_labeler(given(judged, ALL))["cleo"].alpha < 0


def test_the_consensus_is_what_most_others_say(judged):
    found = dashboard.against_consensus(given(judged, ALL))
    # Ann's others never are of one mind (B W, B W, T W). Cleo's others say B on xy and xz, nothing on yz.
    assert found["ann"].share is None and "of one mind" in found["ann"].undefined
    assert (found["cleo"].share, found["cleo"].pairs) == (0.0, 2)


def test_undefined_is_said(store):
    assert "no two labelers" in dashboard.agreement_overall(given(store, ALL)).undefined
    assert dashboard.position_bias(given(store, ALL)).undefined
    assert strengths(store.database, ALL).undefined


def test_flags_and_times(judged):
    assert dashboard.flag_rates(judged.database, ALL) == {"opinion": (2, 9), "sexual": (1, 9)}
    # 902 characters take at least 10 s; nobody took less time than the lease lasted, which was next to nothing.
    fast = dashboard.fast_decisions(judged.database, ALL)
    assert {row.labeler for row in fast} == {"ann", "bob", "cleo"}
    assert all(row.plausible_s == pytest.approx(902 / 90) and row.took_s < 2 for row in fast)
    assert dashboard.labeler_times(judged.database, ALL)["ann"].fast == 1


def test_a_slow_decision_is_not_fast(judged):
    with judged.database.write() as connection:
        connection.exec_driver_sql("UPDATE annotation SET lease_s = 200")
    times = dashboard.labeler_times(judged.database, ALL)
    assert {name: (time.median_s, time.fast) for name, time in times.items()} == {
        "ann": (1.5, 1),
        "bob": (100.0, 0),
        "cleo": (30.0, 0),
    }


def test_gold_questions_are_scored_and_kept_out_of_everything_else(store):
    gold = [NewTask(prompt=f"g{i}", completions=("a", "b", "c"), gold=(0, 1, 1)) for i in range(2)]
    store.add_batch(
        "b", [NewTask(prompt=f"q{i}", completions=("a", "b", "c")) for i in range(4)] + gold, gold_every=2
    )
    seen = []
    while task := store.lease("ann", "b"):
        seen.append(str(task.prompt)[0])
        store.submit("ann", Submission(task_id=task.id, client_id=str(task.id), ranks=(0, 1, 2)))
    assert seen.count("q") == 4 and seen.count("g") == 2
    assert store.progress("b").tasks == store.progress("b").finished == 4
    assert len(store.rankings()) == 4 and store.snapshot().num_annotations == 4
    share = dashboard.gold_accuracy(store.database, ALL)["ann"]
    assert share.ci95[0] <= share.share <= share.ci95[1]
    assert (share.right, share.pairs) == (
        4,
        4,
    )  # two decided pairs in each question; its tie is not asked for


@pytest.mark.parametrize("every", [1, 2, 5])
def test_of_so_many_tasks_one_is_a_gold_question(store, every):
    tasks = [NewTask(prompt=f"q{i}", completions=("a", "b")) for i in range(20)]
    gold = [NewTask(prompt=f"g{i}", completions=("a", "b"), gold=(0, 1)) for i in range(20)]
    store.add_batch("b", tasks + gold, gold_every=every)
    seen = ""
    while len(seen) < 20:
        task = store.lease("ann", "b")
        seen += task.prompt[0]
        store.submit("ann", Submission(task_id=task.id, client_id=str(task.id), ranks=(0, 1)))
    assert [seen[start : start + every].count("g") for start in range(0, 20, every)] == [1] * (20 // every)


def test_position_bias_is_found_where_it_is_and_not_where_it_is_not(store):
    rng = random.Random(1)
    store.add_batch("biased", [NewTask(prompt=f"q{i}", completions=("a", "b")) for i in range(200)])
    store.add_batch("fair", [NewTask(prompt=f"f{i}", completions=("a", "b")) for i in range(200)])
    store.add_batch("fixed", [NewTask(prompt="x", completions=("a", "b"))], asks=Asks(shown_order="fixed"))
    for batch in ("biased", "fair", "fixed"):
        tasks, answers = store.lease_many("ann", 200, batch), []
        for task in tasks:
            first = task.shown_order[0] if batch != "fair" or rng.random() < 0.5 else task.shown_order[1]
            ranks = (0, 1) if first == 0 else (1, 0)
            answers.append(
                Submission(
                    task_id=task.id, client_id=f"{batch}{task.id}", ranks=ranks, shown_order=task.shown_order
                )
            )
        store.submit_many("ann", answers)
    biased = dashboard.position_bias(given(store, Choice(batch="biased")))
    fair = dashboard.position_bias(given(store, Choice(batch="fair")))
    assert biased.earlier == 1.0 and biased.p_value < 1e-6
    assert 0.4 < fair.earlier < 0.6 and fair.p_value > 0.05
    fixed = dashboard.position_bias(given(store, Choice(batch="fixed")))
    assert "random order" in fixed.undefined and fixed.rankings == 0


def test_shown_orders_are_random_and_the_same_after_a_reload(store):
    store.add_batch("b", [NewTask(prompt=f"q{i}", completions=tuple("abcd")) for i in range(60)])
    first = {task.id: task.shown_order for task in store.lease_many("ann", 60, "b")}
    assert first == {task.id: task.shown_order for task in store.lease_many("ann", 60, "b")}
    assert len(set(first.values())) > 15  # of 24


def test_simulated_labelers_can_be_left_out_of_every_figure(judged):
    judged.add_labeler("robot", origin="simulated")
    judged.add_batch("r", [NewTask(prompt="q", completions=("x" * 900, "y", "z"))])
    rank(judged, "robot", "r", (2, 1, 0))
    people = Choice(include_simulated=False)
    assert "robot" in {row.labeler for row in dashboard.throughput(judged.database, ALL)}
    assert "robot" not in {row.labeler for row in dashboard.throughput(judged.database, people)}
    assert "robot" in dashboard.agreement_by_labeler(given(judged, ALL))
    for figure in (dashboard.agreement_by_labeler, dashboard.against_consensus):
        assert "robot" not in figure(given(judged, people))
    assert "robot" not in dashboard.labeler_times(judged.database, people)

    judged.add_batch("both", [NewTask(prompt="p", completions=("a", "b"))], overlap=2)
    rank(judged, "robot", "both", (1, 0))
    rank(judged, "ann", "both", (0, 1))
    everybody, only_people = (Choice(batch="both", include_simulated=given) for given in (True, False))
    assert len(disagreement_by_task(judged.database, everybody)) == 1
    assert disagreement_by_task(judged.database, only_people) == {}


def test_disagreements_come_worst_first_and_a_verdict_puts_them_last(judged):
    judged.add_labeler("lea", role="lead")
    judged.add_batch("two", [NewTask(prompt=f"d{i}", completions=("a", "b")) for i in range(3)], overlap=2)
    answers = {"d0": ((0, 1), (1, 0)), "d1": ((0, 1), (0, 0)), "d2": ((0, 1), (0, 2))}
    for place, name in enumerate(("ann", "bob")):
        for task in judged.lease_many(name, 3, "two"):
            ranks = answers[task.prompt][place]
            judged.submit(name, Submission(task_id=task.id, client_id=f"{name}{task.id}", ranks=ranks))
    two = Choice(batch="two")
    found = disagreements(judged.database, two, disagreement_by_task(judged.database, two))
    assert [row.task.prompt for row in found] == ["d0", "d1"] and found[0].share == 1.0
    assert [answer.labeler for answer in found[0].answers] == ["ann", "bob"]
    adjudicate(judged.database, "lea", Submission(task_id=found[0].task.id, client_id="v", ranks=(0, 1)))
    again = disagreements(judged.database, two, disagreement_by_task(judged.database, two))
    assert [row.task.prompt for row in again] == ["d1", "d0"] and again[1].adjudicated.by == "lea"
    with pytest.raises(LabelError, match="verdicts are given by a lead"):
        adjudicate(judged.database, "ann", Submission(task_id=1, client_id="w", ranks=(0, 1)))


def test_two_checkpoints_with_ties_have_davidsons_closed_form():
    # For two: π_a/π_b = wins/losses and ν = ties / √(wins · losses).
    games = (
        [(f"w{i}", "a", "b", "a") for i in range(60)]
        + [(f"l{i}", "b", "a", "a") for i in range(15)]
        + [(f"t{i}", "a", "b", "tie") for i in range(25)]
    )
    table = strength_table(games)
    first, second = table.rows
    assert (first.checkpoint, first.wins, first.ties, first.losses) == ("a", 60, 25, 15)
    assert first.log_strength - second.log_strength == pytest.approx(math.log(4), abs=2e-3)  # the weak prior
    assert table.tie_parameter == pytest.approx(25 / 30, abs=2e-3)
    assert first.ci95[0] < first.log_strength < first.ci95[1]
    assert sum(row.log_strength for row in table.rows) == pytest.approx(0)


def test_strengths_are_found_again_in_simulated_games():
    rng = np.random.default_rng(3)
    true, nu, games = {"a": 1.0, "b": 0.0, "c": -1.0}, 0.6, []
    for number in range(6000):
        i, j = rng.permutation(list(true))[:2]
        wi, wj = math.exp(true[i]), math.exp(true[j])
        p = np.array([wi, wj, nu * math.sqrt(wi * wj)])
        games.append((f"p{number}", i, j, rng.choice(["a", "b", "tie"], p=p / p.sum())))
    table = strength_table(games)
    assert {row.checkpoint: row.log_strength for row in table.rows} == pytest.approx(true, abs=0.1)
    assert all(row.ci95[0] <= true[row.checkpoint] <= row.ci95[1] for row in table.rows)
    assert table.tie_parameter == pytest.approx(nu, abs=0.06)


def test_strengths_count_prompts_not_games():
    games = [("same", "a", "b", "a")] * 30 + [("other", "a", "b", "b")] * 10
    low, high = strength_table(games).rows[0].ci95
    spread = [(f"p{i}", *game[1:]) for i, game in enumerate(games)]
    narrow = strength_table(spread).rows[0].ci95
    assert high - low > 2 * (narrow[1] - narrow[0])


def test_five_wins_of_five_are_no_certainty():
    row = strength_table([(f"p{i}", "a", "b", "a") for i in range(5)]).rows[0]
    assert row.ci95[1] - row.ci95[0] > 4 and row.ci95[0] < 0.7


def test_intervals_of_strengths_cover():
    rng, held, rounds = np.random.default_rng(0), 0, 200
    for _ in range(rounds):
        won = rng.random(40) < 1 / (1 + math.exp(-1.0))
        games = [(f"p{i}", "a", "b", "a" if won[i] else "b") for i in range(40)]
        row = next(row for row in strength_table(games).rows if row.checkpoint == "a")
        held += row.ci95[0] <= 0.5 <= row.ci95[1]
    assert held / rounds >= 0.95 - 3 * (0.95 * 0.05 / rounds) ** 0.5


def test_strengths_say_when_nothing_can_be_said():
    games = [("p", "a", "b", "a"), ("p", "c", "d", "tie")]
    assert "never compared" in strength_table(games).undefined
    always = strength_table([(f"p{i}", "a", "b", "a") for i in range(20)])
    assert all(math.isfinite(row.log_strength) for row in always.rows) and always.tie_parameter == 0


def test_comparisons_in_the_store_become_strengths(store):
    tasks = [
        NewTask(prompt=f"q{i}", completions=("a", "b"), checkpoints=("sft/1", "ppo/1")) for i in range(10)
    ]
    store.add_batch("blind", tasks, kind="compare")
    verdicts = ["b"] * 6 + ["a"] * 2 + ["tie", "both_bad"]
    for verdict in verdicts:
        rank(store, "ann", "blind", (), kind="compare", verdict=verdict)
    table = strengths(store.database, Choice(batch="blind"))
    assert [(row.checkpoint, row.wins, row.ties, row.losses) for row in table.rows] == [
        ("ppo/1", 6, 2, 2),
        ("sft/1", 2, 2, 6),
    ]
    assert len(store.rankings("blind")) == 10


def test_every_column_of_the_figures_has_its_name_in_each_language(store):
    columns = {column for table in tables(store.database, Choice()).values() for column in table.columns}
    for language in languages():
        assert columns <= texts(language)["columns"].keys()
