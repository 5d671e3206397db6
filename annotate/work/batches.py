"""Batches: which prompts and answers are put up for labeling, and what is asked about them."""

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from random import Random
from typing import Any

from sqlalchemy import Connection, and_, bindparam, case, func, insert, select, update

from annotate.store.accounts import labeler_id
from annotate.store.database import Database, retried, storable
from annotate.store.schema import (
    COUNTED,
    MAX_INTEGER,
    Annotation,
    Batch,
    Completion,
    Prompt,
    Task,
    TaskCompletion,
)
from annotate.work.asks import ASKED, Asks, asks_from, changed_asks, check_asks
from annotate.work.completed import note_completed
from rlhf.data import ROLES, as_messages, fingerprint
from rlhf.data import Prompt as PromptText
from rlhf.errors import LabelError

KINDS = ("rank", "demonstrate", "compare", "rate")
RANKED = ("rank", "compare")  # kinds of answers that are asked for an order of completions
ORDERS = ("random", "priority")
CHANGEABLE = frozenset({"guidelines", "quota", "task_order", "gold_every", "open", "overlap"})


@dataclass(frozen=True, kw_only=True)
class NewTask:
    """A prompt and the answers to label, each with whether its model stopped by itself, checkpoint and sampling.

    gold: the known ranks of the answers, which make the task a gold question. overlap: labelers wanted, where that
    differs from the batch's.
    """

    prompt: PromptText
    completions: tuple[str, ...]
    ended: tuple[bool | None, ...] = ()
    checkpoints: tuple[str, ...] = ()
    samplings: tuple[dict[str, Any], ...] = ()
    priority: float = 0.0
    gold: tuple[int, ...] | None = None
    overlap: int | None = None


@dataclass(frozen=True, kw_only=True)
class BatchSettings:
    """How a batch is labeled. overlap: labelers per task; quota: answers per labeler, 0 without limit.

    task_order: random or priority (highest first); gold_every: one task in so many is a gold question where the batch
    has any; live: checkpoint, k and sampling of answers made on demand; origin: label, import or chat; source: a hash
    of what made the batch; webhook_url is told when every task is done.
    """

    name: str
    kind: str = "rank"
    guidelines: str = ""
    overlap: int = 1
    asks: Asks = field(default_factory=Asks)
    quota: int = 0
    task_order: str = "random"
    gold_every: int = 10
    open: bool = True
    origin: str = "label"
    source: str = ""
    live: dict[str, Any] | None = None
    webhook_url: str = ""


@dataclass(frozen=True)
class BatchOverview:
    """A batch on one line: its tasks (gold questions aside), how many are finished, answers given and wanted."""

    name: str
    kind: str
    tasks: int
    finished: int
    answers: int
    wanted: int
    open: bool
    origin: str
    task_order: str
    live: bool


# Statements of every request are built once: that takes SQLAlchemy longer than a database takes to answer them.
BY_NAME = select(Batch.id).where(Batch.name == bindparam("name"))
SETTINGS = select(*(getattr(Batch, found.name) for found in fields(BatchSettings))).where(
    Batch.id == bindparam("batch")
)
ANSWERS = (
    select(
        TaskCompletion.task_id, Completion.text, Completion.ended, Completion.checkpoint, Completion.sampling
    )
    .join(Completion, Completion.id == TaskCompletion.completion_id)
    .where(TaskCompletion.task_id.in_(bindparam("tasks", expanding=True)))
    .order_by(TaskCompletion.task_id, TaskCompletion.place)
)
NUM_ANSWERS = (
    select(func.count())
    .select_from(Annotation)
    .join(Task, Task.id == Annotation.task_id)
    .where(
        Annotation.labeler_id == bindparam("labeler"),
        Task.batch_id == bindparam("batch"),
        COUNTED,
    )
)
NUM_REAL_ANSWERS = NUM_ANSWERS.where(Task.gold.is_(None))


