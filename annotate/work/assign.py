"""Which task a labeler gets next. A lease holds one of a task's `overlap` places until it is answered or expires.

Locks are taken in one order everywhere: the labeler's row, then tasks by id, then the batch. SQLite has one writer
and needs none of them; its dialect leaves them out.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from sqlalchemy import Connection, and_, bindparam, func, insert, select, update

from annotate.store.accounts import labeler_id
from annotate.store.database import Database, retried
from annotate.store.schema import MAX_INTEGER, Annotation, Batch, Lease, Prompt, Task
from annotate.work import live
from annotate.work.asks import asks_from
from annotate.work.batches import answers_of, batch_id, num_answers
from annotate.work.completed import answers_pending
from annotate.work.live import ANSWERED_IT, HOLDS_IT, LABELER, LONGEST_LEASE_S, NOW, NUM_LEASES
from rlhf.data import Prompt as PromptText
from rlhf.errors import LabelError

# Statements of every request are built once: that takes SQLAlchemy longer than a database takes to answer them.
IDS: Any = bindparam("ids", expanding=True)
OWN_AMONG = and_(Lease.labeler_id == LABELER, Lease.task_id.in_(IDS))
HELD_AMONG = select(Lease.task_id).where(OWN_AMONG)
HOLD_LONGER = update(Lease).where(OWN_AMONG).values(expires=bindparam("until"))
HOLD = insert(Lease)
STILL_FREE = select(Task.id).where(Task.id.in_(IDS), Task.done + NUM_LEASES < Task.overlap)
OWN_LEASES = (
    select(Lease.task_id)
    .join(Task, Task.id == Lease.task_id)
    .where(Lease.labeler_id == LABELER, Lease.expires > NOW)
    .order_by(Lease.task_id)
    .limit(bindparam("num_tasks"))
)
OWN_LEASES_IN = OWN_LEASES.where(Task.batch_id == bindparam("batch"))
OPEN = (
    select(Batch.id, Batch.quota, Batch.task_order, Batch.gold_every, Batch.live)
    .where(Batch.open)
    .order_by(Batch.id)
)
OPEN_ONE = OPEN.where(Batch.id == bindparam("batch"))
GOLDEN = and_(Task.batch_id == bindparam("batch"), Task.gold.is_not(None))
HAS_GOLD = select(Task.id).where(GOLDEN).limit(1)
NUM_GOLD_SEEN = select(func.count()).select_from(Task).where(GOLDEN, ANSWERED_IT | HOLDS_IT)
UNANSWERED = (
    select(Task.id)
    .where(Task.batch_id == bindparam("batch"), Task.done < Task.overlap, ~ANSWERED_IT)
    .limit(1)
)
NEXT_GOLD = select(Task.id).where(GOLDEN, ~ANSWERED_IT, ~HOLDS_IT).order_by(Task.shuffle).limit(1)
HELD = select(Lease.task_id).where(Lease.task_id == bindparam("task"), Lease.labeler_id == LABELER)
ANSWERED = (
    select(Annotation.id)
    .where(Annotation.task_id == bindparam("task"), Annotation.labeler_id == LABELER)
    .limit(1)
)
VIEWED = (
    select(Task.id, Batch.name, Batch.kind, Prompt.content, Batch.asks, Lease.expires, Lease.created)
    .join(Batch, Batch.id == Task.batch_id)
    .join(Prompt, Prompt.id == Task.prompt_id)
    .outerjoin(Lease, and_(Lease.task_id == Task.id, Lease.labeler_id == LABELER))
    .where(Task.id.in_(IDS))
)


@dataclass(frozen=True)
class TaskView:
    """A task as a labeler sees it; completions stand in the store's order, to be shown in `shown_order`.

    shown_order: stored places, random by task and labeler and the same after a reload. started: when the labeler
    first got the task; expires: until when its place is held. Both 0 for a task that is not leased.
    """

    id: int
    batch: str
    kind: str
    prompt: PromptText
    completions: tuple[str, ...]
    ended: tuple[bool | None, ...]
    expires: float
    started: float
    shown_order: tuple[int, ...]


def lease_tasks(
    connection: Connection, labeler: int, batch: int | None, num_tasks: int, minutes: float
) -> list[int]:
    """Lease up to `num_tasks` open tasks that the labeler has not answered; returns their ids.

    Own leases that are still open come first, so a reloaded page shows the same task again. `labeler` is locked. Raises
    LabelError for more than LONGEST_LEASE_S.
    """
    if 60 * minutes > LONGEST_LEASE_S:
        raise LabelError(f"a lease of {minutes} minutes; {LONGEST_LEASE_S // 60:.0f} at most")
    now = time.time()
    asked = {"labeler": labeler, "batch": batch, "now": now, "num_tasks": num_tasks}
    own = connection.execute(OWN_LEASES if batch is None else OWN_LEASES_IN, asked)
    chosen = list(own.scalars())
    if chosen:
        connection.execute(HOLD_LONGER, {"labeler": labeler, "ids": chosen, "until": now + 60 * minutes})
    for row in _open_batches(connection, batch):
        if len(chosen) >= num_tasks:
            break
        room = num_tasks - len(chosen)
        if row.quota:
            room = min(room, row.quota - num_answers(connection, row.id, labeler, gold=True))
        if room <= 0:
            continue
        found = _choose(connection, labeler, row, room)
        _hold(connection, labeler, found, now, minutes)
        chosen += found
        if row.live is not None:
            live.request_more(connection, row.id, labeler)
    return chosen


def _hold(connection: Connection, labeler: int, tasks: Sequence[int], now: float, minutes: float) -> None:
    """Lease tasks that are free; those which this labeler had before have a row already."""
    if not tasks:
        return
    mine, until = {"labeler": labeler, "ids": tasks}, now + 60 * minutes
    had = set(connection.execute(HELD_AMONG, mine).scalars())
    if had:
        connection.execute(HOLD_LONGER, {**mine, "until": until})
    row = {"labeler_id": labeler, "expires": until, "created": now}
    if new := [{"task_id": task, **row} for task in tasks if task not in had]:
        connection.execute(HOLD, new)


def _open_batches(connection: Connection, batch: int | None) -> Sequence[Any]:
    return connection.execute(OPEN if batch is None else OPEN_ONE, {"batch": batch}).all()


def _choose(connection: Connection, labeler: int, batch: Any, num_tasks: int) -> list[int]:
    gold = _gold_due(connection, labeler, batch)
    if len(gold) >= num_tasks:
        return gold[:num_tasks]
    chosen: list[int] = []
    for queries in LOCKING[batch.task_order]:
        for query in queries:
            while room := num_tasks - len(gold) - len(chosen):
                tasks = list(connection.execute(query, _asked(labeler, batch, room, chosen)).scalars())
                if not tasks:
                    break
                chosen += _still_free(connection, tasks)
            if chosen or connection.dialect.name == "sqlite":
                break
    return gold + chosen


def _still_free(connection: Connection, tasks: Sequence[int]) -> list[int]:
    """Those of the locked tasks that have a place. PostgreSQL chose them by what it saw before it got the lock."""
    if not tasks:
        return []
    free = set(connection.execute(STILL_FREE, {"ids": tasks, "now": time.time()}).scalars())
    return [task for task in tasks if task in free]


def _candidates() -> dict[str, list[Any]]:
    """Queries for open tasks by a batch's order, to be tried one after another, each answered by an index (10,000 tasks:
    under 1 ms).

    By priority, or at random: then every labeler walks the tasks from a place of their own, so that two at once seldom
    want the same one and no fixed group of people ranks everything together.
    """
    free = (Task.done < Task.overlap, Task.done + NUM_LEASES < Task.overlap, ~ANSWERED_IT, ~HOLDS_IT)
    chosen: Any = bindparam("chosen", expanding=True)
    start: Any = bindparam("start")
    query = select(Task.id).where(Task.batch_id == bindparam("batch"), *free, Task.id.not_in(chosen))
    query = query.limit(bindparam("num_tasks"))
    shuffled = query.order_by(Task.shuffle)
    return {
        "priority": [query.order_by(Task.priority.desc(), Task.shuffle.desc())],
        "random": [shuffled.where(Task.shuffle >= start), shuffled.where(Task.shuffle < start)],
    }


CANDIDATES = _candidates()
# A row another transaction has locked is being leased or answered: pass it by, but wait for it when nothing else is left,
# for its place may stay free.
LOCKING = {
    order: [
        [query.with_for_update(of=Task, key_share=True, skip_locked=passing) for passing in (True, False)]
        for query in queries
    ]
    for order, queries in CANDIDATES.items()
}


def _asked(labeler: int, batch: Any, num_tasks: int, chosen: Sequence[int] = ()) -> dict[str, Any]:
    """What CANDIDATES are asked with."""
    start = Random(f"{labeler}-{batch.id}").randrange(MAX_INTEGER)
    named = {"labeler": labeler, "batch": batch.id, "start": start, "now": time.time()}
    return {**named, "chosen": chosen, "num_tasks": num_tasks}


def _gold_due(connection: Connection, labeler: int, batch: Any) -> list[int]:
    """The gold question that is due, if any: one in every `gold_every` tasks, itself included, at a place nobody can foresee."""
    if connection.execute(HAS_GOLD, {"batch": batch.id}).first() is None:
        return []
    asked = {"batch": batch.id, "labeler": labeler, "now": time.time()}
    seen = connection.execute(NUM_GOLD_SEEN, asked).scalar_one()
    block, place = divmod(num_answers(connection, batch.id, labeler) + seen, batch.gold_every)
    due = Random(f"{labeler}-{batch.id}-{block}").randrange(batch.gold_every)
    if seen > block or (seen == block and place < due):
        return []
    return list(connection.execute(NEXT_GOLD, asked).scalars())


def release_task(connection: Connection, task: int, labeler: int) -> None:
    """Give a place back unanswered."""
    mine = and_(Lease.task_id == task, Lease.labeler_id == labeler)
    connection.execute(update(Lease).where(mine).values(expires=0.0))


def renew(database: Database, labeler: str, task: int, minutes: float = 30.0) -> float | None:
    """Hold a leased task for `minutes` from now; returns until when, None once the place has gone to somebody else."""
    view = lease_one(database, labeler, task, minutes)
    return view.expires if view is not None and view.expires > time.time() else None


@retried
def lease_one(database: Database, labeler: str, task: int, minutes: float = 30.0) -> TaskView:
    """A task the labeler holds or held, leased again while it has a place; unleased (expires 0) where it has none.

    Raises LabelError for a task this labeler never had, as for one that does not exist.
    """
    now = time.time()
    with database.write() as connection:
        number = labeler_id(connection, labeler, lock=True)
        mine = and_(Lease.task_id == task, Lease.labeler_id == number)
        lease = connection.execute(select(Lease.expires).where(mine)).first()
        if not was_given(connection, number, task):
            raise LabelError(f"task {task}: not a task of yours; open the next one")
        if lease:
            connection.execute(select(Task.id).where(Task.id == task).with_for_update(key_share=True))
            if lease.expires > now or _still_free(connection, [task]):
                connection.execute(update(Lease).where(mine).values(expires=now + 60 * minutes))
        return view_tasks(connection, [task], number)[0]


def was_given(connection: Connection, labeler: int, task: int) -> bool:
    """Whether a task was ever given out to a labeler, who may answer it even once its place has gone."""
    held = connection.execute(HELD, {"task": task, "labeler": labeler}).first()
    return held is not None or has_answered(connection, labeler, task)


def has_answered(connection: Connection, labeler: int, task: int) -> bool:
    return connection.execute(ANSWERED, {"task": task, "labeler": labeler}).first() is not None


def reason_without_task(database: Database, labeler: str, batch: str | None = None) -> str:
    """Why there was no task: sampling (wait for fresh answers), busy (others hold what is left), quota, closed, done, or
    nothing when there is one now.
    """
    with database.read() as connection:
        number = labeler_id(connection, labeler)
        chosen = None if batch is None else batch_id(connection, batch)
        rows = _open_batches(connection, chosen)
        reasons = [_why(connection, number, row) for row in rows]
    return next(
        (reason for reason in ("", "sampling", "busy", "quota") if reason in reasons),
        "done" if rows else "closed",
    )


def _why(connection: Connection, labeler: int, batch: Any) -> str:
    if batch.quota and num_answers(connection, batch.id, labeler, gold=True) >= batch.quota:
        return "quota"
    asked = _asked(labeler, batch, 1)
    if any(connection.execute(query, asked).first() for query in CANDIDATES[batch.task_order]):
        return ""
    if batch.live is not None and answers_pending(connection, batch.id):
        return "sampling"
    return "busy" if connection.execute(UNANSWERED, asked).first() else "done"


def view_tasks(connection: Connection, task_ids: Sequence[int], labeler: int) -> list[TaskView]:
    """What the labeler needs to see of tasks, in the order of `task_ids`. Raises LabelError for one that is not there."""
    heads: dict[int, Any] = {}
    answers: dict[int, list[Any]] = {}
    for start in range(0, len(task_ids), 500):
        ids = list(task_ids[start : start + 500])
        heads |= {row.id: row for row in connection.execute(VIEWED, {"ids": ids, "labeler": labeler})}
        answers |= answers_of(connection, ids)
    for task in task_ids:
        if task not in heads:
            raise LabelError(f"task {task}: no such task")
    return [_view(heads[task], answers.get(task, []), labeler) for task in task_ids]


def _view(head: Any, answers: Sequence[Any], labeler: int) -> TaskView:
    order = list(range(len(answers)))
    if asks_from(head.asks).shown_order == "random":
        Random(f"{head.id}-{labeler}").shuffle(order)
    expires = head.expires if head.expires and head.expires > time.time() else 0.0
    return TaskView(
        head.id,
        head.name,
        head.kind,
        head.content,
        tuple(answer.text for answer in answers),
        tuple(answer.ended for answer in answers),
        expires,
        head.created or 0.0,
        tuple(order),
    )
