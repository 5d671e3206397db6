"""What a reward model is worth on people's rankings: which pairs it orders as they do, where, and whether its chances are true."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from rlhf.data import Prompt, Ranking
from rlhf.intervals import interval_by
from rlhf.measuring.evaluate import sign_test, win_rate_at_equal_length
from rlhf.splits import conversation_key, split_point

# Words of the preferred answer for each of the other's, up to and without the upper bound.
LENGTH_RATIOS = (
    ("shorter than half", 0.5),
    ("shorter", 0.8),
    ("about as long", 1.25),
    ("longer", 2.0),
)
LONGEST = "longer than twice"
MOST_VALUES = 6  # of a source's margins that are shown one by one; more are shown in thirds
NUM_BINS, PAIRS_PER_BIN = 10, 10
COLDEST, HOTTEST = 1e-3, 1e3


@dataclass(frozen=True)
class RankedPair:
    """One pair of answers of which a labeler preferred `chosen`, with both scores.

    margin: by how much it was preferred, in the source's unit, where the source says so.
    """

    prompt: Prompt
    chosen: str
    rejected: str
    chosen_score: float
    rejected_score: float
    source: str = ""
    labeler: str = ""
    margin: float | None = None

    @property
    def difference(self) -> float:
        return self.chosen_score - self.rejected_score

    @property
    def right(self) -> float:
        """1 where the preferred answer scores higher, one half for equal scores, else 0."""
        return 0.5 if self.difference == 0 else float(self.difference > 0)

    @property
    def words(self) -> tuple[int, int]:
        """Words of the preferred and of the other answer."""
        return len(self.chosen.split()), len(self.rejected.split())


def ranked_pairs(
    rankings: Iterable[Ranking], scores: Iterable[Sequence[float]], source: str = ""
) -> list[RankedPair]:
    """All pairs that are not ties; scores: per ranking, one for each of its completions."""
    return [
        RankedPair(
            ranking.prompt, ranking.completions[i], ranking.completions[j], row[i], row[j],
            source, ranking.labeler, _margin(ranking, i, j),
        )
        for ranking, row in zip(rankings, scores, strict=True)
        for i, j in ranking.pairs()
    ]  # fmt: skip


def _margin(ranking: Ranking, better: int, worse: int) -> float | None:
    if ranking.margin is not None and len(ranking.completions) == 2:
        return abs(ranking.margin)
    for given in (ranking.scores, ranking.ratings):
        if given and given[better] is not None and given[worse] is not None:
            return float(given[better]) - float(given[worse])  # type: ignore[arg-type]
    return None


def report_on_pairs(
    pairs: Sequence[RankedPair], labelers_agree: float | None = None, pairs_decided_twice: int = 0
) -> dict[str, Any]:
    """All that the report says of a reward model, as JSON; pairs: at least one.

    labelers_agree: how often two labelers who both prefer an answer prefer the same, the most that can be hoped for; of
    pairs_decided_twice pairs.
    """
    return {
        **beside_length(pairs),
        "labelers_agree": None if labelers_agree is None else round(labelers_agree, 4),
        "pairs_decided_twice": pairs_decided_twice,
        "baselines": {name: _baseline(pairs, score) for name, score in BASELINES.items()},
        "at_equal_length": accuracy_at_equal_length(pairs),
        "by_source": {
            name: beside_length(rows) for name, rows in grouped(pairs, lambda pair: pair.source).items()
        },
        "by_labeler": accuracy_by(pairs, lambda pair: pair.labeler),
        "by_length": accuracy_by(pairs, length_of_chosen, [*dict(LENGTH_RATIOS), LONGEST]),
        "by_margin": accuracy_by_margin(pairs),
        "calibration": calibration(pairs),
        "sure_and_wrong": sure_and_wrong(pairs),
    }


def accuracy(pairs: Sequence[RankedPair]) -> list[float]:
    """Share of the pairs ordered as their labelers did, and its 95 % interval, by conversation."""
    right = [float(pair.right) for pair in pairs]
    conversations = [conversation_key(pair.prompt) for pair in pairs]
    return _rounded(sum(right) / len(right), *interval_by(conversations, right, [1.0] * len(right)))


def accuracy_by(
    pairs: Sequence[RankedPair], group: Callable[[RankedPair], str], order: Sequence[str] = ()
) -> dict[str, dict[str, Any]]:
    """Pairs and accuracy by group, in the order given or else the largest group first."""
    found = grouped(pairs, group)
    names = [name for name in order if name in found] or list(found)
    return {name: {"pairs": len(found[name]), "accuracy": accuracy(found[name])} for name in names}


def grouped(pairs: Sequence[RankedPair], group: Callable[[RankedPair], str]) -> dict[str, list[RankedPair]]:
    """The pairs by group, the largest group first."""
    found: dict[str, list[RankedPair]] = {}
    for pair in pairs:
        found.setdefault(group(pair), []).append(pair)
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def beside_length(pairs: Sequence[RankedPair]) -> dict[str, Any]:
    """Pairs, accuracy, that of the longer answer, and p of a sign test between the two."""
    return {
        "pairs": len(pairs),
        "accuracy": accuracy(pairs),
        "longer_answer": _baseline(pairs, _num_words),
        "p_against_longer": p_against(pairs, _num_words),
    }


def length_of_chosen(pair: RankedPair) -> str:
    """How long the preferred answer is beside the other, as LENGTH_RATIOS names it."""
    chosen, rejected = pair.words
    if chosen == rejected:
        return "about as long"
    return next((name for name, limit in LENGTH_RATIOS if chosen < limit * rejected), LONGEST)


def accuracy_by_margin(pairs: Sequence[RankedPair]) -> dict[str, dict[str, Any]]:
    """Accuracy by how much people preferred: each of a source's margins, or its thirds where there are many."""
    named: dict[str, list[RankedPair]] = {}
    with_margin = sorted((p for p in pairs if p.margin is not None), key=lambda p: (p.source, p.margin))
    for source, group in groupby(with_margin, key=lambda pair: pair.source):
        rows = list(group)
        margins = np.array([pair.margin for pair in rows], float)
        if len(np.unique(margins)) <= MOST_VALUES:
            names = [f"{margin:g}" for margin in margins]
        else:
            low, high = np.quantile(margins, [1 / 3, 2 / 3])
            limits = {"lowest third": -np.inf, "middle third": low, "highest third": high}
            names = [max((n for n in limits if margin >= limits[n]), key=lambda n: limits[n]) for margin in margins]  # fmt: skip
        for name, pair in zip(names, rows, strict=True):
            named.setdefault(f"{source}, {name}" if source else name, []).append(pair)
    return {name: {"pairs": len(rows), "accuracy": accuracy(rows)} for name, rows in named.items()}


