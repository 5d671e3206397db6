"""The label store's tables. Rows are only ever added: an edited answer supersedes the earlier one, which stays.

Times are seconds since 1970, UTC, as floating point; the same in SQLite and PostgreSQL.
"""

from typing import Any

from sqlalchemy import JSON, Boolean, Float, ForeignKey, Index, Integer, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """All tables of the label store."""


def _key() -> Mapped[int]:
    return mapped_column(Integer, primary_key=True)


def _of(table: str, *, index: bool = False) -> Mapped[int]:
    return mapped_column(ForeignKey(f"{table}.id"), index=index)


class Labeler(Base):
    __tablename__ = "labeler"
    id: Mapped[int] = _key()
    name: Mapped[str] = mapped_column(String(200), unique=True)
    role: Mapped[str] = mapped_column(String(20), default="labeler")
    simulated: Mapped[bool] = mapped_column(Boolean, default=False)
    password_hash: Mapped[str | None] = mapped_column(Text, default=None)
    created: Mapped[float] = mapped_column(Float)


class Batch(Base):
    """Tasks of one kind with one set of guidelines; `source` says what made it, so that it is not made twice."""

    __tablename__ = "batch"
    id: Mapped[int] = _key()
    name: Mapped[str] = mapped_column(String(200), unique=True)
    kind: Mapped[str] = mapped_column(String(20))
    guidelines: Mapped[str] = mapped_column(Text, default="")
    overlap: Mapped[int] = mapped_column(Integer, default=1)
    asks: Mapped[Any] = mapped_column(JSON, default=dict)
    source: Mapped[str] = mapped_column(String(64), default="")
    created: Mapped[float] = mapped_column(Float)


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
    """A prompt with answers to be labeled `overlap` times; `done` counts the labelers whose answer stands."""

    __tablename__ = "task"
    __table_args__ = (Index("task_open", "batch_id", "done"),)
    id: Mapped[int] = _key()
    batch_id: Mapped[int] = _of("batch")
    prompt_id: Mapped[int] = _of("prompt", index=True)
    overlap: Mapped[int] = mapped_column(Integer)
    done: Mapped[int] = mapped_column(Integer, default=0)
    priority: Mapped[float] = mapped_column(Float, default=0.0)


class TaskCompletion(Base):
    __tablename__ = "task_completion"
    task_id: Mapped[int] = mapped_column(ForeignKey("task.id"), primary_key=True)
    place: Mapped[int] = mapped_column(Integer, primary_key=True)
    completion_id: Mapped[int] = _of("completion")


class Lease(Base):
    __tablename__ = "lease"
    task_id: Mapped[int] = mapped_column(ForeignKey("task.id"), primary_key=True)
    labeler_id: Mapped[int] = mapped_column(ForeignKey("labeler.id"), primary_key=True)
    expires: Mapped[float] = mapped_column(Float, index=True)


class Annotation(Base):
    """What one labeler said to one task; `standing` is false once a later version supersedes it."""

    __tablename__ = "annotation"
    __table_args__ = (UniqueConstraint("client_id"), Index("annotation_of_labeler", "labeler_id", "task_id"))
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


class RankingItem(Base):
    """The rank (0 best, equal for ties), rating and flags one annotation gives the answer at `place` of its task."""

    __tablename__ = "ranking_item"
    annotation_id: Mapped[int] = mapped_column(ForeignKey("annotation.id"), primary_key=True)
    place: Mapped[int] = mapped_column(Integer, primary_key=True)
    rank: Mapped[int] = mapped_column(Integer)
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
