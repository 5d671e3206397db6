"""Feedback given in chat becomes annotations like any other: a finished task each, marked as from chat."""

from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, and_, select

from annotate.store.accounts import labeler_id
from annotate.store.database import Conflict, Database, retried, storable
from annotate.store.schema import Annotation, Batch
from annotate.work.batches import BatchSettings, NewTask, add_batch, add_tasks, settings_of
from annotate.work.submit import Source, Submission, write_submissions
from rlhf.data import Message
from rlhf.errors import LabelError

BATCHES = {"compare": "chat comparisons", "rate": "chat ratings", "demonstrate": "chat rewrites"}


@dataclass(frozen=True, kw_only=True)
class ChatAnswer:
    """An answer given in chat: from which checkpoint, with which sampling settings, whether it stopped by itself."""

    text: str
    checkpoint: str = ""
    sampling: dict[str, Any] = field(default_factory=dict)
    ended: bool | None = None


def record_comparison(
    database: Database, labeler: str, client_id: str, prompt: list[Message], a: ChatAnswer, b: ChatAnswer, verdict: str,
    *, time_s: float = 0.0, context: dict[str, Any] | None = None, replaces: int | None = None,
) -> int:  # fmt: skip
    """Keep which of two answers, a shown first, was preferred (verdict: a, b, tie, both_bad); returns the annotation's id.

    A known client id changes nothing. replaces: the id of an own earlier verdict on the same answers, superseded.
    """
    values = {"verdict": verdict, "shown_order": (0, 1), "time_s": time_s}
    return _record(database, labeler, client_id, "compare", prompt, (a, b), values, context, replaces)


def record_thumb(
    database: Database, labeler: str, client_id: str, prompt: list[Message], answer: ChatAnswer, up: bool,
    *, comment: str = "", flags: tuple[str, ...] = (), context: dict[str, Any] | None = None,
    replaces: int | None = None,
) -> int:  # fmt: skip
    """Keep a thumb up or down for one answer (rating 7 or 1); returns the annotation's id."""
    values: dict[str, Any] = {"verdict": "up" if up else "down", "comment": comment, "flags": (flags,)}
    return _record(database, labeler, client_id, "rate", prompt, (answer,), values, context, replaces)


def record_rewrite(
    database: Database, labeler: str, client_id: str, prompt: list[Message], answer: ChatAnswer, text: str,
    *, context: dict[str, Any] | None = None, replaces: int | None = None,
) -> int:  # fmt: skip
    """Keep a person's better version of an answer as a demonstration; returns the annotation's id."""
    return _record(
        database, labeler, client_id, "demonstrate", prompt, (answer,), {"demonstration": text}, context, replaces
    )  # fmt: skip


@retried
def _record(
    database: Database, labeler: str, client_id: str, kind: str, prompt: list[Message], answers: tuple[ChatAnswer, ...],
    values: dict[str, Any], context: dict[str, Any] | None, replaces: int | None,
) -> int:  # fmt: skip
    with database.write() as connection:
        number = labeler_id(connection, labeler, lock=True)
        known = connection.execute(
            select(Annotation.id, Annotation.labeler_id).where(Annotation.client_id == client_id)
        ).first()
        if known is not None:
            if known.labeler_id != number:
                raise LabelError("this client id belongs to another labeler's answer; make a new one")
            return known.id
        task = _earlier_task(connection, number, kind, replaces) if replaces is not None else None
        if task is None:
            batch = _chat_batch(connection, kind)
            (task,) = add_tasks(connection, batch, settings_of(connection, batch), [_task(prompt, answers)])
        submission = Submission(task_id=task, client_id=client_id, kind=kind, **values)
        source = Source(origin="chat", context=storable(context))
        return write_submissions(connection, number, [submission], source)[0]


def _task(prompt: list[Message], answers: tuple[ChatAnswer, ...]) -> NewTask:
    return NewTask(
        prompt=storable(prompt),
        completions=tuple(storable(answer.text) for answer in answers),
        ended=tuple(answer.ended for answer in answers),
        checkpoints=tuple(answer.checkpoint for answer in answers),
        samplings=tuple(storable(answer.sampling) for answer in answers),
    )


def _earlier_task(connection: Connection, labeler: int, kind: str, annotation: int) -> int:
    mine = and_(Annotation.id == annotation, Annotation.labeler_id == labeler, Annotation.kind == kind)
    found = connection.execute(select(Annotation.task_id).where(mine, Annotation.origin == "chat")).scalar()
    if found is None:
        raise LabelError(f"annotation {annotation}: no such feedback of yours")
    return found


def _chat_batch(connection: Connection, kind: str) -> int:
    name = BATCHES[kind]
    found = connection.execute(select(Batch.id, Batch.origin).where(Batch.name == name)).first()
    if found is None:
        try:
            return add_batch(connection, BatchSettings(name=name, kind=kind, origin="chat", open=False), [])
        except LabelError as taken:  # made by another one since the line above
            raise Conflict(f"{taken}") from None
    if found.origin != "chat":
        raise LabelError(f"batch {name}: the name is taken by a batch of another kind")
    return found.id
