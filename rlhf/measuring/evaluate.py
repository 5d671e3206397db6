"""Comparing checkpoints honestly: win rates with intervals by prompt, ranking accuracy, KL to a reference."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rlhf.learning.passes import completion_logprobs
from rlhf.learning.rollout import Rollout
from rlhf.machine.devices import autocast

NUM_RESAMPLES = 2000


@dataclass(frozen=True)
class WinRate:
    """Share of non-tied comparisons won, its 95 % bootstrap interval by prompt, comparisons and ties."""

    win_rate: float
    ci95: tuple[float, float]
    n: int
    ties: int


def win_rate(scores: Sequence[float], against: Sequence[float], seed: int = 0) -> WinRate:
    """How often `scores` beat `against`, prompt by prompt; without a decided comparison the rate is 0.5 in [0, 1]."""
    difference = np.asarray(scores) - np.asarray(against)
    won, decided = difference > 0, difference != 0
    if not decided.any():
        return WinRate(0.5, (0.0, 1.0), len(difference), len(difference))
    low, high = ratio_interval(won.astype(float), decided.astype(float), seed)
    return WinRate(float(won.sum() / decided.sum()), (low, high), len(difference), int((~decided).sum()))


def ratio_interval(numerators: np.ndarray, denominators: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95 % percentile bootstrap interval of Σ numerators / Σ denominators, resampling rows (Efron 1979)."""
    rng = np.random.default_rng(seed)
    ratios = []
    for _ in range(NUM_RESAMPLES):
        rows = rng.integers(0, len(numerators), len(numerators))
        ratios.append(numerators[rows].sum() / max(denominators[rows].sum(), 1e-12))
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(low), float(high)


def win_rate_at_equal_length(
    scores: Sequence[float],
    against: Sequence[float],
    lengths: Sequence[float],
    against_lengths: Sequence[float],
    seed: int = 0,
) -> tuple[float, float, float]:
    """The win rate that is left when both answers are equally long, with its 95 % bootstrap interval by prompt.

    The intercept of a logistic regression of winning on tanh of the length difference in standard deviations, as in
    length-controlled AlpacaEval (Dubois et al. 2024, section 3); ties count as half won.
    """
    difference = np.asarray(scores, float) - np.asarray(against, float)
    won = np.where(difference == 0, 0.5, difference > 0)
    longer = np.asarray(lengths, float) - np.asarray(against_lengths, float)
    features = np.stack([np.ones_like(longer), np.tanh(longer / max(longer.std(), 1e-9))], 1)
    rng = np.random.default_rng(seed)
    resampled = [rng.integers(0, len(won), len(won)) for _ in range(NUM_RESAMPLES // 4)]
    rates = [_logistic(features[rows], won[rows]) for rows in resampled]
    low, high = np.quantile(rates, [0.025, 0.975])
    return _logistic(features, won), float(low), float(high)


def _logistic(features: np.ndarray, won: np.ndarray) -> float:
    """σ(intercept) of a logistic regression, by Newton's method; a slight ridge keeps it finite where all is won."""
    weights = np.zeros(features.shape[1])
    for _ in range(25):
        chance = 1 / (1 + np.exp(-features @ weights))
        gradient = features.T @ (won - chance) - 0.1 * weights
        curvature = (features.T * (chance * (1 - chance))) @ features + 0.1 * np.eye(len(weights))
        weights = weights + np.linalg.solve(curvature, gradient)
    return float(1 / (1 + np.exp(-weights[0])))


def sign_test(better: int, worse: int) -> float:
    """Two-sided p of `better` against `worse` untied pairs under equal chances (McNemar's exact test for paired accuracy)."""
    n, k = better + worse, min(better, worse)
    tail = sum(math.comb(n, i) for i in range(k + 1)) / 2**n
    return min(1.0, 2 * tail)


def ranking_accuracy(
    scores: Sequence[Sequence[float]], ranks: Sequence[Sequence[Sequence[int]]], seed: int = 0
) -> tuple[float, float, float, int]:
    """Share of the labelers' non-tied pairs that scores order likewise; equal scores count one half.

    scores: per prompt, K scores; ranks: per prompt and labeler, K ranks. Returns (accuracy, low, high, pairs), the
    interval resampled by prompt because pairs of one ranking are not independent.
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
    low, high = ratio_interval(right, total, seed)
    return float(right.sum() / total.sum()), low, high, int(total.sum())


@torch.no_grad()
def sequence_kl(policy: object, reference: object, rollout: Rollout, batch_size: int = 64) -> Tensor:
    """log π(y|x) − log π_ref(y|x) of each completion (B,), whose mean over samples of π estimates KL(π‖π_ref) in nats."""
    parts = []
    for part in rollout.split(batch_size):
        with autocast(policy.device):  # type: ignore[attr-defined]
            difference = completion_logprobs(policy, part) - completion_logprobs(reference, part)
        parts.append(difference.sum(1))
    return torch.cat(parts)