def batch_id(connection: Connection, name: str) -> int:
    """A batch's id. Raises LabelError, naming the batches that are there, for an unknown name."""
    found = connection.execute(BY_NAME, {"name": name}).scalar()
    if found is None:
        there = ", ".join(connection.execute(select(Batch.name).order_by(Batch.id)).scalars()) or "none"
        raise LabelError(f"batch {name}: no such batch (there: {there})")
    return found


@retried
def make_batch(database: Database, settings: BatchSettings, tasks: Sequence[NewTask]) -> None:
    """Make a batch with its tasks, in a transaction of its own."""
    with database.write() as connection:
        add_batch(connection, settings, tasks)


def add_batch(connection: Connection, settings: BatchSettings, tasks: Sequence[NewTask]) -> int:
    """Make a batch with its tasks; returns its id. Raises LabelError for a name that is taken or a task nobody can do."""
    _check(settings)
    row = {**asdict(settings), "asks": asdict(settings.asks), "created": time.time()}
    if connection.execute(select(Batch.id).where(Batch.name == settings.name)).first():
        raise LabelError(f"batch {settings.name}: is there already; choose another name")
    connection.execute(insert(Batch), [row])
    number = batch_id(connection, settings.name)
    add_tasks(connection, number, settings, tasks)
    return number


def _check(settings: BatchSettings) -> None:
    if not settings.name.strip() or len(settings.name) > 200 or storable(settings.name) != settings.name:
        raise LabelError(f"batch {settings.name!r}: a name has 1 to 200 characters")
    if settings.kind not in KINDS:
        raise LabelError(
            f"batch {settings.name}: kind is one of {', '.join(KINDS)}, not {settings.kind or 'nothing'}"
        )
    if settings.overlap < 1 or settings.quota < 0 or settings.gold_every < 1:
        raise LabelError(
            f"batch {settings.name}: overlap and gold-every are at least 1, the quota at least 0"
        )
    if max(settings.overlap, settings.quota, settings.gold_every) > MAX_INTEGER:
        raise LabelError(f"batch {settings.name}: overlap, gold-every and quota are at most {MAX_INTEGER:,}")
    if settings.task_order not in ORDERS:
        raise LabelError(
            f"batch {settings.name}: the order is one of {', '.join(ORDERS)}, not {settings.task_order}"
        )
    check_asks(settings.name, settings.kind, settings.asks)


def batch_settings(database: Database, name: str) -> BatchSettings:
    """A batch's settings as they are now."""
    with database.read() as connection:
        return settings_of(connection, batch_id(connection, name))


def settings_of(connection: Connection, batch: int) -> BatchSettings:
    """The settings of a batch, from its row."""
    row = connection.execute(SETTINGS, {"batch": batch}).one()
    return BatchSettings(**{**row._mapping, "asks": asks_from(row.asks)})


@retried
def change_batch(database: Database, name: str, **changes: Any) -> None:
    """Change settings of a batch by their names: CHANGEABLE, and what it asks (`Asks`) but for shown_order and scale.

    A new overlap is that of its tasks too; the same one again changes none that has its own.
    """
    asked = {key: value for key, value in changes.items() if key in ASKED}
    unknown = set(changes) - CHANGEABLE - set(asked)
    if unknown:
        raise LabelError(f"batch {name}: {', '.join(sorted(unknown))} cannot be changed")
    with database.write() as connection:
        number = batch_id(connection, name)
        if "overlap" in changes:  # tasks are locked before their batch, as everywhere
            real = and_(Task.batch_id == number, Task.gold.is_(None))
            connection.execute(select(Task.id).where(real).order_by(Task.id).with_for_update(key_share=True))
        connection.execute(select(Batch.id).where(Batch.id == number).with_for_update())
        before = settings_of(connection, number)
        values = {key: value for key, value in changes.items() if key not in asked}
        after = replace(before, **values, asks=changed_asks(name, before.asks, asked))
        _check(after)
        if after.overlap != before.overlap:
            connection.execute(update(Task).where(real).values(overlap=after.overlap))
            note_completed(connection, [number])
        row = values | ({"asks": asdict(after.asks)} if asked else {})
        if row:
            connection.execute(update(Batch).where(Batch.id == number).values(**row))


