import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from rlhf.learning.rl import (
    AdaptiveKL,
    FixedKL,
    KLBudget,
    RunningMoments,
    explained_variance,
    gae,
    kl_k1,
    kl_k3,
    kl_shaped,
    masked_mean,
    rescale,
    whiten,
)

NAN = math.nan


def close(given: Any, wanted: Any, tolerance: float = 1e-6) -> None:
    torch.testing.assert_close(
        torch.as_tensor(given, dtype=torch.float32),
        torch.as_tensor(wanted, dtype=torch.float32),
        rtol=tolerance,
        atol=tolerance,
    )


def test_kl_shaped_by_hand() -> None:
    kl = torch.tensor([[1.0, 2.0, NAN], [3.0, 4.0, 5.0]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    close(kl_shaped(torch.tensor([10.0, -1.0]), kl, mask, beta=0.1), [[-0.1, 9.8, 0.0], [-0.3, -0.4, -1.5]])


def test_a_row_without_tokens_gets_no_score() -> None:
    kl, mask = torch.ones(1, 3), torch.zeros(1, 3, dtype=torch.bool)
    close(kl_shaped(torch.tensor([7.0]), kl, mask, beta=0.1), [[0.0, 0.0, 0.0]])


def test_gae_by_hand() -> None:
    # δ₁ = 2 − 1 = 1;  δ₀ = 1 + 0.9·1 − 0.5 = 1.4;  A₀ = 1.4 + 0.9·0.8·1 = 2.12
    rewards, values = torch.tensor([[1.0, 2.0, 50.0]]), torch.tensor([[0.5, 1.0, NAN]])
    advantages, returns = gae(rewards, values, torch.tensor([[True, True, False]]), gamma=0.9, lam=0.8)
    close(advantages, [[2.12, 1.0, 0.0]])
    close(returns, [[2.62, 2.0, 0.0]])


def test_gae_agrees_with_the_sum_of_discounted_errors() -> None:
    torch.manual_seed(0)
    rewards, values, gamma, lam = torch.randn(4, 7), torch.randn(4, 7), 0.97, 0.9
    lengths = [7, 1, 4, 0]
    mask = torch.arange(7) < torch.tensor(lengths)[:, None]
    slow = torch.zeros(4, 7)
    for row, length in enumerate(lengths):
        v = [*values[row, :length].tolist(), 0.0]
        errors = [float(rewards[row, t]) + gamma * v[t + 1] - v[t] for t in range(length)]
        for t in range(length):
            slow[row, t] = sum((gamma * lam) ** k * errors[t + k] for k in range(length - t))
    advantages, returns = gae(rewards, values, mask, gamma, lam)
    close(advantages, slow, 1e-5)
    close(returns, torch.where(mask, slow + values, 0.0), 1e-5)


def test_with_gamma_and_lam_1_the_returns_are_the_rewards_to_go() -> None:
    rewards, values = torch.tensor([[1.0, -2.0, 4.0]]), torch.tensor([[9.0, 8.0, 7.0]])
    _, returns = gae(rewards, values, torch.ones(1, 3, dtype=torch.bool), gamma=1.0, lam=1.0)
    close(returns, [[3.0, 2.0, 4.0]])


def test_gae_hands_no_gradient_to_the_value_model() -> None:
    values = torch.randn(2, 3, requires_grad=True)
    advantages, returns = gae(torch.randn(2, 3), values, torch.ones(2, 3, dtype=torch.bool), 1.0, 0.95)
    assert not advantages.requires_grad and not returns.requires_grad


X = torch.tensor([[1.0, 3.0, NAN], [5.0, 7.0, 1e30]])  # real: 1, 3, 5, 7: mean 4, variance 5
X_MASK = torch.tensor([[True, True, False], [True, True, False]])


def test_whiten_by_hand() -> None:
    close(whiten(X, X_MASK), torch.tensor([[-3.0, -1.0, 0.0], [1.0, 3.0, 0.0]]) / math.sqrt(5))


def test_rescale_keeps_the_mean() -> None:
    s = math.sqrt(5)
    close(rescale(X, X_MASK), [[4 - 3 / s, 4 - 1 / s, 0.0], [4 + 1 / s, 4 + 3 / s, 0.0]])


def test_constant_advantages_whiten_to_zero() -> None:
    close(whiten(torch.full((2, 3), 2.5), X_MASK), torch.zeros(2, 3))


def test_masked_mean_by_hand() -> None:
    close(masked_mean(X, X_MASK), 4.0)
    close(masked_mean(X, torch.zeros_like(X_MASK)), 0.0)


def test_kl_estimators_by_hand() -> None:
    logprobs, ref_logprobs = torch.tensor([0.5]).log(), torch.tensor([0.25]).log()
    close(kl_k1(logprobs, ref_logprobs), [math.log(2)])
    close(kl_k3(logprobs, ref_logprobs), [0.5 - 1 + math.log(2)])
    assert kl_k1(ref_logprobs, logprobs) < 0 < kl_k3(ref_logprobs, logprobs)


@pytest.mark.parametrize("estimator", [kl_k1, kl_k3])
def test_kl_estimators_are_unbiased(estimator: Callable[[Tensor, Tensor], Tensor]) -> None:
    policy, reference = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.1, 0.5, 0.4])
    exact = sum(p * math.log(p / q) for p, q in zip(policy.tolist(), reference.tolist(), strict=True))
    close((policy * estimator(policy.log(), reference.log())).sum(), exact)


