"""How far labelers agree, for rankings with ties: on pairs of answers, with the reason where nothing can be said."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rlhf.data import Ranking
from rlhf.intervals import share_interval

TIE, BETTER, WORSE = 0, 1, 2


@dataclass(frozen=True)
class Group:
    """Rankings of the same K answers by L labelers: ranks (L, K), 0 best. Groups of one prompt count together in the interval."""

    prompt: str
    labelers: Sequence[str]
    ranks: np.ndarray


@dataclass(frozen=True)
class Agreement:
    """Values in [0, 1] (alpha in [−1, 1]) with 95 % intervals by prompt; None with the reason in `undefined`.

    percent: pairs two labelers put in the same of {better, tie, worse}. decided: likewise, among pairs on which both
    have a preference. alpha: Krippendorff's, nominal over the three; a pair of answers counts half in either direction.
    pairs: doubly labeled pairs of answers. decided_pairs: those of them on which two labelers or more have a preference.
    """

    percent: float | None
    decided: float | None
    alpha: float | None
    alpha_ci95: tuple[float, float] | None
    pairs: int
    decided_pairs: int
    undefined: str = ""


def groups_of(rankings: Iterable[Ranking]) -> list[Group]:
    """Rankings by prompt and answers, whatever order they hold the answers in."""
    found: dict[tuple[str, tuple[str, ...]], list[tuple[str, list[int]]]] = defaultdict(list)
    for ranking in rankings:
        order = sorted(range(len(ranking.completions)), key=lambda i: ranking.completions[i])
        answers = tuple(ranking.completions[i] for i in order)
        found[str(ranking.prompt), answers].append((ranking.labeler, [ranking.ranks[i] for i in order]))
    return [
        Group(prompt, [labeler for labeler, _ in given], np.array([ranks for _, ranks in given]))
        for (prompt, _), given in found.items()
    ]


def agreement(rankings: Iterable[Ranking]) -> Agreement:
    """Agreement between the labelers who ranked the same answers."""
    return agreement_of(groups_of(rankings))


def agreement_of(groups: Iterable[Group]) -> Agreement:
    """Agreement within the groups, all labelers together."""
    tables: dict[str, np.ndarray] = defaultdict(lambda: np.zeros((3, 3)))
    same, alike, both, pairs, decided_pairs = 0.0, 0.0, 0.0, 0, 0
    for group in groups:
        n = len(group.ranks)
        if n < 2:
            continue
        counts = categories_of(group.ranks).sum(0)  # (P, 3)
        tables[group.prompt] += (counts.T @ counts - np.diag(counts.sum(0))) / (n - 1)
        same += (counts * (counts - 1)).sum() / (n * (n - 1))
        decided = counts[:, [BETTER, WORSE]]
        alike += (decided * (decided - 1)).sum()
        both += (decided.sum(1) * (decided.sum(1) - 1)).sum()
        pairs += len(counts)
        decided_pairs += int((decided.sum(1) > 1).sum())
    return _summary(tables, same / pairs if pairs else 0.0, alike, both, pairs, decided_pairs)


def agreement_by_labeler(groups: Iterable[Group]) -> dict[str, Agreement]:
    """Agreement of each labeler with everybody else in the groups: every judgement beside each of the others'."""
    tables: dict[str, dict[str, np.ndarray]] = defaultdict(lambda: defaultdict(lambda: np.zeros((3, 3))))
    pairs: dict[str, int] = defaultdict(int)
    decided_pairs: dict[str, int] = defaultdict(int)
    for group in groups:
        own = categories_of(group.ranks)  # (L, P, 3)
        others = own.sum(0) - own
        beside = np.einsum("lpi,lpj->lij", own, others)
        decided = (own[:, :, 1:].any(2) & others[:, :, 1:].any(2)).sum(1)  # (L,)
        for labeler, table, number in zip(group.labelers, beside, decided, strict=True):
            tables[labeler][group.prompt] += table + table.T
            pairs[labeler] += own.shape[1] if len(own) > 1 else 0
            decided_pairs[labeler] += int(number)
    found = {}
    for labeler, by_prompt in sorted(tables.items()):
        total = np.sum(list(by_prompt.values()), axis=0)
        alike, both = float(np.trace(total[1:, 1:])), float(total[1:, 1:].sum())
        same = float(np.trace(total) / total.sum()) if total.sum() else 0.0
        found[labeler] = _summary(by_prompt, same, alike, both, pairs[labeler], decided_pairs[labeler])
    return found


