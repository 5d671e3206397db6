"""Batches that ask a checkpoint for fresh answers as tasks are opened.

The pages and the sampler meet in a table only: a labeler's lease marks prompts as wanted, the sampler process claims
them, samples, and makes tasks of them. A page never waits for a model, and a sampler that dies leaves its claims to
the next one.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, and_, bindparam, exists, func, insert, or_, select, update

from annotate.store.database import Database, retried, storable
from annotate.store.schema import Annotation, Batch, Lease, LiveRequest, Prompt, Task
from annotate.work.batches import (
    BatchSettings,
    NewTask,
    add_batch,
    add_prompts,
    add_tasks,
    batch_id,
    settings_of,
)
from annotate.work.completed import note_completed
from rlhf.data import Prompt as PromptText
from rlhf.errors import LabelError

AHEAD = 3  # open tasks to keep in stock beyond those being labeled
SAMPLING = {"temperature": 1.0, "max_new_tokens": 64}
LONGEST_LEASE_S = 86400.0  # one that ends later was given while a clock was wrong
CLAIM_S = 300.0  # a claim this old belonged to a sampler that died
# Statements of every lease are built once, as those of `annotate.work.assign`.
LABELER: Any = bindparam("labeler")
NOW: Any = bindparam("now")
HELD_BY_ALL = and_(Lease.task_id == Task.id, Lease.expires > NOW, Lease.expires <= NOW + LONGEST_LEASE_S)
NUM_LEASES = select(func.count()).select_from(Lease).where(HELD_BY_ALL).correlate(Task).scalar_subquery()
ANSWERED_IT = exists().where(and_(Annotation.task_id == Task.id, Annotation.labeler_id == LABELER))
HOLDS_IT = exists().where(and_(HELD_BY_ALL, Lease.labeler_id == LABELER))
STOCK = select(func.count()).where(Task.batch_id == bindparam("batch"), Task.done + NUM_LEASES < Task.overlap)
STOCK_FOR = STOCK.where(~ANSWERED_IT, ~HOLDS_IT)  # what was answered or skipped before does not come again


@dataclass(frozen=True)
class SamplingRequest:
    """A prompt a labeler will need: sample k answers from the checkpoint with these sampling settings."""

    id: int
    prompt: PromptText
    checkpoint: str
    k: int
    sampling: dict[str, Any]


@retried
def add_live_batch(
    database: Database,
    settings: BatchSettings,
    prompts: Sequence[PromptText],
    checkpoint: str,
    k: int = 4,
    sampling: dict[str, Any] | None = None,
    gold: Sequence[NewTask] = (),
) -> None:
    """Make a batch whose answers are sampled while people label; the first prompts are wanted at once.

    gold: questions that need no sampling, mixed in.
    """
    if not 2 <= k <= 9:
        raise LabelError(f"batch {settings.name}: k is {k}; between 2 and 9 answers can be ranked")
    live = {"checkpoint": checkpoint, "k": k, "sampling": sampling or SAMPLING}
    with database.write() as connection:
        batch = add_batch(connection, replace(settings, live=live), gold)
        row = {"batch_id": batch, "state": "waiting"}
        rows = [{**row, "prompt_id": prompt} for prompt in dict.fromkeys(add_prompts(connection, prompts))]
        if not rows:
            raise LabelError(f"batch {settings.name}: no prompts to sample answers to")
        connection.execute(insert(LiveRequest), rows)
        request_more(connection, batch)


def request_more(connection: Connection, batch: int, labeler: int | None = None) -> None:
    """Ask for as many more prompts as keep AHEAD tasks in stock: those that this labeler can still be given.

    Without a labeler those that anybody can be given.
    """
    given = {"batch": batch, "now": time.time()}
    if labeler is None:
        stock = connection.execute(STOCK, given).scalar_one()
    else:
        stock = connection.execute(STOCK_FOR, {**given, "labeler": labeler}).scalar_one()
    coming = connection.execute(
        select(func.count()).where(
            LiveRequest.batch_id == batch, LiveRequest.state.in_(("wanted", "claimed"))
        )
    ).scalar_one()
    waiting = select(LiveRequest.id).where(LiveRequest.batch_id == batch, LiveRequest.state == "waiting")
    next_ones = waiting.order_by(LiveRequest.id).limit(max(0, AHEAD - stock - coming))
    ids = list(connection.execute(next_ones.with_for_update(skip_locked=True)).scalars())
    if ids:
        connection.execute(update(LiveRequest).where(LiveRequest.id.in_(ids)).values(state="wanted"))


@retried
def claim_requests(database: Database, num: int = 8) -> list[SamplingRequest]:
    """Prompts for a sampler to work on now, at most `num`; each to one sampler, again once its claim is old."""
    now = time.time()
    ready = or_(
        LiveRequest.state == "wanted",
        # one far ahead was claimed while a clock was wrong
        and_(LiveRequest.state == "claimed", ~LiveRequest.claimed.between(now - CLAIM_S, now + CLAIM_S)),
    )
    query = (
        select(LiveRequest.id, Prompt.content, Batch.live)
        .join(Prompt, Prompt.id == LiveRequest.prompt_id)
        .join(Batch, Batch.id == LiveRequest.batch_id)
        .where(ready, Batch.open)
        .order_by(LiveRequest.id)
        .limit(num)
        .with_for_update(of=LiveRequest, skip_locked=True)
    )
    with database.write() as connection:
        rows = connection.execute(query).all()
        if rows:
            taken = LiveRequest.id.in_([row.id for row in rows])
            connection.execute(update(LiveRequest).where(taken).values(state="claimed", claimed=now))
    return [SamplingRequest(row.id, row.content, **row.live) for row in rows]


@retried
def fulfil_request(
    database: Database, request: int, completions: Sequence[str], ended: Sequence[bool | None]
) -> int | None:
    """Make a task of the sampled answers; returns its id, None where another sampler was faster.

    Raises LabelError for fewer than two answers that differ: then call `fail_request`.
    """
    with database.write() as connection:
        query = (
            select(LiveRequest.state, LiveRequest.batch_id, Batch.name, Prompt.content)
            .join(Batch, Batch.id == LiveRequest.batch_id)
            .join(Prompt, Prompt.id == LiveRequest.prompt_id)
            .where(LiveRequest.id == request)
        )
        row = connection.execute(query.with_for_update(of=LiveRequest)).first()
        if row is None:
            raise LabelError(f"request {request}: no such request for answers")
        if row.state == "done":
            return None
        settings = settings_of(connection, row.batch_id)
        size, made = len(completions), settings.live or {}
        task = NewTask(
            prompt=row.content,
            completions=tuple(completions),
            ended=tuple(ended),
            checkpoints=(made.get("checkpoint", ""),) * size,
            samplings=(made.get("sampling", {}),) * size,
        )
        (number,) = add_tasks(connection, row.batch_id, settings, [task])
        change = update(LiveRequest).where(LiveRequest.id == request)
        connection.execute(change.values(state="done", task_id=number, error=""))
        note_completed(connection, [row.batch_id])
        return number


@retried
def fail_request(database: Database, request: int, reason: str) -> None:
    """Give a prompt up, with the reason for the lead to read; the next prompt is wanted in its place."""
    with database.write() as connection:
        batch = connection.execute(
            select(LiveRequest.batch_id).where(LiveRequest.id == request)
        ).scalar_one_or_none()
        if batch is None:
            raise LabelError(f"request {request}: no such request for answers")
        change = update(LiveRequest).where(LiveRequest.id == request, LiveRequest.state != "done")
        connection.execute(change.values(state="failed", error=storable(reason)))
        request_more(connection, batch)
        note_completed(connection, [batch])


@retried
def want_failed_again(database: Database, batch: str) -> int:
    """Ask again for the prompts of a batch that were given up; returns how many these are."""
    with database.write() as connection:
        number = batch_id(connection, batch)
        given_up = and_(LiveRequest.batch_id == number, LiveRequest.state == "failed")
        values = {"state": "waiting", "claimed": None, "error": ""}
        found = connection.execute(update(LiveRequest).where(given_up).values(**values)).rowcount
        request_more(connection, number)
        note_completed(connection, [number])
        return found


def any_live(database: Database) -> bool:
    """Whether some open batch still wants fresh answers."""
    coming = LiveRequest.state.in_(("waiting", "wanted", "claimed"))
    query = select(LiveRequest.id).join(Batch, Batch.id == LiveRequest.batch_id).where(Batch.open, coming)
    with database.read() as connection:
        return connection.execute(query.limit(1)).first() is not None


def queue_counts(database: Database, batch: str) -> dict[str, int]:
    """How many prompts of a live batch are waiting, wanted, claimed, done and failed."""
    with database.read() as connection:
        mine = LiveRequest.batch_id == batch_id(connection, batch)
        counts = connection.execute(
            select(LiveRequest.state, func.count()).where(mine).group_by(LiveRequest.state)
        )
        found = {state: number for state, number in counts}
    return {state: found.get(state, 0) for state in ("waiting", "wanted", "claimed", "done", "failed")}
