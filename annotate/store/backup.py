"""A consistent copy of a label file while people work on it, and a proof that nothing in it is broken."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import Connection, and_, func, or_, select, text

from annotate.store.database import Database, copy_whole
from annotate.store.schema import COUNTED, Annotation, RankingItem, Task, TaskCompletion
from rlhf.errors import LabelError, first_line


def backup(database: Database, target: Path) -> None:
    """Copy a SQLite label database to a file that does not exist yet, by SQLite's backup interface.

    Raises LabelError for PostgreSQL and for a file that is there.
    """
    if not database.is_sqlite:
        raise LabelError("a backup of PostgreSQL is made with pg_dump")
    if target.exists():
        raise LabelError(f"{target} exists already; name a file that does not")

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        copy_whole(database, target)
    except (OSError, sqlite3.Error) as error:
        raise LabelError(f"{target}: the copy cannot be written: {first_line(error)}") from None


def check(database: Database) -> list[str]:
    """What is wrong, a line per finding; empty when the database is whole and every answer fits its task."""
    with database.read() as connection:
        found = list(_broken_pages(connection)) if database.is_sqlite else []
        return [*found, *_misfits(connection), *_miscounts(connection), *_doubles(connection)]


def _broken_pages(connection: Connection) -> Iterator[str]:
    pages = connection.execute(text("PRAGMA integrity_check")).scalars()
    yield from (line for line in pages if line != "ok")
    for row in connection.execute(text("PRAGMA foreign_key_check")):
        yield f"row {row[1]} of {row[0]} names a {row[2]} that is missing"


def _misfits(connection: Connection) -> Iterator[str]:
    """Answers whose ranks are not one for each completion of their task, at the places of those."""
    items = select(func.count()).where(RankingItem.annotation_id == Annotation.id).scalar_subquery()
    ranked = (
        select(func.count(RankingItem.rank))
        .where(RankingItem.annotation_id == Annotation.id)
        .scalar_subquery()
    )
    last = select(func.max(RankingItem.place)).where(RankingItem.annotation_id == Annotation.id)
    answers = select(func.count()).where(TaskCompletion.task_id == Annotation.task_id).scalar_subquery()
    misplaced = func.coalesce(last.scalar_subquery(), -1) != items - 1
    orderless = and_(Annotation.kind == "rank", Annotation.none_acceptable, ranked == 0)
    silent = and_(orderless, items == 0)
    partly = and_(ranked != items, ~orderless)
    query = select(Annotation.id).where(
        Annotation.kind.in_(("rank", "compare", "rate")),
        ~silent,
        or_(items != answers, misplaced, partly),
    )
    for number in connection.execute(query.order_by(Annotation.id)).scalars():
        yield f"annotation {number} does not rank every answer"
    stray = select(RankingItem.annotation_id).join(Annotation, Annotation.id == RankingItem.annotation_id)
    kinds = Annotation.kind.in_(("skip", "demonstrate"))
    for number in connection.execute(stray.where(kinds).distinct()).scalars():
        yield f"annotation {number} ranks although it is no ranking"
    places = select(TaskCompletion.task_id).group_by(TaskCompletion.task_id)
    for number in connection.execute(
        places.having(func.max(TaskCompletion.place) != func.count() - 1)
    ).scalars():
        yield f"the answers of task {number} are not numbered from 0"


def _miscounts(connection: Connection) -> Iterator[str]:
    count = select(func.count()).where(Annotation.task_id == Task.id, COUNTED).scalar_subquery()
    for number, done, answers in connection.execute(
        select(Task.id, Task.done, count).where(Task.done != count)
    ):
        yield f"task {number} counts {done} answers but has {answers}"


def _doubles(connection: Connection) -> Iterator[str]:
    stands = select(Annotation.task_id).where(Annotation.standing)
    twice = stands.where(~Annotation.adjudicates).group_by(Annotation.task_id, Annotation.labeler_id)
    for number in connection.execute(twice.having(func.count() > 1)).scalars():
        yield f"task {number} has two standing answers of one labeler"
    verdicts = stands.where(Annotation.adjudicates).group_by(Annotation.task_id).having(func.count() > 1)
    for number in connection.execute(verdicts).scalars():
        yield f"task {number} has two standing verdicts"
    later = select(Annotation.supersedes).where(Annotation.supersedes.is_not(None))
    standing = select(Annotation.id).where(Annotation.standing, Annotation.id.in_(later))
    for number in connection.execute(standing).scalars():
        yield f"annotation {number} still stands although another supersedes it"
    lost = select(Annotation.id).where(~Annotation.standing, Annotation.id.not_in(later))
    for number in connection.execute(lost).scalars():
        yield f"annotation {number} does not stand although nothing supersedes it"
