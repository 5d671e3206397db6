"""The mathematics of RL from human feedback between sampling and the loss: tensors in, tensors out.

Everything is (B, T) float32 over completion tokens with a (B, T) bool mask, true on real ones; real tokens stand at
the left of a row. What lies outside the mask is never read, whatever it holds, and comes back as zero.
"""

from typing import Any

import torch
from torch import Tensor


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of x (B, T) over the real tokens of mask (B, T): a float32 scalar, 0 where there are none."""
    return _kept(x, mask).sum() / mask.sum().clamp(min=1)


def _kept(x: Tensor, mask: Tensor) -> Tensor:
    # Not x * mask: padding may hold inf or NaN, and 0 × NaN is NaN.
    return torch.where(mask, x.float(), 0.0)


def kl_k1(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """log π(y_t) − log π_ref(y_t) per token, any shape: unbiased for KL(π‖ref), may be negative (Schulman 2020)."""
    return logprobs - ref_logprobs


def kl_k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """r − 1 − log r with r = π_ref/π per token, any shape: unbiased for KL(π‖ref), never negative (Schulman 2020)."""
    log_ratio = ref_logprobs - logprobs
    return torch.expm1(log_ratio) - log_ratio


def importance_weights(logprobs: Tensor, sampler_logprobs: Tensor, cap: float = 0.0) -> Tensor:
    """π(y_t) / μ(y_t) per token, any shape, at most cap where it is not 0: for tokens drawn from μ (Ionides 2008).

    Of tokens drawn from the most probable ones, by top-p or top-k, it is the mass that those had: at most 1.
    """
    weights = (logprobs - sampler_logprobs).exp()
    return weights.clamp(max=cap) if cap else weights


def kl_shaped(scores: Tensor, kl: Tensor, mask: Tensor, beta: float) -> Tensor:
    """Rewards (B, T) per token: −beta · kl, and the score on the last real token (Ouyang et al. 2022, eq. 2).

    scores (B,) float, kl (B, T) float, mask (B, T) bool. A row without real tokens gets no score.
    """
    lengths = mask.sum(1, keepdim=True)
    is_last = torch.arange(1, mask.shape[1] + 1, device=mask.device) == lengths
    return -beta * _kept(kl, mask) + torch.where(is_last, scores.float()[:, None], 0.0)


@torch.no_grad()
def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Advantages and returns by generalised advantage estimation.

    rewards, values, mask: (B, T) float, float, bool; steps outside mask count as absent.
    Returns (advantages, returns), both (B, T) float32, zero outside mask and without gradient.
    Schulman et al. 2016, eq. 16; the last real step has no successor.
    """
    rewards, values = _kept(rewards, mask), _kept(values, mask)
    advantages = torch.zeros_like(values)
    advantage = next_value = torch.zeros_like(values[:, 0])
    for t in reversed(range(mask.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantage = delta + gamma * lam * advantage
        advantages[:, t] = advantage
        next_value = values[:, t]
    return advantages, advantages + values


def reinforce_plus_plus(rewards: Tensor, mask: Tensor, gamma: float) -> Tensor:
    """Discounted rewards from each token on, (B, T) float32; whitened over the batch they are REINFORCE++'s advantages.

    rewards (B, T) float, KL and score in them; mask (B, T) bool. Hu 2025 (arXiv 2501.03262), eqs. 5 and 6: GAE without
    values and with λ = 1.
    """
    return gae(rewards, torch.zeros_like(rewards), mask, gamma, 1.0)[0]


def rloo(rewards: Tensor, num_per_prompt: int) -> Tensor:
    """R_i less the mean of the other K − 1 completions of its prompt: rewards (B,) of whole completions → (B,) float32.

    num_per_prompt: K ≥ 2; completions of one prompt stand together. Ahmadian et al. 2024, eq. 9.
    """
    groups = rewards.float().view(-1, num_per_prompt)
    others = (groups.sum(1, keepdim=True) - groups) / (num_per_prompt - 1)
    return (groups - others).flatten()


def grpo(rewards: Tensor, num_per_prompt: int) -> Tensor:
    """(R_i − mean) / (deviation + 1e-4) among the K completions of a prompt: rewards (B,) → (B,) float32.

    num_per_prompt: K ≥ 2; completions of one prompt stand together. The deviation divides by K − 1, as trl's does.
    Shao et al. 2024, section 4.1.2.
    """
    groups = rewards.float().view(-1, num_per_prompt)
    return ((groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + 1e-4)).flatten()


def overlong_penalty(lengths: Tensor, limit: int, buffer: int) -> Tensor:
    """0 up to limit − buffer tokens, then rising to 1 at the limit: lengths (B,) → (B,) float32.

    Yu et al. 2025 (DAPO), eq. 13, with its sign turned; buffer ≥ 1.
    """
    return ((lengths - (limit - buffer)).float() / buffer).clamp(0, 1)


def whiten(x: Tensor, mask: Tensor) -> Tensor:
    """x (B, T) shifted and scaled to mean 0 and variance 1 over the real tokens; zero outside mask."""
    mean, variance = _moments(x, mask)
    return _kept((x - mean) * torch.rsqrt(variance + 1e-8), mask)


def rescale(x: Tensor, mask: Tensor) -> Tensor:
    """x (B, T) scaled about its mean to variance 1 over the real tokens; zero outside mask.

    (x − m) / s + m, `whiten` with shift_mean=False of Ziegler et al. 2019: each token is x / s and m · (1 − 1/s), which
    longer rows get more often.
    """
    mean, variance = _moments(x, mask)
    return _kept((x - mean) * torch.rsqrt(variance + 1e-8) + mean, mask)


def _moments(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and population variance over the real tokens."""
    mean = masked_mean(x, mask)
    return mean, masked_mean((x.float() - mean).square(), mask)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 − Var(returns − values) / Var(returns) over real tokens, a scalar; 0 where the returns do not vary."""
    _, variance = _moments(returns, mask)
    _, left = _moments(returns - values, mask)
    return torch.where(variance > 0, 1 - left / variance, 0.0)


class FixedKL:
    """A KL coefficient that stays where it is."""

    def __init__(self, beta: float) -> None:
        self.value = beta

    def update(self, mean_kl: float, num_episodes: int) -> None:
        """Nothing to learn from the KL of an iteration."""

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value = state["value"]


class AdaptiveKL(FixedKL):
    """A KL coefficient steered so that the KL of a completion approaches `target` nats (Ziegler et al. 2019, 2.2).

    horizon: over so many episodes a full error of ±0.2 changes the coefficient by about a fifth.
    """

    def __init__(self, beta: float, target: float, horizon: float) -> None:
        super().__init__(beta)
        self.target, self.horizon = target, horizon

    def update(self, mean_kl: float, num_episodes: int) -> None:
        """mean_kl: nats per completion, its tokens summed, averaged over the `num_episodes` since the last update."""
        error = min(max(mean_kl / self.target - 1, -0.2), 0.2)
        self.value *= 1 + error * num_episodes / self.horizon


class KLBudget(FixedKL):
    """A KL coefficient that rises while a completion's KL is above `budget` nats, and returns to `beta` below it.

    A reward model that gives an odd answer far more than its KL costs is exploited within a few iterations, whatever
    β was chosen (Gao et al. 2023); here the price rises with the excess, by at most a factor of two an iteration.
    """

    def __init__(self, beta: float, budget: float) -> None:
        super().__init__(beta)
        self.beta, self.budget = beta, budget

    def update(self, mean_kl: float, num_episodes: int) -> None:
        """mean_kl: nats per completion, its tokens summed, averaged over the episodes since the last update."""
        if mean_kl > self.budget:
            self.value *= min(mean_kl / self.budget, 2.0)
        else:
            self.value = max(self.beta, 0.9 * self.value)


class RunningMoments:
    """Mean and standard deviation of all scores seen so far, for reward normalisation (Chan et al. 1979)."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0.0, 0.0, 0.0  # squares: summed squared distance from the mean

    @property
    def std(self) -> float:
        """Population standard deviation; 1 before two different scores were seen."""
        return (self.squares / self.count) ** 0.5 if self.squares > 0 else 1.0

    def update(self, x: Tensor) -> None:
        """Count in x, any shape."""
        x, count = x.detach().double(), float(x.numel())
        if count == 0:
            return
        mean = float(x.sum()) / count
        squares = float((x - mean).square().sum())
        shift, whole = mean - self.mean, self.count + count
        self.squares += squares + shift**2 * self.count * count / whole
        self.mean += shift * count / whole
        self.count = whole

    def normalize(self, x: Tensor) -> Tensor:
        """x with the mean taken away, divided by the standard deviation."""
        return (x - self.mean) / self.std

    def state_dict(self) -> dict[str, float]:
        return {"count": self.count, "mean": self.mean, "squares": self.squares}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.count, self.mean, self.squares = state["count"], state["mean"], state["squares"]
