"""Advantages by group, penalties, weights and clipping: each against its formula in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.learning.losses import clip_fraction, policy_loss
from rlhf.learning.rl import grpo, importance_weights, overlong_penalty, reinforce_plus_plus, rloo
from rlhf.learning.training import decay

numbers = st.integers(-400, 400).map(lambda n: n / 8)  # exact in float32
groups = st.integers(2, 5).flatmap(
    lambda k: st.lists(st.lists(numbers, min_size=k, max_size=k), min_size=1, max_size=4)
)


@settings(max_examples=60)
@given(groups)
def test_rloo_is_each_reward_less_the_mean_of_the_others_of_its_prompt(rewards):
    given_ = rloo(torch.tensor(rewards).flatten(), len(rewards[0])).tolist()
    wanted = [
        group[i] - math.fsum(group[:i] + group[i + 1 :]) / (len(group) - 1)
        for group in rewards
        for i in range(len(group))
    ]
    assert given_ == pytest.approx(wanted, abs=1e-4)


@settings(max_examples=60)
@given(groups)
def test_grpo_is_each_reward_in_deviations_of_its_prompt(rewards):
    given_ = grpo(torch.tensor(rewards).flatten(), len(rewards[0])).tolist()
    wanted = []
    for group in rewards:
        mean = math.fsum(group) / len(group)
        deviation = math.sqrt(math.fsum((r - mean) ** 2 for r in group) / (len(group) - 1))
        wanted += [(r - mean) / (deviation + 1e-4) for r in group]
    assert given_ == pytest.approx(wanted, abs=1e-4)


def test_a_group_that_scores_alike_has_no_advantage():
    alike = torch.tensor([2.0, 2.0, 2.0, -1.0, 0.0, 1.0])
    assert rloo(alike, 3).tolist() == [0, 0, 0, -1.5, 0, 1.5]
    assert grpo(alike, 3)[:3].tolist() == [0, 0, 0]
    assert grpo(alike, 3)[3:].tolist() == pytest.approx([-1 / 1.0001, 0, 1 / 1.0001])


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_reinforce_plus_plus_sums_what_comes_after_each_token(gamma):
    torch.manual_seed(0)
    rewards, lengths = torch.randn(3, 5), [5, 2, 0]
    mask = torch.arange(5) < torch.tensor(lengths)[:, None]
    rewards[~mask] = math.nan  # never read
    given_ = reinforce_plus_plus(rewards, mask, gamma)
    for row, length in enumerate(lengths):
        for t in range(5):
            wanted = math.fsum(gamma ** (i - t) * float(rewards[row, i]) for i in range(t, length))
            assert float(given_[row, t]) == pytest.approx(wanted, abs=1e-5)


def test_the_overlong_penalty_rises_over_the_buffer_only():
    lengths = torch.tensor([1, 6, 7, 8, 9, 10])
    assert overlong_penalty(lengths, 10, 4).tolist() == [0, 0, 0.25, 0.5, 0.75, 1]


def test_importance_weights_are_ratios_up_to_a_cap():
    policy, sampler = torch.tensor([0.5, 0.2, 0.6]).log(), torch.tensor([0.5, 0.4, 0.1]).log()
    assert importance_weights(policy, sampler).tolist() == pytest.approx([1, 0.5, 6])
    assert importance_weights(policy, sampler, 2.0).tolist() == pytest.approx([1, 0.5, 2])


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [  # clip 0.2, clip_high 0.5, dual_clip 3; slope: of the loss by the log-probability
        (1.4, 2.0, -2.8, -2.8),  # inside the wider range above 1
        (1.6, 2.0, -3.0, 0.0),
        (0.7, 2.0, -1.4, -1.4),
        (0.7, -2.0, 1.6, 0.0),
        (2.5, -2.0, 5.0, 5.0),
        (4.0, -2.0, 6.0, 0.0),  # the dual clip
        (4.0, 2.0, -3.0, 0.0),
    ],
)
def test_clip_higher_and_dual_clip_at_hand_computed_points(ratio, advantage, loss, slope):
    logprobs = torch.tensor([[math.log(ratio)]], dtype=torch.float64, requires_grad=True)
    given_ = policy_loss(
        logprobs, torch.zeros(1, 1).double(), torch.tensor([[advantage]]).double(), 0.2, 0.5, 3.0
    )
    given_.sum().backward()
    assert float(given_) == pytest.approx(loss) and float(logprobs.grad) == pytest.approx(slope)


def test_the_clip_fraction_knows_both_ranges():
    new = torch.tensor([[0.7, 0.9, 1.3, 1.6]]).log()
    assert clip_fraction(new, torch.zeros(1, 4), 0.2, 0.5).tolist() == [[1, 0, 0, 1]]
    assert clip_fraction(new, torch.zeros(1, 4), 0.2).tolist() == [[1, 0, 1, 1]]


def test_learning_rates_decay_over_the_iterations():
    assert [decay("none", i, 4) for i in range(4)] == [1, 1, 1, 1]
    assert [decay("linear", i, 4) for i in range(4)] == [1, 0.75, 0.5, 0.25]
    assert [decay("cosine", i, 4) for i in (0, 2)] == pytest.approx([1, 0.5])
