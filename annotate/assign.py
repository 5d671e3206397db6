"""Which task a labeler gets next. A lease holds one of a task's `overlap` places until it is answered or expires."""

import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, and_, delete, exists, func, insert, select, update

from annotate.schema import Annotation, Batch, Completion, Lease, Prompt, Task, TaskCompletion
from rlhf.data import Prompt as PromptText


@dataclass(frozen=True)
class TaskView:
    """A task as a labeler sees it; completions stand in the store's order, to be shown in a random one."""

    id: int
    batch: str
    kind: str
    prompt: PromptText
    completions: tuple[str, ...]
    ended: tuple[bool | None, ...]
    expires: float


def lease_tasks(
    connection: Connection,
    labeler_id: int,
    batch_id: int | None,
    num_tasks: int,
    minutes: float,
    skip_locked: bool,
) -> list[int]:
    """Lease up to `num_tasks` open tasks that the labeler has not answered; returns their ids.

    Must run in a write transaction: in SQLite it is the only writer, in PostgreSQL the chosen rows are locked.
    Own leases that are still open come first, so a reloaded page shows the same task again.
    """
    now = time.time()
    connection.execute(delete(Lease).where(Lease.expires <= now))
    mine = connection.execute(_own_leases(labeler_id, batch_id).limit(num_tasks)).scalars().all()
    query = _open_tasks(labeler_id, batch_id).limit(num_tasks - len(mine))
    chosen = (
        connection.execute(query.with_for_update(skip_locked=True) if skip_locked else query).scalars().all()
    )
    expires = now + 60 * minutes
    if chosen:
        rows = [{"task_id": task, "labeler_id": labeler_id, "expires": expires} for task in chosen]
        connection.execute(insert(Lease), rows)
    if mine:
        connection.execute(update(Lease).where(Lease.labeler_id == labeler_id).values(expires=expires))
    return [*mine, *chosen]


def _own_leases(labeler_id: int, batch_id: int | None) -> Any:
    query = select(Lease.task_id).join(Task, Task.id == Lease.task_id).where(Lease.labeler_id == labeler_id)
    return (query if batch_id is None else query.where(Task.batch_id == batch_id)).order_by(Lease.task_id)


def _open_tasks(labeler_id: int, batch_id: int | None) -> Any:
    leased = select(func.count()).select_from(Lease).where(Lease.task_id == Task.id).scalar_subquery()
    answered = exists().where(and_(Annotation.task_id == Task.id, Annotation.labeler_id == labeler_id))
    held = exists().where(and_(Lease.task_id == Task.id, Lease.labeler_id == labeler_id))
    # Every labeler walks the tasks in an order of their own: two at once seldom want the same place, and no fixed
    # group of people ranks everything together.
    scrambled = (Task.id * 40503 + labeler_id * 30011) % 65521
    query = select(Task.id).where(Task.done + leased < Task.overlap, ~answered, ~held)
    if batch_id is not None:
        query = query.where(Task.batch_id == batch_id)
    return query.order_by(Task.priority.desc(), scrambled, Task.id)


def release_task(connection: Connection, task_id: int, labeler_id: int) -> None:
    """Give a place back unanswered."""
    connection.execute(delete(Lease).where(Lease.task_id == task_id, Lease.labeler_id == labeler_id))


def view_tasks(connection: Connection, task_ids: list[int], labeler_id: int) -> list[TaskView]:
    """What the labeler needs to see of leased tasks, in the order of `task_ids`."""
    heads: dict[int, Any] = {}
    completions: dict[int, list[tuple[str, bool | None]]] = {}
    for start in range(0, len(task_ids), 500):
        ids = task_ids[start : start + 500]
        query = (
            select(Task.id, Batch.name, Batch.kind, Prompt.content, Lease.expires)
            .join(Batch, Batch.id == Task.batch_id)
            .join(Prompt, Prompt.id == Task.prompt_id)
            .join(Lease, and_(Lease.task_id == Task.id, Lease.labeler_id == labeler_id))
            .where(Task.id.in_(ids))
        )
        heads |= {row.id: row for row in connection.execute(query)}
        answers = (
            select(TaskCompletion.task_id, Completion.text, Completion.ended)
            .join(Completion, Completion.id == TaskCompletion.completion_id)
            .where(TaskCompletion.task_id.in_(ids))
            .order_by(TaskCompletion.task_id, TaskCompletion.place)
        )
        for task_id, text, ended in connection.execute(answers):
            completions.setdefault(task_id, []).append((text, ended))
    return [_view(heads[task_id], completions.get(task_id, [])) for task_id in task_ids]


def _view(head: Any, completions: list[tuple[str, bool | None]]) -> TaskView:
    texts, ended = tuple(text for text, _ in completions), tuple(ended for _, ended in completions)
    return TaskView(head.id, head.name, head.kind, head.content, texts, ended, head.expires)
