"""Losses, one value per token or per ranking, float32. Nobody averages here: the denominator belongs to the algorithm.

Outside the mask of a rollout log-probabilities, values, advantages and returns are all zero, and then so are the
policy loss, the value loss and their gradients: summing over (B, T) is summing over the real tokens.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    clip: float,
    clip_high: float = 0.0,
    dual_clip: float = 0.0,
) -> Tensor:
    """PPO's clipped surrogate, negated, per token (Schulman et al. 2017, eq. 7).

    logprobs, old_logprobs, advantages: (b, T) float; the gradient flows through logprobs. Returns (b, T).
    clip_high: the upper clip range where it is another than the lower (Yu et al. 2025, eq. 10); 0: the same.
    dual_clip: the ratio at which a token of negative advantage counts no more, above 1 (Ye et al. 2020, eq. 5); 0: none.
    """
    ratio = (logprobs - old_logprobs).exp()
    gain = torch.min(ratio * advantages, ratio.clamp(1 - clip, 1 + (clip_high or clip)) * advantages)
    if dual_clip:
        gain = torch.where(advantages < 0, torch.max(gain, dual_clip * advantages), gain)
    return -gain


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, clip: float) -> Tensor:
    """Half the squared error per token, the worse of the plain value and the one kept within ±clip of the old.

    values, old_values, returns: (b, T) float. Returns (b, T). Not in Schulman et al. 2017; from OpenAI's baselines.
    """
    clipped = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * torch.max((values - returns).square(), (clipped - returns).square())


def clip_fraction(logprobs: Tensor, old_logprobs: Tensor, clip: float, clip_high: float = 0.0) -> Tensor:
    """1.0 per token whose ratio lies outside its clip range, else 0.0. logprobs, old_logprobs: (b, T) → (b, T).

    clip, clip_high: as of `policy_loss`.
    """
    moved = (logprobs - old_logprobs).detach().exp() - 1
    return torch.where(moved > 0, moved > (clip_high or clip), -moved > clip).float()


def value_clip_fraction(values: Tensor, old_values: Tensor, clip: float) -> Tensor:
    """1.0 per token whose value moved by more than clip, else 0.0. values, old_values: (b, T) → (b, T)."""
    return ((values - old_values).detach().abs() > clip).float()


def lm_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """−log p(label) per token: logits (N, V), labels (N,) int64 → (N,). A label of −100 gives 0."""
    return F.cross_entropy(logits.float(), labels, reduction="none")


def ranking_loss(scores: Tensor, ranks: Tensor) -> Tensor:
    """One ranking's loss (Ouyang et al. 2022, eq. 1): scores (K,) float, ranks (K,) with 0 best, ties equal → scalar.

    The mean of −log σ(r_w − r_l) over all pairs that are not ties; 0 without such a pair.
    """
    return ranking_losses(scores[None], ranks[None], torch.ones_like(ranks[None], dtype=torch.bool))[0]


def ranking_losses(scores: Tensor, ranks: Tensor, present: Tensor) -> Tensor:
    """`ranking_loss` of B rankings at once, each normalised by its own number of pairs.

    scores (B, K) float, ranks (B, K), present (B, K) bool, true where there is a completion. Returns (B,).
    """
    scores = torch.where(present, scores.float(), 0.0)
    wins = (ranks[:, :, None] < ranks[:, None, :]) & present[:, :, None] & present[:, None, :]  # (B, K, K)
    losses = F.softplus(scores[:, None, :] - scores[:, :, None])  # −log σ(r_w − r_l), w down, l across
    return torch.where(wins, losses, 0.0).sum((1, 2)) / wins.sum((1, 2)).clamp(min=1)


def entropy(logits: Tensor) -> Tensor:
    """Entropy in nats of softmax(logits): (..., V) → (...). A logit of −inf is a probability of 0."""
    logprobs = logits.float().log_softmax(-1)
    # 0 × −inf is NaN, and the limit of p log p is 0.
    return -(logprobs.exp() * logprobs.clamp(min=torch.finfo(torch.float32).min)).sum(-1)
