"""The label store's door: batches of tasks go in, people's answers are kept for ever, rankings come out.

Here are the verbs every stage uses. What only the pages, the lead or the chat need are functions over
`LabelStore.database` in the modules beside this one.
"""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from sqlalchemy import func, insert, select

from annotate.answers import snapshots
from annotate.answers.choice import Choice
from annotate.answers.preferences import rankings
from annotate.answers.snapshots import SnapshotRecord
from annotate.store.accounts import ROLES, labeler_id
from annotate.store.database import open_database, retried
from annotate.store.schema import COUNTED, Annotation, Batch, Labeler, Prompt, Task
from annotate.work import assign, batches, submit
from annotate.work.asks import Asks
from annotate.work.assign import TaskView
from annotate.work.batches import BatchOverview, BatchSettings, NewTask, batch_id
from annotate.work.submit import Submission
from rlhf.data import Demonstration, Ranking
from rlhf.errors import LabelError

__all__ = ["Asks", "BatchSettings", "LabelStore", "NewTask", "Submission", "TaskView"]
ORIGINS = ("person", "simulated", "imported")


class LabelStore:
    """Opens the database at `url` (a file for SQLite, postgresql://…; default ./labels.db); close it or use `with`.

    make: whether a file that is not there is made. Raises LabelError, in one line, wherever something cannot be read or
    written.
    """

    def __init__(self, url: str | Path | None = None, *, make: bool = True) -> None:
        self.database = open_database(url, make)

    def __enter__(self) -> "LabelStore":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections to the database."""
        self.database.close()

    @retried
    def add_labeler(self, name: str, *, origin: str = "person", role: str = "labeler") -> None:
        """Make a labeler who cannot log in; one that is there already with the same origin and role stays."""
        if not name.strip() or role not in ROLES or origin not in ORIGINS:
            raise LabelError(f"labeler {name!r}, role {role!r}: give a name and one of {', '.join(ROLES)}")
        with self.database.write() as connection:
            query = select(Labeler.origin, Labeler.role).where(Labeler.name == name)
            known = connection.execute(query).first()
            if known is None:
                row = {"name": name, "role": role, "origin": origin, "created": time.time()}
                connection.execute(insert(Labeler), [row])
            elif (known.origin, known.role) != (origin, role) and origin != "imported":
                raise LabelError(f"labeler {name}: is there already, as {known.role}, {known.origin}")

    def labelers(self) -> list[dict[str, Any]]:
        """Name, role, origin, whether simulated, and standing answers of every labeler."""
        # + 0, as SQLite goes through its index else, and so to every row by itself
        number = Annotation.labeler_id + 0
        counts = select(number, func.count()).where(COUNTED).group_by(number)
        columns = (Labeler.id, Labeler.name, Labeler.role, Labeler.origin)
        with self.database.read() as connection:
            answers = {labeler: count for labeler, count in connection.execute(counts)}
            rows = connection.execute(select(*columns).order_by(Labeler.id)).all()
        return [
            {
                "name": row.name,
                "role": row.role,
                "origin": row.origin,
                "simulated": row.origin == "simulated",
                "answers": answers.get(row.id, 0),
            }
            for row in rows
        ]

    def add_batch(self, name: str, tasks: Iterable[NewTask] = (), **settings: Any) -> None:
        """Make a batch with its tasks in one transaction; settings as in BatchSettings."""
        batches.make_batch(self.database, BatchSettings(name=name, **settings), list(tasks))

    def batch_source(self, name: str) -> str | None:
        """The `source` a batch was made with; None where there is no such batch."""
        with self.database.read() as connection:
            return connection.execute(select(Batch.source).where(Batch.name == name)).scalar()

    def batches(self) -> list[str]:
        """The names of all batches, oldest first."""
        with self.database.read() as connection:
            return list(connection.execute(select(Batch.name).order_by(Batch.id)).scalars())

    def progress(self, batch: str) -> BatchOverview:
        """How far a batch is."""
        with self.database.read() as connection:
            return batches.overview_of(connection, batch_id(connection, batch))[0]

    def lease(self, labeler: str, batch: str | None = None, minutes: float = 30.0) -> TaskView | None:
        """The labeler's next task, held for `minutes`; None when nothing is left for them."""
        found = self.lease_many(labeler, 1, batch, minutes)
        return found[0] if found else None

    @retried
    def lease_many(
        self, labeler: str, num_tasks: int, batch: str | None = None, minutes: float = 30.0
    ) -> list[TaskView]:
        """Up to `num_tasks` tasks for the labeler, each held for `minutes`."""
        with self.database.write() as connection:
            number = labeler_id(connection, labeler, lock=True)
            chosen = None if batch is None else batch_id(connection, batch)
            ids = assign.lease_tasks(connection, number, chosen, num_tasks, minutes)
            return assign.view_tasks(connection, ids, number)

    def release(self, labeler: str, task_id: int) -> None:
        """Give a leased task back unanswered."""
        with self.database.write() as connection:
            assign.release_task(connection, task_id, labeler_id(connection, labeler))

    def submit(self, labeler: str, submission: Submission) -> int:
        """Keep one answer; returns its id once it is on disk. The same client id again changes nothing."""
        return self.submit_many(labeler, [submission])[0]

    @retried
    def submit_many(self, labeler: str, submissions: Sequence[Submission]) -> list[int]:
        """Keep several answers of one labeler in one transaction; returns their ids."""
        with self.database.write() as connection:
            number = labeler_id(connection, labeler, lock=True)
            return submit.write_submissions(connection, number, submissions)

    def snapshot(self, batch: str | None = None, *, choice: Choice | None = None) -> SnapshotRecord:
        """Fix the set of answers that stand now under an id; later answers and edits do not change it."""
        return snapshots.take_snapshot(self.database, choice or Choice(batch=batch))[0]

    def rankings(
        self, batch: str | None = None, *, snapshot: str | None = None, include_simulated: bool = True
    ) -> list[Ranking]:
        """What a reward model learns from (`annotate.answers.preferences`): the answers that stand, or those of a snapshot."""
        with self.database.read() as connection:
            choice = Choice(batch=batch, include_simulated=include_simulated)
            return rankings(connection, choice, snapshot)

    def demonstrations(self, batch: str | None = None) -> list[Demonstration]:
        """Every standing demonstration, oldest first."""
        query = (
            select(Prompt.content, Annotation.demonstration)
            .join(Task, Task.id == Annotation.task_id)
            .join(Prompt, Prompt.id == Task.prompt_id)
            .where(Annotation.standing, Annotation.kind == "demonstrate")
            .order_by(Annotation.id)
        )
        with self.database.read() as connection:
            if batch is not None:
                query = query.where(Task.batch_id == batch_id(connection, batch))
            return [
                Demonstration(prompt=row.content, completion=row.demonstration)
                for row in connection.execute(query)
            ]
