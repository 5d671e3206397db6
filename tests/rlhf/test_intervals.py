"""Intervals of shares against their promise: how often they hold the truth, by the binomial law and by simulation."""

from math import comb

import numpy as np
import pytest

from annotate.figures.strengths import strength_table
from rlhf.intervals import effective_interval, interval_by, share_interval
from rlhf.measuring.evaluate import win_rate, win_rate_at_equal_length
from rlhf.measuring.ranked_pairs import RankedPair, accuracy_at_equal_length
from rlhf.splits import conversation_key

SHARES = np.linspace(0.02, 0.98, 49)


def coverage(n):
    """The chance that the interval of n trials holds the share, for each of SHARES, by the binomial law."""
    intervals = np.array([share_interval([1.0] * k + [0.0] * (n - k), [1.0] * n) for k in range(n + 1)])
    chances = np.array(
        [[float(comb(n, k)) * p**k * (1 - p) ** (n - k) for k in range(n + 1)] for p in SHARES]
    )
    holds = (intervals[None, :, 0] <= SHARES[:, None]) & (SHARES[:, None] <= intervals[None, :, 1])
    return (chances * holds).sum(1)


@pytest.mark.parametrize("n", [5, 6, 7, 10, 15, 20, 30, 50, 75, 100, 200, 500])
def test_the_interval_of_single_trials_covers_what_it_promises(n):
    found = coverage(n)
    assert found.min() >= 0.9499  # never under, wherever the share lies
    assert (
        found.max() <= 0.97 or n < 150
    )  # near: a discrete interval can't do it at few trials near 0 and 1 ...
    expected = n * np.minimum(SHARES, 1 - SHARES)
    assert (found[expected >= 10] <= 0.97).all()  # ... but can from ten expected wins and losses on


def test_known_intervals_come_out():
    # Clopper and Pearson's at all or nothing have a closed form, 1 − 0.025^(1/n); Blaker's there is inside and one-sided.
    low, high = share_interval([1.0] * 5, [1.0] * 5)
    assert 1 - 0.975 < 0.478 <= low <= 0.55 and high == 1.0
    assert share_interval([0.0] * 5, [1.0] * 5) == pytest.approx((1 - high, 1 - low))
    # Blaker 2000's own example of 1 of 10 at 95 %, as R's BlakerCI package prints it: 0.005 to 0.446.
    assert share_interval([1.0] + [0.0] * 9, [1.0] * 10) == pytest.approx((0.0051, 0.4445), abs=2e-3)
    assert share_interval([], []) == (0.0, 1.0)


def simulated(clusters, most, alike, share, rng, rounds=400):
    held = 0
    for _ in range(rounds):
        trials = rng.integers(1, most + 1, clusters)
        together = rng.random(clusters) < share
        own = rng.binomial(trials, share)
        won = np.where(rng.random(clusters) < alike, together * trials, own)
        low, high = share_interval(won, trials)
        held += low - 1e-9 <= share <= high + 1e-9
    return held / rounds


@pytest.mark.parametrize("alike", [0.0, 0.4, 1.0])
@pytest.mark.parametrize(("clusters", "most"), [(5, 4), (30, 6), (120, 3)])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.85])
def test_the_interval_covers_where_trials_come_in_clusters(clusters, most, alike, share):
    found = simulated(clusters, most, alike, share, np.random.default_rng(0))
    assert found >= 0.95 - 3 * (0.95 * 0.05 / 400) ** 0.5
    if clusters > 100 and share == 0.5:
        assert found <= 0.97 + 3 * (0.97 * 0.03 / 400) ** 0.5


