"""A labeler's own work: past answers to look at and edit, verdicts that overruled them, progress."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, and_, case, func, select

from annotate.store.accounts import labeler_id
from annotate.store.database import Database
from annotate.store.schema import Annotation, Batch, Labeler, RankingItem, Task
from annotate.work.assign import TaskView, view_tasks
from annotate.work.batches import batch_id
from rlhf.errors import LabelError

DAY_S = 86400.0


@dataclass(frozen=True)
class Verdict:
    """A lead's answer that stands over the labelers'."""

    ranks: tuple[int, ...]
    ratings: tuple[int | None, ...]
    verdict: str | None
    by: str
    comment: str
    created: float


@dataclass(frozen=True)
class PastAnswer:
    """One answer as it was given; ranks, ratings and flags follow task.completions. versions: with the edited ones."""

    id: int
    task: TaskView
    kind: str
    ranks: tuple[int, ...]
    ratings: tuple[int | None, ...]
    flags: tuple[tuple[str, ...], ...]
    verdict: str | None
    strength: int | None
    none_acceptable: bool
    demonstration: str | None
    comment: str
    time_s: float
    late: bool
    created: float
    shown_order: tuple[int, ...]
    versions: int
    overruled: Verdict | None
    fields: dict[str, Any]


@dataclass(frozen=True)
class OwnProgress:
    """Answers that stand, those since midnight UTC, skips; the batch's quota (0: none) and what is left of it.

    All with gold questions, which no number that a labeler sees tells apart; gold: the answers to these, of num_gold.
    """

    answers: int
    today: int
    skipped: int
    quota: int
    left: int | None
    gold: int
    num_gold: int


def history(
    database: Database, labeler: str, batch: str | None = None, limit: int = 50, before: int | None = None
) -> list[PastAnswer]:
    """The labeler's own standing answers, newest first; `before`: the id of the last one of the page before."""
    with database.read() as connection:
        number = labeler_id(connection, labeler)
        mine = [Annotation.labeler_id == number, Annotation.standing, ~Annotation.adjudicates]
        if batch is not None:
            mine.append(Task.batch_id == batch_id(connection, batch))
        if before is not None:
            mine.append(Annotation.id < before)
        return _answers(connection, number, mine, limit)


def past_answer(database: Database, labeler: str, annotation: int) -> PastAnswer:
    """One own answer, in the version that is named. Raises LabelError alike for another's and for one that is not there."""
    return _own_answer(database, labeler, annotation, Annotation.id == annotation)


def standing_answer(database: Database, labeler: str, annotation: int) -> PastAnswer:
    """The own answer that stands now in the place of one that was given; raises LabelError as `past_answer`."""
    task = select(Annotation.task_id).where(Annotation.id == annotation, ~Annotation.adjudicates)
    standing = and_(Annotation.task_id == task.scalar_subquery(), Annotation.standing)
    return _own_answer(database, labeler, annotation, standing)


def _own_answer(database: Database, labeler: str, annotation: int, condition: Any) -> PastAnswer:
    with database.read() as connection:
        number = labeler_id(connection, labeler)
        mine = [Annotation.labeler_id == number, ~Annotation.adjudicates]
        found = _answers(connection, number, [*mine, condition], 1)
    if not found:
        raise LabelError(f"annotation {annotation}: no such answer of yours")
    return found[0]


def _answers(connection: Connection, labeler: int, conditions: Sequence[Any], limit: int) -> list[PastAnswer]:
    query = select(Annotation.__table__).join(Task, Task.id == Annotation.task_id).where(*conditions)
    rows = connection.execute(query.order_by(Annotation.id.desc()).limit(limit)).all()
    tasks = dict.fromkeys(row.task_id for row in rows)
    views = {view.id: view for view in view_tasks(connection, list(tasks), labeler)}
    verdicts = verdicts_on(connection, list(tasks))
    items = items_of(connection, [row.id for row in rows])
    counted = select(Annotation.task_id, func.count()).where(
        Annotation.labeler_id == labeler, Annotation.task_id.in_(tasks), ~Annotation.adjudicates
    )
    versions = {task: number for task, number in connection.execute(counted.group_by(Annotation.task_id))}
    return [
        _past(row, views[row.task_id], items.get(row.id, []), versions[row.task_id], verdicts.get(row.task_id))
        for row in rows
    ]  # fmt: skip


