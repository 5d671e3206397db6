"""How far labelers agree, for rankings with ties: on pairs of answers, with the reason where nothing can be said."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from rlhf.data import Ranking, fingerprint

NUM_RESAMPLES = 1000
TIE, BETTER, WORSE = 0, 1, 2
Units = dict[str, list[np.ndarray]]  # prompt → one (labelers,) array of categories for each pair of answers


@dataclass(frozen=True)
class Agreement:
    """Values in [0, 1] (alpha in [−1, 1]) with 95 % intervals by prompt; None with the reason in `undefined`.

    percent: pairs two labelers put in the same of {better, tie, worse}. decided: likewise, among pairs on which both
    have a preference. alpha: Krippendorff's, nominal over the three. pairs: doubly labeled pairs of answers.
    """

    percent: float | None
    decided: float | None
    alpha: float | None
    alpha_ci95: tuple[float, float] | None
    pairs: int
    undefined: str = ""


def agreement(rankings: Iterable[Ranking], seed: int = 0) -> Agreement:
    """Agreement between the labelers who ranked the same answers."""
    units = pair_units(rankings)
    tables = [_coincidences(pairs) for pairs in units.values()]
    num_pairs = sum(len(pairs) for pairs in units.values())
    if not num_pairs:
        return Agreement(
            None, None, None, None, 0, "undefined because no two labelers ranked the same answers"
        )
    percent, decided = _shares([pair for pairs in units.values() for pair in pairs])
    stacked = np.stack(tables)
    alpha = alpha_of(stacked.sum(0))
    if alpha is None:
        return Agreement(
            percent, decided, None, None, num_pairs, "alpha is undefined because all judgements are equal"
        )
    rng = np.random.default_rng(seed)
    drawn = (stacked[rng.integers(0, len(stacked), len(stacked))].sum(0) for _ in range(NUM_RESAMPLES))
    values = [value for value in map(alpha_of, drawn) if value is not None]
    low, high = np.quantile(values, [0.025, 0.975])
    return Agreement(percent, decided, alpha, (float(low), float(high)), num_pairs)


def pair_units(rankings: Iterable[Ranking]) -> Units:
    """For each prompt the pairs of answers that two or more labelers judged, as categories."""
    judged: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for ranking in rankings:
        prompt = fingerprint([ranking.prompt])
        order = sorted(range(len(ranking.completions)), key=lambda i: ranking.completions[i])
        for place, a in enumerate(order):
            for b in order[place + 1 :]:
                one, other = ranking.ranks[a], ranking.ranks[b]
                category = TIE if one == other else BETTER if one < other else WORSE
                judged[prompt, ranking.completions[a], ranking.completions[b]].append(category)
    units: Units = defaultdict(list)
    for (prompt, _, _), categories in judged.items():
        if len(categories) > 1:
            units[prompt].append(np.array(categories))
    return units


def _shares(pairs: Sequence[np.ndarray]) -> tuple[float, float | None]:
    """Mean over pairs of answers of the share of pairs of labelers who agree: overall, and among the decided."""
    same, both, alike = [], 0.0, 0.0
    for categories in pairs:
        counts = np.bincount(categories, minlength=3)
        n = counts.sum()
        same.append((counts * (counts - 1)).sum() / (n * (n - 1)))
        decided = counts[[BETTER, WORSE]]
        both += decided.sum() * (decided.sum() - 1)
        alike += (decided * (decided - 1)).sum()
    return float(np.mean(same)), float(alike / both) if both else None


def _coincidences(pairs: Sequence[np.ndarray]) -> np.ndarray:
    table = np.zeros((3, 3))
    for categories in pairs:
        counts = np.bincount(categories, minlength=3).astype(float)
        table += (np.outer(counts, counts) - np.diag(counts)) / (counts.sum() - 1)
    return table


def alpha_of(coincidences: np.ndarray) -> float | None:
    """Krippendorff's α for nominal data (Krippendorff 2011, "Computing Krippendorff's alpha-reliability").

    coincidences (C, C): how often values c and k were paired within units. None where all values are equal.
    """
    totals = coincidences.sum(0)
    n = totals.sum()
    expected = n * n - (totals * totals).sum()
    if n <= 1 or expected == 0:
        return None
    observed = n - np.trace(coincidences)
    return float(1 - (n - 1) * observed / expected)