def accuracy_at_equal_length(pairs: Sequence[RankedPair]) -> list[float]:
    """The accuracy that is left when both answers are equally long, with its 95 % interval, by conversation."""
    chosen, rejected = zip(*(pair.words for pair in pairs), strict=True)
    scores = [(pair.chosen_score, pair.rejected_score) for pair in pairs]
    better, worse = zip(*scores, strict=True)
    conversations = [conversation_key(pair.prompt) for pair in pairs]
    return _rounded(*win_rate_at_equal_length(better, worse, chosen, rejected, conversations))


def _num_words(prompt: Prompt, answer: str) -> float:
    return float(len(answer.split()))


def _variety(prompt: Prompt, answer: str) -> float:
    words = answer.lower().split()
    return len(set(words)) / max(len(words), 1)


def _words_shared(prompt: Prompt, answer: str) -> float:
    asked = conversation_key(prompt).split()
    return len(set(asked) & set(answer.lower().split())) / max(len(set(asked)), 1)


# What a reward model must beat to have learned more than a habit of the labelers.
BASELINES: Mapping[str, Callable[[Prompt, str], float]] = {
    "the shorter answer": lambda prompt, answer: -_num_words(prompt, answer),
    "the answer that repeats fewer words": _variety,
    "the answer with more words of the prompt": _words_shared,
}


def _baseline(pairs: Sequence[RankedPair], score: Callable[[Prompt, str], float]) -> list[float]:
    return accuracy([_scored_by(pair, score) for pair in pairs])