def add_tasks(
    connection: Connection, batch: int, settings: BatchSettings, tasks: Sequence[NewTask], before: int = 0
) -> list[int]:
    """Add tasks to a batch; returns their ids. Raises LabelError naming the first that cannot be labeled.

    before: how many of the same list were added before these.
    """
    for number, task in enumerate(tasks, start=before + 1):
        _check_task(number, task, settings.kind)
    prompts = add_prompts(connection, [task.prompt for task in tasks])
    # Numbered before they are written, because rows of three tables name each other and are written in bulk.
    ids = _new_ids(connection, Task, len(tasks))
    answer_ids = iter(_new_ids(connection, Completion, sum(len(task.completions) for task in tasks)))
    rng = Random(f"{batch}-{ids[0] if ids else 0}")
    rows: list[dict[str, Any]] = []
    answers: list[dict[str, Any]] = []
    places: list[dict[str, int]] = []
    for task_id, task, prompt in zip(ids, tasks, prompts, strict=True):
        wanted = (task.overlap or settings.overlap) if task.gold is None else 0
        row = {"id": task_id, "batch_id": batch, "prompt_id": prompt, "overlap": wanted, "done": 0}
        gold = None if task.gold is None else list(task.gold)
        rows.append({**row, "priority": task.priority, "shuffle": rng.randrange(MAX_INTEGER), "gold": gold})
        for place, answer in enumerate(_answers(task)):
            answer_id = next(answer_ids)
            places.append({"task_id": task_id, "place": place, "completion_id": answer_id})
            answers.append({"id": answer_id, "prompt_id": prompt, **answer})
    for table, values in ((Task, rows), (Completion, answers), (TaskCompletion, places)):
        if values:
            connection.execute(insert(table), values)
    return ids


def answers_of(connection: Connection, tasks: Sequence[int]) -> dict[int, list[Any]]:
    """Answers of tasks, at most some hundred: rows of text, ended, checkpoint and sampling in their stored order."""
    found: dict[int, list[Any]] = {}
    for row in connection.execute(ANSWERS, {"tasks": tasks}):
        found.setdefault(row.task_id, []).append(row)
    return found


def _check_task(number: int, task: NewTask, kind: str) -> None:
    size, where = len(task.completions), f"task {number}"
    if task.gold is not None:
        where += ", a gold question"
        if kind not in RANKED:
            raise LabelError(
                f"{where}: these belong to {' and '.join(RANKED)}, not to {kind}; leave them out"
            )
    least, most = {"rank": (2, 9), "compare": (2, 2), "rate": (1, 9)}.get(kind, (0, 9))
    if not least <= size <= most:
        done = {"rank": "ranked", "rate": "rated"}.get(kind)
        wanted = f"between {least} and {most} can be {done}" if done else f"{kind} takes {most}"
        raise LabelError(f"{where}: {size} answers; {wanted}")
    messages = as_messages(task.prompt)
    if not messages:
        raise LabelError(f"{where}: the prompt has no message; give a text or at least one message")
    if not math.isfinite(task.priority):
        raise LabelError(f"{where}: a priority of {task.priority}; give a finite number")
    for message in messages:
        if message.get("role") not in ROLES or not isinstance(message.get("content"), str):
            raise LabelError(f"{where}: a message has a role ({', '.join(ROLES)}) and a content of text")
    texts = [message["content"] for message in messages]
    if any(storable(text) != text for text in (*texts, *task.completions)):
        raise LabelError(
            f"{where}: the text holds a NUL character or half a surrogate pair, which databases cannot keep"
        )
    for name in ("ended", "checkpoints", "samplings"):
        if getattr(task, name) and len(getattr(task, name)) != size:
            raise LabelError(f"{where}: {len(getattr(task, name))} {name} for {size} answers")
    if task.gold is not None and (len(task.gold) != size or min(task.gold, default=0) < 0):
        raise LabelError(f"{where}: {len(task.gold)} known ranks for {size} answers; 0 is best")


