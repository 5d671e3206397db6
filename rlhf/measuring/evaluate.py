"""Comparing checkpoints honestly: win rates with intervals by conversation, ranking accuracy, KL to a reference."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rlhf.intervals import design_effect, effective_interval, interval_by
from rlhf.learning.passes import completion_logprobs
from rlhf.learning.rollout import Rollout, in_length_order
from rlhf.machine.devices import autocast


@dataclass(frozen=True)
class WinRate:
    """Share of non-tied comparisons won, its 95 % interval, comparisons and ties among them."""

    win_rate: float
    ci95: tuple[float, float]
    n: int
    ties: int


def win_rate(
    scores: Sequence[float], against: Sequence[float], conversations: Sequence[str] | None = None
) -> WinRate:
    """How often `scores` beat `against`, row by row; without a decided comparison the rate is 0.5 in [0, 1].

    conversations: the `conversation_key` of each row; comparisons of one conversation count as one cluster in the
    interval. None: all differ.
    """
    difference = np.asarray(scores) - np.asarray(against)
    won, decided = difference > 0, difference != 0
    if not decided.any():
        return WinRate(0.5, (0.0, 1.0), len(difference), len(difference))
    low, high = interval_by(_clusters(conversations, len(won)), won.astype(float), decided.astype(float))
    return WinRate(float(won.sum() / decided.sum()), (low, high), len(difference), int((~decided).sum()))


def _clusters(conversations: Sequence[str] | None, rows: int) -> Sequence[str | int]:
    return range(rows) if conversations is None else conversations


def win_rate_at_equal_length(
    scores: Sequence[float],
    against: Sequence[float],
    lengths: Sequence[float],
    against_lengths: Sequence[float],
    conversations: Sequence[str] | None = None,
) -> tuple[float, float, float]:
    """The win rate that is left when both answers are equally long, with its 95 % interval.

    The intercept of a logistic regression of winning on tanh of the length difference in standard deviations, as in
    length-controlled AlpacaEval (Dubois et al. 2024, section 3); ties count as half won. The interval is that of as
    many comparisons of equal length as tell as much about the intercept: few where lengths always differ, and fewer
    where comparisons of one conversation agree. conversations: the `conversation_key` of each row; None: all differ.
    """
    difference = np.asarray(scores, float) - np.asarray(against, float)
    won = np.where(difference == 0, 0.5, difference > 0)
    longer = np.asarray(lengths, float) - np.asarray(against_lengths, float)
    features = np.stack([np.ones_like(longer), np.tanh(longer / max(longer.std(), 1e-9))], 1)
    clusters = _clusters(conversations, len(won))
    rate, variance, slopes = _logistic(features, won, 0.1 * len(won) / len(set(clusters)))
    information = min(len(won), 1 / (rate * (1 - rate) * variance))
    return rate, *effective_interval(rate, information / design_effect(slopes, clusters))


def _logistic(features: np.ndarray, won: np.ndarray, ridge: float) -> tuple[float, float, np.ndarray]:
    """σ(intercept) of a logistic regression, the intercept's variance, and what each row adds to it (N,), by Newton's method.

    A slight ridge keeps all finite where all is won.
    """
    weights = np.zeros(features.shape[1])
    for _ in range(25):
        chance = 1 / (1 + np.exp(-features @ weights))
        gradient = features.T @ (won - chance) - ridge * weights
        curvature = (features.T * (chance * (1 - chance))) @ features + ridge * np.eye(len(weights))
        weights = weights + np.linalg.solve(curvature, gradient)
    covariance = np.linalg.inv(curvature)
    slopes = (features * (won - chance)[:, None]) @ covariance[0]
    return float(1 / (1 + np.exp(-weights[0]))), float(covariance[0, 0]), slopes


def sign_test(better: int, worse: int) -> float:
    """Two-sided p of `better` against `worse` untied pairs under equal chances (McNemar's exact test for paired accuracy)."""
    n, k = better + worse, min(better, worse)
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])  # their logarithms
    chances = factorials[n] - factorials[: k + 1] - factorials[n - np.arange(k + 1)] - n * math.log(2)
    return min(1.0, 2 * float(np.exp(chances).sum()))


def ranking_accuracy(
    scores: Sequence[Sequence[float]],
    ranks: Sequence[Sequence[Sequence[int]]],
    conversations: Sequence[str] | None = None,
) -> tuple[float, float, float, int]:
    """Share of the labelers' non-tied pairs that scores order likewise; equal scores count one half.

    scores: per row, K scores; ranks: per row and labeler, K ranks; conversations: the `conversation_key` of each row,
    None where all differ.
    Returns (accuracy, low, high, pairs), the interval by conversation because pairs of one are not independent.
    """
    right, total = np.zeros(len(scores)), np.zeros(len(scores))
    for p, (row, by_labeler) in enumerate(zip(scores, ranks, strict=True)):
        for ranking in by_labeler:
            for i in range(len(row)):
                for j in range(len(row)):
                    if ranking[i] < ranking[j]:
                        total[p] += 1
                        right[p] += 0.5 if row[i] == row[j] else float(row[i] > row[j])
    if not total.sum():
        return 0.5, 0.0, 1.0, 0
    low, high = interval_by(_clusters(conversations, len(total)), right, total)
    return float(right.sum() / total.sum()), low, high, int(total.sum())


@torch.no_grad()
def sequence_kl(
    policy: object, reference: object, rollout: Rollout, temperature: float = 1.0, batch_size: int = 64
) -> Tensor:
    """log π(y|x) − log π_ref(y|x) of each completion (B,), whose mean over samples of π estimates KL(π‖π_ref) in nats.

    temperature: that of sampling, above 0; both models are taken at it.
    """

    def difference(part: Rollout) -> Tensor:
        with autocast(policy.device):  # type: ignore[attr-defined]
            both = [completion_logprobs(model, part, temperature) for model in (policy, reference)]
            return (both[0] - both[1]).sum(1)

    return torch.stack(in_length_order(rollout, batch_size, difference))
