"""Best-of-n: how far it is from sampling, and what it gives for every n from one set of samples. Imports no torch."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np


def kl_of_best_of(n: int) -> float:
    """log n − (n − 1)/n, the nats per completion that choosing the best of n is away from sampling.

    Exact where no two completions are equal in score, else the most it can be (Beirami et al. 2024, theorem 1).
    """
    return math.log(n) - (n - 1) / n


def best_of_curve(rewards: np.ndarray, judged: np.ndarray) -> list[dict[str, Any]]:
    """What choosing by `rewards` gives, for n = 1, 2, 4 … up to the N samples of each prompt.

    rewards, judged: (P, N), what is chosen by and what is wanted. Each point has n, kl, and the mean of both over all
    choices of n of the N samples, without drawing them: the i-th lowest is the best of C(i − 1, n − 1) of C(N, n).
    """
    order = np.argsort(rewards, axis=1, kind="stable")
    by_rank = [np.take_along_axis(np.asarray(x, float), order, 1) for x in (rewards, judged)]
    N = rewards.shape[1]
    points = []
    for n in powers_of_two(N):
        chances = np.array([math.comb(i, n - 1) / math.comb(N, n) for i in range(N)])
        reward, wanted = (round(float((x @ chances).mean()), 4) for x in by_rank)
        points.append({"n": n, "kl": round(kl_of_best_of(n), 4), "reward": reward, "judged": wanted})
    return points


def powers_of_two(most: int) -> Sequence[int]:
    """1, 2, 4 … and `most` itself."""
    return sorted({2**k for k in range(most.bit_length()) if 2**k <= most} | {most})