def _scored_by(pair: RankedPair, score: Callable[[Prompt, str], float]) -> RankedPair:
    chosen, rejected = score(pair.prompt, pair.chosen), score(pair.prompt, pair.rejected)
    return RankedPair(pair.prompt, pair.chosen, pair.rejected, chosen, rejected)


def p_against(pairs: Sequence[RankedPair], score: Callable[[Prompt, str], float]) -> float:
    """Two-sided p of a sign test between the model and a baseline, over conversations of which one orders more pairs rightly.

    Pairs of one conversation are not independent: each conversation counts once.
    """
    ahead: dict[str, int] = defaultdict(int)
    for pair in pairs:
        other = _scored_by(pair, score)
        ahead[conversation_key(pair.prompt)] += (pair.right == 1) - (other.right == 1)
    return sign_test(sum(n > 0 for n in ahead.values()), sum(n < 0 for n in ahead.values()))


def calibration(pairs: Sequence[RankedPair]) -> dict[str, Any]:
    """How true the chance σ(|difference| / T) is that people prefer the answer scored higher: at T = 1 and at a fitted T.

    The fitted T of each half of the conversations is measured on the other half. Bins: [mean chance, share right, pairs].
    """
    halves: list[list[float]] = [[], []]
    for pair in pairs:
        halves[split_point(pair.prompt, "calibration") < 0.5].append(pair.difference)
    plain = [difference for half in halves for difference in half]
    scaled = [
        difference / fit_temperature(other or half)
        for half, other in (halves, halves[::-1])
        for difference in half
    ]
    return {
        "error": round(calibration_error(plain), 4),
        "temperature": round(fit_temperature(plain), 4),
        "error_at_temperature": round(calibration_error(scaled), 4),
        "bins": calibration_bins(plain),
        "bins_at_temperature": calibration_bins(scaled),
    }


def calibration_error(differences: Sequence[float]) -> float:
    """Expected calibration error, Σ over bins of (share of pairs) · |share right − mean chance| (Guo et al. 2017, eq. 3)."""
    bins = calibration_bins(differences)
    return sum(n * abs(right - chance) for chance, right, n in bins) / len(differences)


def calibration_bins(differences: Sequence[float]) -> list[list[float]]:
    """Up to NUM_BINS bins of equally many pairs by chance, lowest first: [mean chance, share right, pairs]."""
    by_chance = np.array(sorted(differences, key=abs), float)
    num_bins = max(1, min(NUM_BINS, len(by_chance) // PAIRS_PER_BIN))
    return [
        [
            round(float(np.mean(1 / (1 + np.exp(-np.abs(part))))), 4),
            round(float(np.mean(np.where(part == 0, 0.5, part > 0))), 4),
            len(part),
        ]
        for part in np.array_split(by_chance, num_bins)
    ]


def fit_temperature(differences: Sequence[float]) -> float:
    """T of the greatest likelihood of σ(difference / T) (Guo et al. 2017, section 4.2), between COLDEST and HOTTEST."""
    d = np.asarray(differences, float)
    low, high = math.log(1 / HOTTEST), math.log(1 / COLDEST)  # of 1 / T, in which the likelihood is concave
    for _ in range(60):
        middle = (low + high) / 2
        slope = float(np.sum(d / (1 + np.exp(np.clip(d * math.exp(middle), -500, 500)))))
        low, high = (middle, high) if slope > 0 else (low, middle)
    return math.exp(-(low + high) / 2)


def sure_and_wrong(pairs: Sequence[RankedPair], count: int = 20) -> list[dict[str, Any]]:
    """The pairs that the model orders against people with the greatest difference, surest first."""
    wrong = sorted((pair for pair in pairs if pair.difference < 0), key=lambda pair: pair.difference)
    return [
        {
            "prompt": pair.prompt,
            "people": pair.chosen,
            "model": pair.rejected,
            "chance": round(1 / (1 + math.exp(pair.difference)), 4),
            "source": pair.source,
            "labeler": pair.labeler,
        }
        for pair in wrong[:count]
    ]


def _rounded(*values: float) -> list[float]:
    return [round(value, 4) for value in values]
