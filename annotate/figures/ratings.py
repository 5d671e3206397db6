"""What labelers' ratings say: of checkpoints, and of the labelers themselves."""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from annotate.answers.ratings import Rating, apart_from_others
from rlhf.intervals import mean_interval


@dataclass(frozen=True)
class MeanRating:
    """A checkpoint's mean rating on one scale, with its 95 % interval by prompt; None where one prompt was rated."""

    checkpoint: str
    scale: int
    mean: float
    ci95: tuple[float, float] | None
    answers: int


@dataclass(frozen=True)
class LabelerRatings:
    """A labeler's mean rating on one scale; apart: mean distance in points from the others' mean for the same answers."""

    labeler: str
    scale: int
    mean: float
    apart: float | None
    answers: int


def ratings_by_checkpoint(given: Sequence[Rating]) -> list[MeanRating]:
    """Checkpoints from the best mean down; answers that no checkpoint of ours gave stand under an empty name."""
    found: dict[tuple[str, int], list[Rating]] = defaultdict(list)
    for one in given:
        found[one.checkpoint, one.scale].append(one)
    rows = [
        MeanRating(checkpoint, scale, *_mean(some), len(some)) for (checkpoint, scale), some in found.items()
    ]
    return sorted(rows, key=lambda row: (row.scale, -row.mean, row.checkpoint))


def _mean(given: Sequence[Rating]) -> tuple[float, tuple[float, float] | None]:
    """The mean, and its 95 % interval within the scale by prompt; None where one prompt was rated."""
    prompts, values = [one.prompt for one in given], [one.rating for one in given]
    if len({*prompts}) < 2:
        return statistics.fmean(values), None
    mean, low, high = mean_interval(prompts, values)
    return mean, (max(1.0, low), min(float(given[0].scale), high))


def ratings_by_labeler(given: Sequence[Rating]) -> list[LabelerRatings]:
    """Labelers by name; distances count on one scale at a time."""
    rows = []
    for scale in sorted({one.scale for one in given}):
        some = [one for one in given if one.scale == scale]
        apart = apart_from_others(some)
        own: dict[str, list[int]] = defaultdict(list)
        for one in some:
            own[one.labeler].append(one.rating)
        for name, values in sorted(own.items()):
            distance = statistics.fmean(apart[name]) if name in apart else None
            rows.append(LabelerRatings(name, scale, statistics.fmean(values), distance, len(values)))
    return rows