def test_equal_prompts_are_one_cluster():
    rows = [1.0, 0.0, 1.0, 1.0] * 10
    alone = interval_by(range(40), rows, [1.0] * 40)
    repeated = interval_by([i // 4 for i in range(40)], sorted(rows), [1.0] * 40)
    assert repeated[1] - repeated[0] > 1.5 * (alone[1] - alone[0])
    assert win_rate(sorted(rows), [0.5] * 40, [f"p{i // 4}" for i in range(40)]).ci95 == repeated


def test_the_turns_of_one_conversation_are_one_cluster():
    def turns(dialogue):
        said = [{"role": "user", "content": f"Dialogue {dialogue}"}]
        return [
            said + [{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}] * turn
            for turn in range(4)
        ]

    keys, won = (
        [conversation_key(prompt) for d in range(10) for prompt in turns(d)],
        sorted([1.0, 0.0, 1.0, 1.0] * 10),
    )
    by_name = [f"p{i // 4}" for i in range(40)]
    assert win_rate(won, [0.5] * 40, keys).ci95 == win_rate(won, [0.5] * 40, by_name).ci95
    at_equal_length = [
        win_rate_at_equal_length(won, [0.5] * 40, range(40), [9.0] * 40, p) for p in (keys, by_name)
    ]
    assert at_equal_length[0] == at_equal_length[1]


@pytest.mark.parametrize("n", [2, 5, 20])
def test_a_win_every_time_is_no_certainty(n):
    longer, other = np.arange(n) % 3, np.zeros(n)
    for low, high in (
        win_rate([1.0] * n, [0.0] * n).ci95,
        win_rate_at_equal_length([1.0] * n, [0.0] * n, longer, other)[1:],
    ):
        assert low < 1 - 1 / n and high == pytest.approx(1, abs=0.02)


def test_the_rate_at_equal_length_covers():
    rng, held, rounds = np.random.default_rng(1), 0, 300
    for _ in range(rounds):
        longer = rng.normal(5, 10, 60)
        chance = 1 / (1 + np.exp(-(0.4 + 0.8 * np.tanh(longer / longer.std()))))
        won = (rng.random(60) < chance).astype(float)
        _, low, high = win_rate_at_equal_length(won, 0.5 + 0 * won, longer, 0 * longer)
        held += low <= 1 / (1 + np.exp(-0.4)) <= high
    assert 0.95 - 3 * (0.95 * 0.05 / rounds) ** 0.5 <= held / rounds


def test_more_trials_never_widen_it_and_fractions_lie_between():
    widths = [np.diff(effective_interval(0.6, n))[0] for n in (5, 10, 20, 40, 80, 160, 100_000)]
    assert widths == sorted(widths, reverse=True)
    below, between, above = (effective_interval(k / 10, 10) for k in (6, 6.5, 7))
    assert below[0] < between[0] < above[0] and below[1] < between[1] < above[1]


def _pairs_interval(won, longer, prompts):
    pairs = [
        RankedPair(prompt, "w " * int(20 + more), "w " * 20, float(right), 0.5)
        for prompt, right, more in zip(prompts, won, longer, strict=True)
    ]
    return accuracy_at_equal_length(pairs)[1:]


def _strength_interval(won, longer, prompts):
    verdicts = {1.0: "a", 0.0: "b", 0.5: "tie"}
    games = [(prompt, "a", "b", verdicts[right]) for prompt, right in zip(prompts, won, strict=True)]
    return strength_table(games).rows[0].ci95


@pytest.mark.parametrize("chances", [(0.5, 0.2, 0.3), (0.6, 0.4, 0.0), (0.95, 0.05, 0.0), (1.0, 0.0, 0.0)])
@pytest.mark.parametrize(
    "interval",
    [
        lambda won, longer, prompts: win_rate(won, 0.5 + 0 * won, prompts).ci95,
        lambda won, longer, prompts: win_rate_at_equal_length(won, 0.5 + 0 * won, longer, 0 * longer, prompts)[1:],
        _pairs_interval,
        _strength_interval,
    ],
    ids=["win rate", "at equal length", "pairs at equal length", "strength"],
)  # fmt: skip
def test_every_row_twice_narrows_no_interval(interval, chances):
    rng = np.random.default_rng(0)
    for _ in range(10):
        n = int(rng.integers(40, 120))
        won, longer = rng.choice([1.0, 0.0, 0.5], n, p=chances), rng.normal(5, 10, n).round().clip(-19)
        prompts = [f"q{i}" for i in range(n)]
        once = np.diff(interval(won, longer, prompts))
        twice = np.diff(interval(np.tile(won, 2), np.tile(longer, 2), prompts * 2))
        assert (
            twice >= 0.95 * once
        )  # rows taken for independent would give 0.71; exact intervals are not monotone


def test_the_rate_at_equal_length_covers_where_prompts_come_again():
    rng, held, rounds = np.random.default_rng(2), 0, 300
    for _ in range(rounds):
        longer, prompts = rng.normal(5, 10, 120), np.repeat(np.arange(30), 4)
        chance = 1 / (1 + np.exp(-(0.4 + 0.8 * np.tanh(longer / longer.std()))))
        luck = np.where(rng.random(120) < 0.7, np.repeat(rng.random(30), 4), rng.random(120))
        won = (luck < chance).astype(float)
        _, low, high = win_rate_at_equal_length(
            won, 0.5 + 0 * won, longer, 0 * longer, [f"q{p}" for p in prompts]
        )
        held += low <= 1 / (1 + np.exp(-0.4)) <= high
    assert 0.95 - 3 * (0.95 * 0.05 / rounds) ** 0.5 <= held / rounds
