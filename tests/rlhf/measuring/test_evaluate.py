"""Win rates, intervals, schedules and state against numbers worked out by hand."""

import math
import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf.learning.optimizers import Optimizers, adamw, clip_gradients
from rlhf.learning.training import load_state, save_state, set_dropout, warmup_cosine
from rlhf.measuring.evaluate import (
    ranking_accuracy,
    sign_test,
    win_rate,
    win_rate_at_equal_length,
)


def test_win_rate_leaves_ties_out():
    rate = win_rate([3, 2, 1, 1], [1, 3, 0, 1])
    assert rate.win_rate == pytest.approx(2 / 3)
    assert (rate.n, rate.ties) == (4, 1)


def test_nothing_decided_says_nothing():
    rate = win_rate([1, 1], [1, 1])
    assert (rate.win_rate, rate.ci95, rate.ties) == (0.5, (0.0, 1.0), 2)


@given(st.lists(st.integers(0, 3), min_size=2, max_size=30), st.randoms())
def test_the_interval_holds_the_rate_and_mirrors(scores, rng):
    other = [rng.randint(0, 3) for _ in scores]
    one, swapped = win_rate(scores, other), win_rate(other, scores)
    assert one.ci95[0] <= one.win_rate <= one.ci95[1]
    assert one.win_rate == pytest.approx(1 - swapped.win_rate)


def test_the_interval_has_the_width_of_theory():
    won = np.array([1.0] * 600 + [0.0] * 400)
    low, high = win_rate(won, 0.5 * np.ones(1000)).ci95
    expected = 1.96 * np.sqrt(0.6 * 0.4 / 1000)
    assert (high - low) / 2 == pytest.approx(expected, rel=0.05)


def test_ranking_accuracy_counts_every_labelers_pairs_and_halves_equal_scores():
    accuracy, _, _, pairs = ranking_accuracy([[2.0, 1.0, 1.0]], [[[0, 1, 2], [1, 0, 0]]])
    # first labeler: 0<1 right, 0<2 right, 1<2 scores equal; second: both pairs wrong
    assert pairs == 5
    assert accuracy == pytest.approx((1 + 1 + 0.5) / 5)


def test_warmup_then_cosine_to_the_floor():
    factors = [warmup_cosine(step, 100, 10, floor=0.1) for step in range(101)]
    assert factors[0] == pytest.approx(0.1) and factors[9] == 1.0
    assert factors[55] == pytest.approx(0.55) and factors[100] == pytest.approx(0.1)


def test_clipping_scales_the_joint_norm():
    a, b = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    a.grad, b.grad = torch.tensor([3.0]), torch.tensor([4.0])
    assert clip_gradients([a, b], 1.0) == pytest.approx(5.0)
    assert (a.grad.item(), b.grad.item()) == (pytest.approx(0.6, abs=1e-4), pytest.approx(0.8, abs=1e-4))


def test_learning_rates_scale_from_their_base():
    optimizers = Optimizers(adamw([torch.nn.Parameter(torch.zeros(1))], 0.2).optimizers[0])
    optimizers.set_lr_factor(0.5)
    optimizers.set_lr_factor(0.25)
    assert optimizers.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.05)


def test_state_comes_back(tmp_path):
    assert load_state(tmp_path / "state.pt") is None
    save_state(tmp_path / "state.pt", {"step": 3, "weights": torch.arange(4)})
    state = load_state(tmp_path / "state.pt")
    assert state["step"] == 3 and state["weights"].tolist() == [0, 1, 2, 3]


def test_dropout_is_set_everywhere():
    model = torch.nn.Sequential(torch.nn.Dropout(0.1), torch.nn.Sequential(torch.nn.Dropout(0.3)))
    set_dropout(model, 0.7)
    assert [module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)] == [0.7, 0.7]


def test_a_win_by_length_alone_is_none_at_equal_length_and_a_real_one_stays():
    rng = np.random.default_rng(0)
    lengths, other = rng.integers(20, 60, 400), rng.integers(10, 40, 400)
    by_length = win_rate_at_equal_length(lengths, other, lengths, other)
    assert win_rate(lengths, other).win_rate > 0.8
    assert by_length[1] < 0.5 < by_length[2]
    better = rng.normal(0.8, 1, 400)  # wins Φ(0.8) = 78.8 % of the time, whatever the length
    rate, low, high = win_rate_at_equal_length(better, np.zeros(400), lengths, other)
    assert low < 0.788 < high and low > 0.5
    swapped = win_rate_at_equal_length(np.zeros(400), better, other, lengths)[0]
    assert rate + swapped == pytest.approx(1, abs=1e-6)


def test_the_sign_test_counts_both_tails():
    assert sign_test(8, 2) == sign_test(2, 8) == pytest.approx(2 * (1 + 10 + 45) / 2**10)
    assert sign_test(0, 5) == pytest.approx(2 / 2**5)
    assert sign_test(50, 50) == sign_test(0, 0) == 1.0
    exact = 2 * sum(math.comb(1000, i) for i in range(461)) / 2**1000
    assert sign_test(540, 460) == pytest.approx(exact, rel=1e-9)
    start = time.perf_counter()
    normal = math.erfc((100_500 - 99_500 - 1) / math.sqrt(200_000) / math.sqrt(2))
    assert sign_test(100_500, 99_500) == pytest.approx(normal, rel=1e-3)
    assert time.perf_counter() - start < 5  # summing binomials of whole numbers took hours
