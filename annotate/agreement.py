"""How far labelers agree, for rankings with ties: on pairs of answers, with the reason where nothing can be said."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from rlhf.data import Ranking, fingerprint

NUM_RESAMPLES = 1000
TIE, BETTER, WORSE = 0, 1, 2
Pair = tuple[str, str, str]  # prompt (hashed), the two answers in alphabetical order
Judgements = dict[Pair, list[tuple[str, int]]]  # (labeler, category of the first answer) in the order given
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
    return agreement_of(pair_units(rankings), seed)


def agreement_of(units: Units, seed: int = 0) -> Agreement:
    """Agreement over pairs of answers that two or more labelers judged; its interval resamples prompts."""
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
    rng, flat = np.random.default_rng(seed), stacked.reshape(len(stacked), -1)
    equal = np.full(len(stacked), 1 / len(stacked))
    drawn = rng.multinomial(len(stacked), equal, NUM_RESAMPLES) @ flat
    values = [value for value in map(alpha_of, drawn.reshape(-1, 3, 3)) if value is not None]
    low, high = np.quantile(values, [0.025, 0.975])
    return Agreement(percent, decided, alpha, (float(low), float(high)), num_pairs)


def judgements(rankings: Iterable[Ranking]) -> Judgements:
    """For each pair of answers who put the alphabetically first one where."""
    judged: Judgements = defaultdict(list)
    for ranking in rankings:
        prompt = fingerprint([ranking.prompt])
        order = sorted(range(len(ranking.completions)), key=lambda i: ranking.completions[i])
        for place, a in enumerate(order):
            for b in order[place + 1 :]:
                one, other = ranking.ranks[a], ranking.ranks[b]
                category = TIE if one == other else BETTER if one < other else WORSE
                pair = (prompt, ranking.completions[a], ranking.completions[b])
                judged[pair].append((ranking.labeler, category))
    return judged


def pair_units(rankings: Iterable[Ranking]) -> Units:
    """For each prompt the pairs of answers that two or more labelers judged, as categories."""
    units: Units = defaultdict(list)
    for (prompt, _, _), given in judgements(rankings).items():
        if len(given) > 1:
            units[prompt].append(np.array([category for _, category in given]))
    return units


def units_by_labeler(judged: Judgements) -> dict[str, Units]:
    """For each labeler the pairs judged with somebody else: one unit of two for every other labeler."""
    found: dict[str, Units] = defaultdict(lambda: defaultdict(list))
    for (prompt, _, _), given in judged.items():
        for i, (labeler, category) in enumerate(given):
            for j, (_, other) in enumerate(given):
                if i != j:
                    found[labeler][prompt].append(np.array([category, other]))
    return found


def shares_with_consensus(judged: Judgements) -> dict[str, tuple[int, int]]:
    """For each labeler (pairs judged as most of the others do, pairs on which most of the others are of one mind)."""
    found: dict[str, tuple[int, int]] = {}
    for given in judged.values():
        for i, (labeler, category) in enumerate(given):
            right, pairs = found.get(labeler, (0, 0))
            others = np.bincount([other for j, (_, other) in enumerate(given) if j != i], minlength=3)
            if 2 * others.max() > others.sum():
                right, pairs = right + int(others.argmax() == category), pairs + 1
            found[labeler] = (right, pairs)
    return found


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
