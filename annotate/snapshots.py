"""Fixed sets of answers, so that a reward model can say which labels it was trained on."""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, select

from annotate.schema import (
    Annotation,
    Completion,
    Labeler,
    Prompt,
    RankingItem,
    Snapshot,
    SnapshotAnnotation,
    Task,
    TaskCompletion,
)
from rlhf.data import Ranking
from rlhf.errors import LabelError

RANKED = ("rank", "compare")  # kinds of answers that order completions


@dataclass(frozen=True)
class SnapshotRecord:
    """A snapshot's id, which is a hash of the answers in it, and their number."""

    id: str
    num_annotations: int


def take(connection: Connection, batch_id: int | None, include_simulated: bool) -> SnapshotRecord:
    """Fix the answers that stand now; the same set gets the same id. Raises LabelError where there is none."""
    ids = list(connection.execute(_standing(select(Annotation.id), batch_id, include_simulated)).scalars())
    if not ids:
        raise LabelError(
            "no answers to take a snapshot of; rank some first (rlhf sample, rlhf labels import)"
        )
    clients = connection.execute(
        _standing(select(Annotation.client_id), batch_id, include_simulated)
    ).scalars()
    name = hashlib.sha256("\n".join(clients).encode()).hexdigest()[:16]
    if connection.execute(select(Snapshot.id).where(Snapshot.id == name)).scalar() is None:
        connection.execute(
            insert(Snapshot), [{"id": name, "num_annotations": len(ids), "created": time.time()}]
        )
        connection.execute(
            insert(SnapshotAnnotation), [{"snapshot_id": name, "annotation_id": i} for i in ids]
        )
    return SnapshotRecord(name, len(ids))


def _standing(query: Any, batch_id: int | None, include_simulated: bool) -> Any:
    query = query.join(Task, Task.id == Annotation.task_id).join(Labeler, Labeler.id == Annotation.labeler_id)
    query = query.where(
        Annotation.standing, Annotation.kind != "skip", ~Annotation.adjudicates, Task.gold.is_(None)
    )
    query = query.order_by(Annotation.id)
    if batch_id is not None:
        query = query.where(Task.batch_id == batch_id)
    return query if include_simulated else query.where(Labeler.origin != "simulated")


def rankings(
    connection: Connection, batch_id: int | None, snapshot: str | None, include_simulated: bool
) -> list[Ranking]:
    """Rankings that stand, or a snapshot's whether they still stand or not, in the order they were given."""
    query = (
        select(Annotation.id, Annotation.task_id, Labeler.name, Prompt.content)
        .join(Task, Task.id == Annotation.task_id)
        .join(Prompt, Prompt.id == Task.prompt_id)
        .join(Labeler, Labeler.id == Annotation.labeler_id)
        .where(Annotation.kind.in_(RANKED))
        .order_by(Annotation.id)
    )
    if snapshot is not None:
        if connection.execute(select(Snapshot.id).where(Snapshot.id == snapshot)).scalar() is None:
            raise LabelError(f"snapshot {snapshot}: no such snapshot in the label store")
        chosen = SnapshotAnnotation.annotation_id == Annotation.id
        query = query.join(SnapshotAnnotation, chosen).where(SnapshotAnnotation.snapshot_id == snapshot)
    else:
        query = query.where(Annotation.standing, ~Annotation.adjudicates, Task.gold.is_(None))
    if batch_id is not None:
        query = query.where(Task.batch_id == batch_id)
    if not include_simulated:
        query = query.where(Labeler.origin != "simulated")
    heads = connection.execute(query).all()
    return _joined(connection, heads)


def _joined(connection: Connection, heads: Sequence[Any]) -> list[Ranking]:
    completions: dict[int, list[str]] = {}
    items: dict[int, list[Any]] = {}
    for start in range(0, len(heads), 500):
        some = heads[start : start + 500]
        texts = (
            select(TaskCompletion.task_id, Completion.text)
            .join(Completion, Completion.id == TaskCompletion.completion_id)
            .where(TaskCompletion.task_id.in_({head.task_id for head in some} - set(completions)))
            .order_by(TaskCompletion.task_id, TaskCompletion.place)
        )
        for task_id, text in connection.execute(texts):
            completions.setdefault(task_id, []).append(text)
        ranked = (
            select(RankingItem)
            .where(RankingItem.annotation_id.in_([head.id for head in some]))
            .order_by(RankingItem.annotation_id, RankingItem.place)
        )
        columns = (RankingItem.annotation_id, RankingItem.rank, RankingItem.rating, RankingItem.flags)
        for row in connection.execute(ranked.with_only_columns(*columns)):
            items.setdefault(row.annotation_id, []).append(row)
    return [
        Ranking(
            prompt=head.content,
            completions=tuple(completions[head.task_id]),
            ranks=tuple(row.rank for row in items[head.id]),
            labeler=head.name,
            flags=tuple(tuple(row.flags) for row in items[head.id]),
            ratings=tuple(row.rating for row in items[head.id]),
        )
        for head in heads
        if head.id in items  # "none of these is acceptable" may come without an order
    ]
