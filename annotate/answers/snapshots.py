"""Fixed sets of answers, so that a reward model can say which labels it was trained on."""

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, select

from annotate.answers.choice import Choice, chunks
from annotate.answers.chosen import chosen_annotations
from annotate.store.database import Database, retried
from annotate.store.schema import Annotation, Batch, Labeler, Prompt, Snapshot, SnapshotAnnotation, Task
from annotate.work.asks import asks_from
from annotate.work.batches import answers_of
from annotate.work.history import items_of, ranks_in
from rlhf.data import Ranking
from rlhf.errors import LabelError


class NothingChosen(LabelError):
    """No answer stands that the choice means."""


@dataclass(frozen=True)
class SnapshotRecord:
    """A snapshot's id, which is a hash of the answers in it, and their number."""

    id: str
    num_annotations: int


@retried
def take_snapshot(database: Database, choice: Choice, only: Any = None) -> tuple[SnapshotRecord, list[int]]:
    """Fix the answers that stand now, those that meet a condition where one is given; returns their ids too, oldest first.

    The same set gets the same id. Raises NothingChosen where there is none.
    """
    with database.read() as connection:  # all of one moment; answers are never removed
        ids = chosen_annotations(connection, choice, only)
    if not ids:
        raise NothingChosen(
            "no answers to take a snapshot of; rank some first (rlhf sample, rlhf labels import)"
        )
    with database.write() as connection:
        return _snapshot_of(connection, ids), ids


def _snapshot_of(connection: Connection, ids: Sequence[int]) -> SnapshotRecord:
    """The snapshot of these answers, made where it is not there yet."""
    clients: list[str] = []
    for some in chunks(ids):
        query = select(Annotation.client_id).where(Annotation.id.in_(some)).order_by(Annotation.id)
        clients += connection.execute(query).scalars()
    name = hashlib.sha256("\n".join(clients).encode()).hexdigest()[:16]
    if connection.execute(select(Snapshot.id).where(Snapshot.id == name)).scalar() is None:
        row = {"id": name, "num_annotations": len(ids), "created": time.time()}
        connection.execute(insert(Snapshot), [row])
        rows = [{"snapshot_id": name, "annotation_id": number} for number in ids]
        connection.execute(insert(SnapshotAnnotation), rows)
    return SnapshotRecord(name, len(ids))


def ids_in(connection: Connection, snapshot: str) -> list[int]:
    """Ids of a snapshot's answers, whether they still stand or not. Raises LabelError where there is no such snapshot."""
    if connection.execute(select(Snapshot.id).where(Snapshot.id == snapshot)).scalar() is None:
        raise LabelError(f"snapshot {snapshot}: no such snapshot in the label store")
    query = select(SnapshotAnnotation.annotation_id).where(SnapshotAnnotation.snapshot_id == snapshot)
    return sorted(connection.execute(query).scalars())


@dataclass(frozen=True, kw_only=True)
class StoredAnswer:
    """One answer with everything known of it; `items` (rank, rating, flags) follow `completions`.

    scale: ratings go from 1 to this.
    """

    id: int
    task: int
    batch: str
    labeler: str
    origin: str
    prompt: Any
    completions: tuple[str, ...]
    checkpoints: tuple[str, ...]
    samplings: tuple[dict[str, Any], ...]
    items: Sequence[Any]
    row: Any
    scale: int

    @property
    def ranks(self) -> tuple[int, ...]:
        """Empty where nothing was put in order."""
        return ranks_in(self.items)

    def ranking(self) -> Ranking:
        """The answer as what a reward model learns from."""
        return Ranking(
            prompt=self.prompt,
            completions=self.completions,
            ranks=self.ranks,
            labeler=self.labeler,
            flags=tuple(tuple(item.flags) for item in self.items),
            ratings=tuple(item.rating for item in self.items),
        )


def stored_answers(connection: Connection, ids: Sequence[int]) -> Iterator[StoredAnswer]:
    """Answers by id, in the order given, a few hundred at a time in memory."""
    query = (
        select(Annotation.__table__, Labeler.name, Labeler.origin.label("labeler_origin"), Batch.name.label("batch"))
        .add_columns(Prompt.content, Batch.asks)
        .join(Task, Task.id == Annotation.task_id)
        .join(Batch, Batch.id == Task.batch_id)
        .join(Prompt, Prompt.id == Task.prompt_id)
        .join(Labeler, Labeler.id == Annotation.labeler_id)
    )  # fmt: skip
    for some in chunks(ids):
        rows = {row.id: row for row in connection.execute(query.where(Annotation.id.in_(some)))}
        items = items_of(connection, some)
        texts = answers_of(connection, sorted({row.task_id for row in rows.values()}))
        for number in some:
            row, shown = rows[number], texts.get(rows[number].task_id, [])
            yield StoredAnswer(
                id=number,
                task=row.task_id,
                batch=row.batch,
                labeler=row.name,
                origin=row.labeler_origin,
                prompt=row.content,
                completions=tuple(completion.text for completion in shown),
                checkpoints=tuple(completion.checkpoint for completion in shown),
                samplings=tuple(completion.sampling for completion in shown),
                items=items.get(number, []),
                row=row,
                scale=asks_from(row.asks).scale,
            )
