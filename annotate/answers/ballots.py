"""Rankings without their texts, for figures over very many of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sqlalchemy import Connection, select

from annotate.answers.agreement import Group
from annotate.answers.choice import ORDERING, Choice, asks_by_batch, chunks, standing
from annotate.store.schema import Annotation, Labeler, RankingItem, Task


@dataclass(frozen=True)
class Ballot:
    """One labeler's ranks of a task's answers, in their stored order; at_random: whether the order shown was drawn."""

    annotation: int
    task: int
    prompt: int
    labeler: str
    simulated: bool
    created: float
    shown_order: Sequence[int]
    at_random: bool
    ranks: tuple[int, ...]


def ballots(connection: Connection, choice: Choice) -> list[Ballot]:
    """The choice's standing answers that order completions, oldest first."""
    fixed = [batch for batch, asks in asks_by_batch(connection).items() if asks.shown_order == "fixed"]
    columns = (
        Annotation.id.label("annotation"), Annotation.task_id.label("task"), Task.prompt_id.label("prompt"),
        Labeler.name.label("labeler"), (Labeler.origin == "simulated").label("simulated"),
        Annotation.created, Annotation.shown_order, Task.batch_id.not_in(fixed).label("at_random"),
    )  # fmt: skip
    query = standing(connection, choice, select(*columns)).where(ORDERING)
    rows = connection.execute(query.order_by(Annotation.id)).all()
    ranks = ranks_of(connection, [row.annotation for row in rows])
    return [
        Ballot(**row._mapping, ranks=tuple(ranks[row.annotation])) for row in rows if row.annotation in ranks
    ]


def ranks_of(connection: Connection, annotations: Sequence[int]) -> dict[int, list[int]]:
    """Ranks by annotation, in the stored order of the task's answers."""
    found: dict[int, list[int]] = {}
    for some in chunks(annotations):
        query = select(RankingItem.annotation_id, RankingItem.rank).where(RankingItem.annotation_id.in_(some))
        for annotation, rank in connection.execute(
            query.order_by(RankingItem.annotation_id, RankingItem.place)
        ):
            if rank is not None:
                found.setdefault(annotation, []).append(rank)
    return found


def group_by_task(given: Sequence[Ballot]) -> dict[int, Group]:
    """Ballots by task."""
    by_task: dict[int, list[Ballot]] = {}
    for ballot in given:
        by_task.setdefault(ballot.task, []).append(ballot)
    return {
        task: Group(str(some[0].prompt), [one.labeler for one in some], np.array([one.ranks for one in some]))
        for task, some in by_task.items()
    }