def _answers(task: NewTask) -> Iterable[dict[str, Any]]:
    size = len(task.completions)
    ended = task.ended or (None,) * size
    checkpoints, samplings = task.checkpoints or ("",) * size, task.samplings or ({},) * size
    for text, stopped, checkpoint, sampling in zip(
        task.completions, ended, checkpoints, samplings, strict=True
    ):
        yield {"text": text, "ended": stopped, "checkpoint": checkpoint, "sampling": sampling}


def _new_ids(connection: Connection, table: type[Task] | type[Completion], num: int) -> list[int]:
    """Ids for so many new rows, ascending: from PostgreSQL's sequence; SQLite has one writer."""
    if connection.dialect.name == "postgresql":
        drawn = select(func.nextval(f"{table.__tablename__}_id_seq")).select_from(
            func.generate_series(1, num)
        )
        return sorted(connection.execute(drawn).scalars())
    first = (connection.execute(select(func.max(table.id))).scalar() or 0) + 1
    return list(range(first, first + num))


def add_prompts(connection: Connection, prompts: Sequence[PromptText]) -> list[int]:
    """Ids of the prompts, each stored once however many tasks ask it."""
    hashes = [fingerprint([prompt]) for prompt in prompts]
    known = _prompt_ids(connection, hashes)
    new = {sha: prompt for sha, prompt in zip(hashes, prompts, strict=True) if sha not in known}
    if new:
        # In one order everywhere: on PostgreSQL a prompt that another transaction is adding is waited for.
        rows = [{"content": prompt, "sha256": sha} for sha, prompt in sorted(new.items())]
        connection.execute(_insert_or_ignore(connection), rows)
        known |= _prompt_ids(connection, list(new))
    return [known[sha] for sha in hashes]


def _insert_or_ignore(connection: Connection) -> Any:
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects.postgresql import insert as insert_there

        return insert_there(Prompt).on_conflict_do_nothing()
    return insert(Prompt)


def _prompt_ids(connection: Connection, hashes: Sequence[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for start in range(0, len(hashes), 500):
        query = select(Prompt.sha256, Prompt.id).where(Prompt.sha256.in_(hashes[start : start + 500]))
        found |= {sha: prompt for sha, prompt in connection.execute(query)}
    return found


def kinds(database: Database) -> dict[str, str]:
    """The kind of every batch by its name, oldest first."""
    with database.read() as connection:
        rows = connection.execute(select(Batch.name, Batch.kind).order_by(Batch.id))
        return {name: kind for name, kind in rows}


def overview(database: Database) -> list[BatchOverview]:
    """Every batch, oldest first."""
    with database.read() as connection:
        return overview_of(connection)


def overview_of(connection: Connection, batch: int | None = None) -> list[BatchOverview]:
    """One batch, or every batch, oldest first. Gold questions count nowhere."""
    real = and_(Task.id.is_not(None), Task.gold.is_(None))

    def total(value: Any) -> Any:
        return func.coalesce(func.sum(case((real, value), else_=0)), 0)

    query = (
        select(
            Batch.name,
            Batch.kind,
            total(1),
            total(case((Task.done >= Task.overlap, 1), else_=0)),
            total(Task.done),
            total(Task.overlap),
            Batch.open,
            Batch.origin,
            Batch.task_order,
            Batch.live.is_not(None),
        )
        .outerjoin(Task, Task.batch_id == Batch.id)
        .group_by(Batch.id)
        .order_by(Batch.id)
    )
    return [
        BatchOverview(*row)
        for row in connection.execute(query if batch is None else query.where(Batch.id == batch))
    ]


def open_batches(database: Database, labeler: str) -> list[BatchOverview]:
    """Batches a labeler may choose from: open, made for labeling, with tasks left."""
    with database.read() as connection:
        labeler_id(connection, labeler)
    return [
        batch
        for batch in overview(database)
        if batch.open and batch.origin != "chat" and (batch.live or batch.finished < batch.tasks)
    ]


def num_answers(connection: Connection, batch: int, labeler: int, gold: bool = False) -> int:
    """Standing answers of one labeler in a batch, skips aside; gold: with those to gold questions."""
    query = NUM_ANSWERS if gold else NUM_REAL_ANSWERS
    return connection.execute(query, {"labeler": labeler, "batch": batch}).scalar_one()
