"""The label store's tables. Rows are only ever added: an edited answer supersedes the earlier one, which stays.

Times are seconds since 1970, UTC, as floating point; the same in SQLite and PostgreSQL.
"""

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Text,
    UniqueConstraint,
    and_,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

OPEN_TASK = text("done < overlap")
MAX_INTEGER = 2**31 - 1  # what an Integer holds in every database


class Base(DeclarativeBase):
    """All tables of the label store."""


def _key() -> Mapped[int]:
    return mapped_column(Integer, primary_key=True)


def _of(table: str, *, index: bool = False) -> Mapped[int]:
    return mapped_column(ForeignKey(f"{table}.id"), index=index)


class Labeler(Base):
    """An account. origin: person, simulated or imported (known from a file only); inactive ones cannot log in.

    password_hash: empty where only a proxy signs the account in, null for who is known by name alone.
    """

    __tablename__ = "labeler"
    id: Mapped[int] = _key()
    name: Mapped[str] = mapped_column(String(200), unique=True)
    role: Mapped[str] = mapped_column(String(20), default="labeler")
    origin: Mapped[str] = mapped_column(String(20), default="person")
    active: Mapped[bool] = mapped_column(Boolean, default=True)
    password_hash: Mapped[str | None] = mapped_column(Text, default=None)
    created: Mapped[float] = mapped_column(Float)


class Batch(Base):
    """Tasks of one kind with one set of guidelines; `source` says what made it, so that it is not made twice.

    quota: answers one labeler may give, 0 without limit. task_order: random or priority. gold_every: one task in so
    many is a gold question, where there are any. live: checkpoint, k and sampling of a batch that samples on demand.
    """

    __tablename__ = "batch"
    id: Mapped[int] = _key()
    name: Mapped[str] = mapped_column(String(200), unique=True)
    kind: Mapped[str] = mapped_column(String(20))
    guidelines: Mapped[str] = mapped_column(Text, default="")
    overlap: Mapped[int] = mapped_column(Integer, default=1)
    asks: Mapped[Any] = mapped_column(JSON, default=dict)
    source: Mapped[str] = mapped_column(String(64), default="")
    created: Mapped[float] = mapped_column(Float)
    quota: Mapped[int] = mapped_column(Integer, default=0)
    task_order: Mapped[str] = mapped_column(String(20), default="random")
    gold_every: Mapped[int] = mapped_column(Integer, default=10)
    open: Mapped[bool] = mapped_column(Boolean, default=True)
    origin: Mapped[str] = mapped_column(String(20), default="label")
    live: Mapped[Any] = mapped_column(JSON(none_as_null=True), nullable=True, default=None)
    webhook_url: Mapped[str] = mapped_column(Text, default="")
    webhook_secret: Mapped[str] = mapped_column(Text, default="")
    completed: Mapped[float | None] = mapped_column(Float, default=None)


class Prompt(Base):
    __tablename__ = "prompt"
    id: Mapped[int] = _key()
    content: Mapped[Any] = mapped_column(JSON)
    sha256: Mapped[str] = mapped_column(String(64), unique=True)


class Completion(Base):
    """One answer; `ended` is unknown (null) for answers that no model of ours gave."""

    __tablename__ = "completion"
    id: Mapped[int] = _key()
    prompt_id: Mapped[int] = _of("prompt", index=True)
    text: Mapped[str] = mapped_column(Text)
    ended: Mapped[bool | None] = mapped_column(Boolean, default=None)
    checkpoint: Mapped[str] = mapped_column(String(300), default="")
    sampling: Mapped[Any] = mapped_column(JSON, default=dict)


class Task(Base):
    """A prompt with answers to be labeled `overlap` times; `done` counts the labelers whose answer stands.

    gold: the known ranks of a gold question, whose overlap is 0: it is mixed in, never waited for.
    """

    __tablename__ = "task"
    __table_args__ = (
        Index("task_open", "batch_id", "done"),
        Index("task_random", "batch_id", "shuffle", sqlite_where=OPEN_TASK, postgresql_where=OPEN_TASK),
        Index(
            "task_priority",
            "batch_id",
            "priority",
            "shuffle",
            sqlite_where=OPEN_TASK,
            postgresql_where=OPEN_TASK,
        ),
    )
    id: Mapped[int] = _key()
    batch_id: Mapped[int] = _of("batch")
    prompt_id: Mapped[int] = _of("prompt", index=True)
    overlap: Mapped[int] = mapped_column(Integer)
    done: Mapped[int] = mapped_column(Integer, default=0)
    priority: Mapped[float] = mapped_column(Float, default=0.0)
    shuffle: Mapped[int] = mapped_column(Integer, default=0)
    gold: Mapped[Any] = mapped_column(JSON(none_as_null=True), nullable=True, default=None)


