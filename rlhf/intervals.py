"""95 % intervals of shares that hold at small counts, at 0 and 1, and where trials come in clusters. Imports no torch."""

import math
from collections.abc import Hashable, Iterable, Sequence
from functools import cache

import numpy as np

ALPHA = 0.05
T_OF_ONE_AND_TWO = {1: 12.7062, 2: 4.3027}  # Student's t has its 97.5 % point here; the expansion needs more


def share_interval(right: Sequence[float], trials: Sequence[float]) -> tuple[float, float]:
    """95 % interval of Σ right / Σ trials; one entry per independent cluster, such as a prompt with all its pairs.

    Single trials: Blaker's exact interval (Blaker 2000), which covers at least 95 % and is the nearest to it of those
    that do; the normal approximation, Wilson's and mid-p intervals fall to 84–93 % at few trials. Clusters: the same
    of the effective number of trials by Korn and Graubard (1998). [0, 1] without a trial.
    """
    won, tried = np.asarray(right, float), np.asarray(trials, float)
    won, tried = won[tried > 0], tried[tried > 0]
    if not len(tried):
        return 0.0, 1.0
    share = min(1.0, max(0.0, won.sum() / tried.sum()))
    return effective_interval(share, _effective_trials(won, tried, share))


def interval_by(
    clusters: Iterable[Hashable], right: Iterable[float], trials: Iterable[float]
) -> tuple[float, float]:
    """`share_interval` of rows, those with an equal cluster put together."""
    sums: dict[Hashable, tuple[float, float]] = {}
    for cluster, won, tried in zip(clusters, right, trials, strict=True):
        before = sums.get(cluster, (0.0, 0.0))
        sums[cluster] = (before[0] + won, before[1] + tried)
    return share_interval([won for won, _ in sums.values()], [tried for _, tried in sums.values()])


def mean_interval(clusters: Sequence[Hashable], values: Sequence[float]) -> tuple[float, float, float]:
    """Mean of the values and its 95 % interval by cluster (Huber 1967, Student's t); at least two clusters.

    Of differences between two on the same prompts it is the paired interval.
    """
    x, (_, place) = (
        np.asarray(values, float),
        np.unique([str(each) for each in clusters], return_inverse=True),
    )
    count, mean = int(place.max()) + 1, float(x.mean())
    spread = count / (count - 1) * float((np.bincount(place, x - mean) ** 2).sum())
    reach = t_quantile(count - 1) * math.sqrt(spread) / len(x)
    return mean, mean - reach, mean + reach


def design_effect(slopes: np.ndarray, clusters: Sequence[Hashable]) -> float:
    """How many times a variance grows because rows of a cluster go together (Kish 1965); 1 where every row is alone.

    slopes (N,): what each row adds to the estimate, summing to about 0. The variance of their sum by cluster (Huber
    1967) over that by row, and Student's t of clusters in place of rows. Where rows tell nothing of it, as where all
    tie, each cluster counts as one.
    """
    _, place = np.unique([str(cluster) for cluster in clusters], return_inverse=True)
    sizes = np.bincount(place)
    rows, count = len(place), len(sizes)
    if count == rows:
        return 1.0
    alike = float((sizes**2).sum() / rows)
    by_row, by_cluster = (slopes**2).sum(), (np.bincount(place, slopes) ** 2).sum()
    if count == 1 or by_row < 1e-12 * rows:
        return alike
    grown = count / (count - 1) * by_cluster / by_row * (t_quantile(count - 1) / t_quantile(rows - 1)) ** 2
    return max(1.0, float(grown))


def effective_interval(share: float, trials: float) -> tuple[float, float]:
    """Blaker's interval of a share that is as sure as one of that many independent trials; neither need be whole."""
    n = max(1, math.floor(trials + 1e-9))
    count = min(float(n), max(0.0, round(share * n, 9)))
    below, above = math.floor(count), math.ceil(count)
    part = count - below
    low = (1 - part) * _lower(below, n) + part * _lower(above, n)
    high = 1 - ((1 - part) * _lower(n - below, n) + part * _lower(n - above, n))
    return float(low), float(high)


def t_quantile(degrees: float) -> float:
    """The 97.5 % point of Student's t (Abramowitz and Stegun 26.7.5); with no degree of freedom that of one."""
    degrees = max(degrees, 1)
    if degrees in T_OF_ONE_AND_TWO:
        return T_OF_ONE_AND_TWO[int(degrees)]
    z, v = 1.959964, degrees
    return z + (z**3 + z) / (4 * v) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)


def _effective_trials(won: np.ndarray, tried: np.ndarray, share: float) -> float:
    """How many independent trials tell as much; in the extremes each cluster counts as one."""
    total, clusters = tried.sum(), len(tried)
    if clusters == total:
        return float(total)
    alike = total**2 / (tried**2).sum()  # Kish 1965: what is left where a cluster's trials all agree
    spread = clusters / max(clusters - 1, 1) * ((won - share * tried) ** 2).sum() / total**2
    if clusters == 1 or share in (0.0, 1.0) or not spread:
        return float(alike)
    effective = share * (1 - share) / max(total - 1, 1) / spread * total
    return float(min(total, effective) * (t_quantile(total - 1) / t_quantile(clusters - 1)) ** 2)


@cache
def _lower(count: int, n: int) -> float:
    """The least share that `count` of n doesn't speak against at ALPHA; the greatest is 1 − that of n − count."""
    if count == 0:
        return 0.0
    low, high = 0.0, count / n
    for points in (100, 50, 50):  # from outside: acceptability isn't monotone
        shares = np.linspace(low, high, points + 1)[1:]
        first = int(np.argmax(_acceptability(count, n, shares) >= ALPHA))
        low, high = (low if first == 0 else float(shares[first - 1])), float(shares[first])
    return low


def _acceptability(count: int, n: int, shares: np.ndarray) -> np.ndarray:
    """The chance of a count at least as far out as `count` under each share (P,) below count / n (Blaker 2000, eq. 2)."""
    reach = math.ceil(12 * math.sqrt(count * max(1 - count / n, 1 / n))) + 40
    counts = np.arange(max(0, count - reach), min(n, count + reach) + 1)
    choose = np.array([math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in counts])
    log_p, log_q = np.log(shares)[:, None], np.log1p(-np.minimum(shares, 1 - 1e-15))[:, None]
    chances = np.exp(choose + counts * log_p + (n - counts) * log_q)
    up = chances[:, counts >= count].sum(1)
    below = chances.cumsum(1)
    other = np.where(below <= up[:, None] * (1 + 1e-9), below, 0.0).max(1)
    return np.minimum(1.0, up + other)
