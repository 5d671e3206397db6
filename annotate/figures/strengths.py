"""How strong checkpoints are against each other, from blind comparisons with ties."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from annotate.answers.choice import Choice
from annotate.answers.chosen import chosen_annotations
from annotate.answers.snapshots import stored_answers
from annotate.store.database import Database
from annotate.store.schema import Annotation
from rlhf.data import fingerprint
from rlhf.intervals import t_quantile

# A prior of N(0, 10²) on log strengths: nothing against data, but a checkpoint that always won stays finite.
PRIOR_PRECISION = 0.01
Game = tuple[str, str, str, str]  # prompt, checkpoint a, checkpoint b, verdict (a, b or tie)


@dataclass(frozen=True)
class Strength:
    """One checkpoint; log_strength is natural and sums to 0 over all, with its 95 % interval by prompt."""

    checkpoint: str
    log_strength: float
    ci95: tuple[float, float]
    wins: int
    ties: int
    losses: int


@dataclass(frozen=True)
class StrengthTable:
    """Strongest first; tie_parameter is Davidson's ν. Empty with the reason where nothing can be said."""

    rows: tuple[Strength, ...]
    tie_parameter: float | None
    comparisons: int
    undefined: str = ""


def strengths(database: Database, choice: Choice) -> StrengthTable:
    """The table of the choice's comparisons between answers of two known, different checkpoints."""
    games: list[Game] = []
    with database.read() as connection:
        for answer in stored_answers(
            connection, chosen_annotations(connection, choice, Annotation.kind == "compare")
        ):
            a, b = answer.checkpoints
            if a and b and a != b:
                verdict = "tie" if answer.row.verdict == "both_bad" else answer.row.verdict
                games.append((fingerprint([answer.prompt]), a, b, verdict))
    return strength_table(games)


def strength_table(games: Sequence[Game]) -> StrengthTable:
    """Davidson 1970: P(i beats j) = π_i / s, P(tie) = ν √(π_i π_j) / s with s = π_i + π_j + ν √(π_i π_j).

    Maximum likelihood under a weak prior. Both-bad counts as a tie.
    """
    names = sorted({name for _, a, b, _ in games for name in (a, b)})
    if not games:
        return StrengthTable((), None, 0, "undefined because no two checkpoints were compared")
    if not _connected(names, games):
        reason = "undefined because some checkpoints were never compared, even through others"
        return StrengthTable((), None, len(games), reason)
    counts = _counts(names, games)  # (prompts, n, n, 2): wins of i over j; ties of i and j for i < j
    beta = fit(counts.sum(0))
    reach = half_widths(counts, beta)
    wins, ties = counts.sum(0)[..., 0], counts.sum(0)[..., 1]
    rows = [
        Strength(
            name, float(beta[i]), (float(beta[i] - reach[i]), float(beta[i] + reach[i])),
            int(wins[i].sum()), int(ties[i].sum() + ties[:, i].sum()), int(wins[:, i].sum()),
        )
        for i, name in enumerate(names)
    ]  # fmt: skip
    rows.sort(key=lambda row: -row.log_strength)
    tied = float(np.exp(beta[-1])) if ties.sum() else 0.0
    return StrengthTable(tuple(rows), tied, len(games))


def _connected(names: Sequence[str], games: Sequence[Game]) -> bool:
    neighbours = defaultdict(set)
    for _, a, b, _ in games:
        neighbours[a].add(b)
        neighbours[b].add(a)
    seen, open_ones = {names[0]}, [names[0]]
    while open_ones:
        new = neighbours[open_ones.pop()] - seen
        seen |= new
        open_ones += new
    return len(seen) == len(names)