class TaskCompletion(Base):
    __tablename__ = "task_completion"
    task_id: Mapped[int] = mapped_column(ForeignKey("task.id"), primary_key=True)
    place: Mapped[int] = mapped_column(Integer, primary_key=True)
    completion_id: Mapped[int] = _of("completion")


class Lease(Base):
    """One of a task's places, held until `expires`; `created` is when the labeler got the task.

    The row stays when its time is over: only who was given a task may answer it.
    """

    __tablename__ = "lease"
    __table_args__ = (Index("lease_of_labeler", "labeler_id"),)
    task_id: Mapped[int] = mapped_column(ForeignKey("task.id"), primary_key=True)
    labeler_id: Mapped[int] = mapped_column(ForeignKey("labeler.id"), primary_key=True)
    expires: Mapped[float] = mapped_column(Float, index=True)
    created: Mapped[float] = mapped_column(Float, default=0.0)


class Annotation(Base):
    """What one labeler said to one task; `standing` is false once a later version supersedes it.

    verdict: a, b, tie or both_bad of a comparison, up or down of a rating. strength: of a preference between two,
    1 slight … 3 strong. adjudicates: a lead's answer that overrules the others. origin: label, chat or import;
    context: where in a chat. time_s: seconds of attention the page measured; lease_s: seconds since the lease.
    fields: what the fields of a lead's own page say, by name.
    """

    __tablename__ = "annotation"
    __table_args__ = (
        UniqueConstraint("client_id"),
        Index("annotation_of_labeler", "labeler_id", "task_id"),
        Index("annotation_by_time", "created"),
    )
    id: Mapped[int] = _key()
    client_id: Mapped[str] = mapped_column(String(64))
    task_id: Mapped[int] = _of("task", index=True)
    labeler_id: Mapped[int] = _of("labeler")
    kind: Mapped[str] = mapped_column(String(20))
    shown_order: Mapped[Any] = mapped_column(JSON, default=list)
    demonstration: Mapped[str | None] = mapped_column(Text, default=None)
    comment: Mapped[str] = mapped_column(Text, default="")
    time_s: Mapped[float] = mapped_column(Float, default=0.0)
    late: Mapped[bool] = mapped_column(Boolean, default=False)
    supersedes: Mapped[int | None] = mapped_column(ForeignKey("annotation.id"), default=None)
    standing: Mapped[bool] = mapped_column(Boolean, default=True)
    created: Mapped[float] = mapped_column(Float)
    verdict: Mapped[str | None] = mapped_column(String(20), default=None)
    strength: Mapped[int | None] = mapped_column(Integer, default=None)
    none_acceptable: Mapped[bool] = mapped_column(Boolean, default=False)
    adjudicates: Mapped[bool] = mapped_column(Boolean, default=False)
    origin: Mapped[str] = mapped_column(String(20), default="label")
    context: Mapped[Any] = mapped_column(JSON(none_as_null=True), nullable=True, default=None)
    lease_s: Mapped[float | None] = mapped_column(Float, default=None)
    fields: Mapped[Any] = mapped_column(JSON, default=dict, server_default="{}")


# Answers that count: labelers' own, those that were superseded and skips aside.
COUNTED = and_(Annotation.standing, Annotation.kind != "skip", ~Annotation.adjudicates)


class RankingItem(Base):
    """The rank (0 best, equal for ties), rating and flags one annotation gives the answer at `place` of its task.

    No answer of a task has a rank where none is acceptable and nobody put them in order.
    """

    __tablename__ = "ranking_item"
    annotation_id: Mapped[int] = mapped_column(ForeignKey("annotation.id"), primary_key=True)
    place: Mapped[int] = mapped_column(Integer, primary_key=True)
    rank: Mapped[int | None] = mapped_column(Integer, default=None)
    rating: Mapped[int | None] = mapped_column(Integer, default=None)
    flags: Mapped[Any] = mapped_column(JSON, default=list)


class Snapshot(Base):
    """A fixed set of annotations; a reward model's manifest names the one it was trained on."""

    __tablename__ = "snapshot"
    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    num_annotations: Mapped[int] = mapped_column(Integer)
    created: Mapped[float] = mapped_column(Float)