def _summary(
    tables: Mapping[str, np.ndarray],
    percent: float,
    alike: float,
    both: float,
    pairs: int,
    decided_pairs: int,
) -> Agreement:
    if not pairs:
        reason = "undefined because no two labelers ranked the same answers"
        return Agreement(None, None, None, None, 0, 0, reason)
    decided = float(alike / both) if both else None
    stacked = _either_way(np.stack(list(tables.values())))
    alpha = alpha_of(stacked.sum(0))
    if alpha is None:
        reason = "alpha is undefined because all judgements are ties"
        return Agreement(float(percent), decided, None, None, pairs, decided_pairs, reason)
    return Agreement(float(percent), decided, alpha, _alpha_interval(stacked), pairs, decided_pairs)


def _either_way(tables: np.ndarray) -> np.ndarray:
    """Tables (prompts, 3, 3) with every pair of answers looked at from either one, half each.

    Which answer is stored first says nothing: where that is always the better one, judgements would seem equal by chance.
    """
    swapped = [TIE, WORSE, BETTER]
    return (tables + tables[:, swapped][:, :, swapped]) / 2


def _alpha_interval(tables: np.ndarray) -> tuple[float, float]:
    """Of α = 1 − observed/expected disagreement: the interval of the observed share, by prompt; tables (prompts, 3, 3).

    The disagreement expected by chance is held, as in Hayes and Krippendorff 2007.
    """
    values = tables.sum((1, 2))
    differing = values - np.trace(tables, axis1=1, axis2=2)
    low, high = share_interval(differing / 2, values / 2)  # a pair of judgements stands twice in a table
    total = tables.sum(0)
    n = total.sum()
    by_chance = float((n * n - (total.sum(0) ** 2).sum()) / (n * (n - 1)))
    return max(-1.0, 1 - high / by_chance), 1 - low / by_chance


def consensus_of(groups: Iterable[Group]) -> dict[str, list[tuple[str, int, int]]]:
    """For each labeler and group (its prompt, pairs judged as most of the others do, pairs they are of one mind on)."""
    found: dict[str, list[tuple[str, int, int]]] = defaultdict(list)
    for group in groups:
        own = categories_of(group.ranks)
        others = own.sum(0) - own
        clear = 2 * others.max(2) > others.sum(2)  # (L, P)
        right = clear & (others.argmax(2) == own.argmax(2))
        for labeler, hits, pairs in zip(group.labelers, right.sum(1), clear.sum(1), strict=True):
            found[labeler].append((group.prompt, int(hits), int(pairs)))
    return dict(found)


def disagreement_share(ranks: np.ndarray) -> float:
    """Of the judgements on pairs of answers by pairs of labelers, the share that differs; ranks (L, K), 0 for L < 2."""
    n = len(ranks)
    if n < 2:
        return 0.0
    counts = categories_of(ranks).sum(0)
    return float(1 - (counts * (counts - 1)).sum() / (n * (n - 1) * len(counts)))


def categories_of(ranks: np.ndarray) -> np.ndarray:
    """(L, P, 3) of 0 and 1: in which of {tie, better, worse} each labeler puts each of the P = K(K−1)/2 pairs."""
    first, second = np.triu_indices(ranks.shape[1], 1)
    signs = np.sign(ranks[:, first] - ranks[:, second])  # −1: the first is better
    return np.stack([signs == 0, signs < 0, signs > 0], 2).astype(np.int64)


def alpha_of(coincidences: np.ndarray) -> float | None:
    """Krippendorff's α for nominal data (Krippendorff 2011, "Computing Krippendorff's alpha-reliability").

    coincidences (C, C): how often values c and k were paired within units. None where all values are equal.
    """
    totals = coincidences.sum(0)
    n = totals.sum()
    expected = n * n - (totals * totals).sum()
    if n <= 1 or expected <= 1e-9 * n * n:
        return None
    observed = n - np.trace(coincidences)
    return float(1 - (n - 1) * observed / expected)
