"""A consistent copy of a label file while people work on it, and a proof that nothing in it is broken."""

import sqlite3
from pathlib import Path

from sqlalchemy import func, select, text

from annotate.database import Database
from annotate.schema import Annotation, RankingItem, TaskCompletion
from rlhf.errors import LabelError
from rlhf.store import write_atomically


def backup(database: Database, target: Path) -> None:
    """Copy a SQLite label database to a file that does not exist yet, by SQLite's backup interface."""
    if not database.is_sqlite:
        raise LabelError("a backup of PostgreSQL is made with pg_dump")
    if target.exists():
        raise LabelError(f"{target} exists already; name a file that does not")

    def copy(path: Path) -> None:
        with sqlite3.connect(str(database.engine.url.database)) as source, sqlite3.connect(path) as copied:
            source.backup(copied)

    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, copy)


def check(database: Database) -> list[str]:
    """What is wrong, a line per finding; empty when the file is whole and every ranking fits its task."""
    problems = []
    with database.read() as connection:
        if database.is_sqlite:
            found = connection.execute(text("PRAGMA integrity_check")).scalars().all()
            problems += [line for line in found if line != "ok"]
            problems += [
                f"row {row[1]} of {row[0]} names a {row[2]} that is missing"
                for row in connection.execute(text("PRAGMA foreign_key_check"))
            ]
        items = select(func.count()).where(RankingItem.annotation_id == Annotation.id).scalar_subquery()
        answers = select(func.count()).where(TaskCompletion.task_id == Annotation.task_id).scalar_subquery()
        query = select(Annotation.id).where(Annotation.kind == "rank", items != answers)
        problems += [
            f"annotation {number} does not rank every answer"
            for number in connection.execute(query).scalars()
        ]
        twice = (
            select(Annotation.task_id)
            .where(Annotation.standing)
            .group_by(Annotation.task_id, Annotation.labeler_id)
            .having(func.count() > 1)
        )
        problems += [
            f"task {number} has two standing answers of one labeler"
            for number in connection.execute(twice).scalars()
        ]
    return problems