def _past(
    row: Any, task: TaskView, items: Sequence[Any], versions: int, verdict: Verdict | None
) -> PastAnswer:
    ranks, ratings = ranks_in(items), tuple(item.rating for item in items)
    alike = verdict is None or (
        ratings == verdict.ratings if row.kind == "rate" else _same_order(ranks, verdict.ranks)
    )
    overruled = None if alike else verdict
    return PastAnswer(
        row.id, task, row.kind, ranks, ratings, tuple(tuple(item.flags) for item in items),
        row.verdict, row.strength, row.none_acceptable, row.demonstration, row.comment, row.time_s, row.late, row.created,
        tuple(row.shown_order), versions, overruled, row.fields,
    )  # fmt: skip


def _same_order(one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two rankings say the same of every pair; their numbers may differ."""
    places = range(len(one))
    return len(one) == len(other) and all(
        (one[i] < one[j]) == (other[i] < other[j]) for i in places for j in places
    )


def items_of(connection: Connection, annotations: Sequence[int]) -> dict[int, list[Any]]:
    """Rank, rating and flags by annotation, in the stored order of the task's answers."""
    items: dict[int, list[Any]] = {}
    for start in range(0, len(annotations), 500):
        some = annotations[start : start + 500]
        columns = (RankingItem.annotation_id, RankingItem.rank, RankingItem.rating, RankingItem.flags)
        query = select(*columns).where(RankingItem.annotation_id.in_(some))
        for row in connection.execute(query.order_by(RankingItem.annotation_id, RankingItem.place)):
            items.setdefault(row.annotation_id, []).append(row)
    return items


def ranks_in(items: Sequence[Any]) -> tuple[int, ...]:
    """The ranks of an answer's items; none where it put nothing in order, whatever it rates and flags."""
    return tuple(item.rank for item in items if item.rank is not None)


def verdicts_on(connection: Connection, tasks: Sequence[int]) -> dict[int, Verdict]:
    """The standing verdicts of leads by task."""
    found: list[Any] = []
    for start in range(0, len(tasks), 500):
        query = (
            select(Annotation.id, Annotation.task_id, Annotation.verdict, Annotation.comment, Annotation.created)
            .add_columns(Labeler.name)
            .join(Labeler, Labeler.id == Annotation.labeler_id)
            .where(Annotation.task_id.in_(tasks[start : start + 500]))
            .where(Annotation.standing, Annotation.adjudicates)
        )  # fmt: skip
        found += connection.execute(query).all()
    items = items_of(connection, [row.id for row in found])
    return {
        row.task_id: Verdict(
            ranks_in(items.get(row.id, [])), tuple(item.rating for item in items.get(row.id, [])),
            row.verdict, row.name, row.comment, row.created,
        )
        for row in found
    }  # fmt: skip


def own_progress(database: Database, labeler: str, batch: str | None = None) -> OwnProgress:
    """How much a labeler has done, in a batch or in all."""
    midnight = time.time() // DAY_S * DAY_S
    given = Annotation.kind != "skip"
    counts = [
        func.coalesce(func.sum(case((condition, 1), else_=0)), 0)
        for condition in (given, and_(given, Annotation.created >= midnight), ~given, and_(given, Task.gold.is_not(None)))
    ]  # fmt: skip
    with database.read() as connection:
        number = labeler_id(connection, labeler)
        query = select(*counts).select_from(Annotation).join(Task, Task.id == Annotation.task_id)
        query = query.where(Annotation.labeler_id == number, Annotation.standing, ~Annotation.adjudicates)
        quota = num_gold = 0
        if batch is not None:
            chosen = batch_id(connection, batch)
            query = query.where(Task.batch_id == chosen)
            quota = connection.execute(select(Batch.quota).where(Batch.id == chosen)).scalar_one()
            of_gold = select(func.count()).where(Task.batch_id == chosen, Task.gold.is_not(None))
            num_gold = connection.execute(of_gold).scalar_one()
        answers, today, skipped, gold = (int(count) for count in connection.execute(query).one())
    left = max(0, quota - answers) if quota else None
    return OwnProgress(answers, today, skipped, quota, left, gold, num_gold)
