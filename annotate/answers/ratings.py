"""Ratings of answers, for figures over very many of them and for where labelers' ratings are apart."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from sqlalchemy import Connection, and_, select

from annotate.answers.choice import Choice, asks_by_batch, standing
from annotate.store.schema import Annotation, Completion, Labeler, RankingItem, Task, TaskCompletion


@dataclass(frozen=True)
class Rating:
    """One labeler's rating of the answer at `place` of a task, from 1 to `scale`; kind: of what it was given in."""

    task: int
    place: int
    prompt: int
    labeler: str
    checkpoint: str
    kind: str
    rating: int
    scale: int


def ratings_given(connection: Connection, choice: Choice) -> list[Rating]:
    """The choice's standing ratings, oldest first, those beside an order too; a chat's thumbs are none."""
    thumb = and_(Annotation.kind == "rate", Annotation.verdict.is_not(None))
    columns = (
        Annotation.task_id, RankingItem.place, Task.prompt_id, Labeler.name, Completion.checkpoint, Annotation.kind,
        RankingItem.rating, Task.batch_id,
    )  # fmt: skip
    query = standing(connection, choice, select(*columns).select_from(Annotation))
    query = query.join(RankingItem, RankingItem.annotation_id == Annotation.id)
    at_place = and_(TaskCompletion.task_id == Task.id, TaskCompletion.place == RankingItem.place)
    query = query.join(TaskCompletion, at_place).join(
        Completion, Completion.id == TaskCompletion.completion_id
    )
    query = query.where(RankingItem.rating.is_not(None), ~thumb).order_by(Annotation.id, RankingItem.place)
    scales = {batch: asks.scale for batch, asks in asks_by_batch(connection).items()}
    return [
        Rating(task, place, prompt, labeler, checkpoint, kind, rating, scales[batch])
        for task, place, prompt, labeler, checkpoint, kind, rating, batch in connection.execute(query)
    ]


def apart_by_task(given: Iterable[Rating]) -> dict[int, float]:
    """How far the labelers of a task are apart in ratings they were asked for alone: 0 alike … 1 both ends of the scale.

    The mean over its answers and pairs of labelers. A task that one person rated is left out.
    """
    found: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for one in given:
        if one.kind == "rate":
            found[one.task][one.labeler].append((one.rating - 1) / (one.scale - 1))
    return {
        task: _mean_difference(np.array(list(by_labeler.values())))
        for task, by_labeler in found.items()
        if len(by_labeler) > 1
    }


def _mean_difference(ratings: np.ndarray) -> float:
    """Of ratings (L, K), the mean absolute difference over pairs of labelers."""
    first, second = np.triu_indices(len(ratings), 1)
    return float(np.abs(ratings[first] - ratings[second]).mean())


def apart_from_others(given: Sequence[Rating]) -> dict[str, list[float]]:
    """For each labeler how far each of their ratings is from the mean of the others' for the same answer, in points."""
    by_answer: dict[tuple[int, int], list[Rating]] = defaultdict(list)
    for one in given:
        by_answer[one.task, one.place].append(one)
    found: dict[str, list[float]] = defaultdict(list)
    for same in by_answer.values():
        total = sum(one.rating for one in same)
        for one in same[: len(same) if len(same) > 1 else 0]:
            found[one.labeler].append(abs(one.rating - (total - one.rating) / (len(same) - 1)))
    return dict(found)