class SnapshotAnnotation(Base):
    __tablename__ = "snapshot_annotation"
    snapshot_id: Mapped[str] = mapped_column(ForeignKey("snapshot.id"), primary_key=True)
    annotation_id: Mapped[int] = mapped_column(ForeignKey("annotation.id"), primary_key=True)


class Session(Base):
    """A log-in; only the hash of its token is kept."""

    __tablename__ = "session"
    token_sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    labeler_id: Mapped[int] = _of("labeler", index=True)
    created: Mapped[float] = mapped_column(Float)
    expires: Mapped[float] = mapped_column(Float, index=True)


class LoginFailure(Base):
    __tablename__ = "login_failure"
    id: Mapped[int] = _key()
    name: Mapped[str] = mapped_column(String(200))
    address: Mapped[str] = mapped_column(String(100))
    created: Mapped[float] = mapped_column(Float, index=True)


class ApiToken(Base):
    __tablename__ = "api_token"
    id: Mapped[int] = _key()
    labeler_id: Mapped[int] = _of("labeler")
    name: Mapped[str] = mapped_column(String(200))
    token_sha256: Mapped[str] = mapped_column(String(64), unique=True)
    created: Mapped[float] = mapped_column(Float)
    expires: Mapped[float | None] = mapped_column(Float, default=None)
    revoked: Mapped[float | None] = mapped_column(Float, default=None)


class Draft(Base):
    """What a labeler has typed so far, null once it was submitted; a save with a smaller revision came late and is ignored."""

    __tablename__ = "draft"
    task_id: Mapped[int] = mapped_column(ForeignKey("task.id"), primary_key=True)
    labeler_id: Mapped[int] = mapped_column(ForeignKey("labeler.id"), primary_key=True)
    content: Mapped[Any] = mapped_column(JSON)
    revision: Mapped[int] = mapped_column(BigInteger)
    saved: Mapped[float] = mapped_column(Float)


class LiveRequest(Base):
    """A prompt of a live batch. state: waiting, wanted (a labeler will need it), claimed by a sampler, done, failed."""

    __tablename__ = "live_request"
    __table_args__ = (Index("live_request_by_state", "batch_id", "state"),)
    id: Mapped[int] = _key()
    batch_id: Mapped[int] = _of("batch")
    prompt_id: Mapped[int] = _of("prompt")
    task_id: Mapped[int | None] = mapped_column(ForeignKey("task.id"), default=None)
    state: Mapped[str] = mapped_column(String(20))
    claimed: Mapped[float | None] = mapped_column(Float, default=None)
    error: Mapped[str] = mapped_column(Text, default="")


class WebhookDelivery(Base):
    """A notice to be sent, written in the transaction that completed the batch."""

    __tablename__ = "webhook_delivery"
    id: Mapped[int] = _key()
    batch_id: Mapped[int] = _of("batch")
    body: Mapped[str] = mapped_column(Text)
    created: Mapped[float] = mapped_column(Float)
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    next_attempt: Mapped[float] = mapped_column(Float)
    delivered: Mapped[float | None] = mapped_column(Float, default=None)
    error: Mapped[str] = mapped_column(Text, default="")


class Conversation(Base):
    __tablename__ = "conversation"
    __table_args__ = (Index("conversation_of_labeler", "labeler_id", "updated"),)
    id: Mapped[int] = _key()
    labeler_id: Mapped[int] = _of("labeler")
    title: Mapped[str] = mapped_column(Text)
    settings: Mapped[Any] = mapped_column(JSON)
    created: Mapped[float] = mapped_column(Float)
    updated: Mapped[float] = mapped_column(Float)


class Message(Base):
    """One turn; messages with one parent are branches: other answers, or an edited question."""

    __tablename__ = "message"
    id: Mapped[int] = _key()
    conversation_id: Mapped[int] = _of("conversation", index=True)
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("message.id"), default=None)
    client_id: Mapped[str] = mapped_column(String(64), unique=True)
    role: Mapped[str] = mapped_column(String(20))
    content: Mapped[str] = mapped_column(Text)
    ended: Mapped[bool | None] = mapped_column(Boolean, default=None)
    checkpoint: Mapped[str] = mapped_column(String(300), default="")
    sampling: Mapped[Any] = mapped_column(JSON, default=dict)
    created: Mapped[float] = mapped_column(Float)