def test_a_fixed_coefficient_stays() -> None:
    beta = FixedKL(0.02)
    beta.update(100.0, num_episodes=512)
    assert beta.value == 0.02
    other = FixedKL(0.5)
    other.load_state_dict(beta.state_dict())
    assert other.value == 0.02


@pytest.mark.parametrize(
    ("mean_kl", "factor"),
    # Ziegler et al. 2019, 2.2: e = clip((KL − 6) / 6, ±0.2); β grows by e · 500 / 10,000
    [(6.0, 1.0), (6.6, 1.005), (5.4, 0.995), (12.0, 1.01), (7.3, 1.01), (0.0, 0.99), (-3.0, 0.99)],
)
def test_adaptive_coefficient_by_hand(mean_kl: float, factor: float) -> None:
    beta = AdaptiveKL(0.15, target=6.0, horizon=10_000)
    beta.update(mean_kl, num_episodes=500)
    assert beta.value == pytest.approx(0.15 * factor, rel=1e-12)


def test_adaptive_coefficient_goes_on_from_its_state() -> None:
    whole, first, second = (AdaptiveKL(0.15, target=6.0, horizon=1000) for _ in range(3))
    for kl in (9.0, 2.0):
        whole.update(kl, 64)
    first.update(9.0, 64)
    second.load_state_dict(first.state_dict())
    second.update(2.0, 64)
    assert second.value == whole.value != 0.15


def test_a_kl_budget_raises_the_coefficient_while_it_is_passed() -> None:
    beta = KLBudget(0.5, budget=0.6)
    values = []
    for kl in (0.3, 0.6, 0.9, 6.0, 0.9, 0.5, 0.5):
        beta.update(kl, num_episodes=256)
        values.append(beta.value)
    assert values == pytest.approx([0.5, 0.5, 0.75, 1.5, 2.25, 2.025, 1.8225], rel=1e-12)
    for _ in range(30):
        beta.update(0.1, num_episodes=256)
    assert beta.value == 0.5


def test_running_moments_are_those_of_everything_seen() -> None:
    torch.manual_seed(0)
    parts, moments = [torch.randn(n) * 3 + 100 for n in (5, 1, 17)], RunningMoments()
    for part in parts:
        moments.update(part)
    everything = torch.cat(parts).double()
    assert moments.count == 23
    assert moments.mean == pytest.approx(float(everything.mean()), rel=1e-12)
    assert moments.std == pytest.approx(float(everything.std(unbiased=False)), rel=1e-9)
    close(moments.normalize(everything).mean(), 0.0, 1e-5)
    close(moments.normalize(everything).std(unbiased=False), 1.0, 1e-5)


def test_running_moments_before_two_scores_only_shift() -> None:
    moments = RunningMoments()
    close(moments.normalize(torch.tensor([3.0])), [3.0])
    moments.update(torch.tensor([3.0]))
    close(moments.normalize(torch.tensor([5.0])), [2.0])


def test_running_moments_go_on_from_their_state() -> None:
    whole, first, second = RunningMoments(), RunningMoments(), RunningMoments()
    parts = [torch.tensor([1.0, 4.0]), torch.tensor([-2.0, 8.0, 0.5])]
    for part in parts:
        whole.update(part)
    first.update(parts[0])
    second.load_state_dict(first.state_dict())
    second.update(parts[1])
    assert second.state_dict() == whole.state_dict() != first.state_dict()


def test_explained_variance_by_hand() -> None:
    # returns 1, 3: variance 1; returns − values 0, 1: variance 1/4
    values, returns = torch.tensor([[1.0, 2.0, NAN]]), torch.tensor([[1.0, 3.0, 40.0]])
    mask = torch.tensor([[True, True, False]])
    close(explained_variance(values, returns, mask), 0.75)
    close(explained_variance(returns, returns, mask), 1.0)
    close(explained_variance(values, torch.ones(1, 3), mask), 0.0)