def _counts(names: Sequence[str], games: Sequence[Game]) -> np.ndarray:
    place, n = {name: i for i, name in enumerate(names)}, len(names)
    by_prompt: dict[str, np.ndarray] = defaultdict(lambda: np.zeros((n, n, 2)))
    for prompt, a, b, verdict in games:
        i, j = place[a], place[b]
        if verdict == "tie":
            by_prompt[prompt][min(i, j), max(i, j), 1] += 1
        else:
            i, j = (i, j) if verdict == "a" else (j, i)
            by_prompt[prompt][i, j, 0] += 1
    return np.stack(list(by_prompt.values()))


def half_widths(counts: np.ndarray, beta: np.ndarray) -> np.ndarray:
    """Half of each strength's 95 % interval, (n,); counts (prompts, n, n, 2), beta as `fit` gives it.

    The greater of two variances: the posterior's, which few or one-sided games leave large, and the one by prompt
    (Huber 1967), which counts what games on one prompt have in common.
    """
    n, prompts = len(beta) - 1, len(counts)
    design, outcomes = _design(n), np.stack([_outcomes(table) for table in counts])
    mean, curvature = _moments(design, outcomes.sum(0), beta)
    covariance = np.linalg.inv(curvature)
    slopes = np.einsum("cpk,pkd->cd", outcomes, design) - outcomes.sum(2) @ mean
    by_prompt = covariance @ (slopes.T @ slopes) @ covariance * prompts / max(prompts - 1, 1)
    if prompts == 1:
        by_prompt = covariance * outcomes.sum()  # all its games tell as much as one
    centred = np.eye(n, n + 1) - np.append(np.full(n, 1 / n), 0)
    variances = [np.diag(centred @ matrix @ centred.T) for matrix in (covariance, by_prompt)]
    return t_quantile(prompts - 1) * np.sqrt(np.maximum(*variances))


def _design(n: int) -> np.ndarray:
    """(pairs, 3, n + 1): the log weights of win, loss and tie are linear in log strengths and log ν."""
    i, j = np.triu_indices(n, 1)
    design, pairs = np.zeros((len(i), 3, n + 1)), np.arange(len(i))
    design[pairs, 0, i] = design[pairs, 1, j] = 1
    design[pairs, 2, i] = design[pairs, 2, j] = 0.5
    design[:, 2, n] = 1
    return design


def _outcomes(counts: np.ndarray) -> np.ndarray:
    """(pairs, 3): wins, losses and ties of each pair, from counts (n, n, 2)."""
    i, j = np.triu_indices(len(counts), 1)
    return np.stack([counts[i, j, 0], counts[j, i, 0], counts[i, j, 1]], 1)


def _moments(design: np.ndarray, outcomes: np.ndarray, beta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The design's mean in a game of each pair, (pairs, n + 1), and the curvature of −log posterior, (n + 1, n + 1)."""
    logits = design @ beta
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    games, mean = outcomes.sum(1), np.einsum("pk,pkd->pd", p, design)
    second = np.einsum("p,pk,pkd,pke->de", games, p, design, design)
    spread = second - np.einsum("p,pd,pe->de", games, mean, mean)
    return mean, spread + PRIOR_PRECISION * np.eye(len(beta))


def fit(counts: np.ndarray) -> np.ndarray:
    """Log strengths, then log ν, (n + 1,), of the posterior's mode by Newton's method (it is concave).

    counts (n, n, 2): [i, j, 0] how often i beat j, [i, j, 1] how often i < j tied. Strengths sum to 0.
    """
    n = len(counts)
    beta, design, outcomes = np.zeros(n + 1), _design(n), _outcomes(counts)
    for _ in range(100):
        mean, curvature = _moments(design, outcomes, beta)
        gradient = np.einsum("pk,pkd->d", outcomes, design) - outcomes.sum(1) @ mean - PRIOR_PRECISION * beta
        step = np.linalg.solve(curvature, gradient)
        beta = beta + step * min(1.0, 2.0 / max(np.abs(step).max(), 1e-12))
        if np.abs(step).max() < 1e-10:
            break
    beta[:n] -= beta[:n].mean()
    return beta
