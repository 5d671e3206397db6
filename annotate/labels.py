"""The label store: batches of tasks go in, people's answers are kept for ever, rankings come out."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from sqlalchemy import Connection, and_, case, func, insert, select
from sqlalchemy.exc import IntegrityError

from annotate import assign, snapshots, submit
from annotate.assign import TaskView
from annotate.database import open_database
from annotate.schema import Annotation, Batch, Completion, Labeler, Prompt, Task, TaskCompletion
from annotate.snapshots import SnapshotRecord
from annotate.submit import Submission
from rlhf.data import Demonstration, Ranking, as_messages, fingerprint
from rlhf.data import Prompt as PromptText
from rlhf.errors import LabelError

BATCH_KINDS = ("rank", "demonstrate", "compare")
ROLES = ("labeler", "lead", "admin")


@dataclass(frozen=True, kw_only=True)
class NewTask:
    """A prompt and the answers to label; `ended` says of each whether the model stopped by itself."""

    prompt: PromptText
    completions: tuple[str, ...]
    ended: tuple[bool | None, ...] = ()
    checkpoint: str = ""
    priority: float = 0.0


@dataclass(frozen=True)
class Progress:
    """How far a batch is: tasks, tasks with all their answers, answers given, answers wanted."""

    tasks: int
    finished: int
    answers: int
    wanted: int


class LabelStore:
    """Opens the database at `url` (a file for SQLite, postgresql://…; default ./labels.db); close it or use `with`.

    Raises LabelError, in one line, wherever something cannot be read or written.
    """

    def __init__(self, url: str | Path | None = None) -> None:
        self.database = open_database(url)

    def __enter__(self) -> "LabelStore":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self.database.close()

    # People

    def add_labeler(
        self, name: str, *, simulated: bool = False, role: str = "labeler", password_hash: str | None = None
    ) -> None:
        """Make an account; one that is there already with the same role stays as it is."""
        if not name.strip() or role not in ROLES:
            raise LabelError(f"labeler {name!r}, role {role!r}: give a name and one of {', '.join(ROLES)}")
        with self.database.write() as connection:
            known = connection.execute(
                select(Labeler.simulated, Labeler.role).where(Labeler.name == name)
            ).first()
            if known is None:
                row = {"name": name, "role": role, "simulated": simulated, "password_hash": password_hash}
                connection.execute(insert(Labeler), [{**row, "created": time.time()}])
            elif (bool(known.simulated), known.role) != (simulated, role):
                raise LabelError(
                    f"labeler {name}: is there already, simulated: {known.simulated}, role: {known.role}"
                )

    def labelers(self) -> list[dict[str, Any]]:
        """Name, role, whether simulated, and standing answers of every labeler."""
        answers = (
            select(func.count())
            .where(Annotation.labeler_id == Labeler.id, Annotation.standing)
            .scalar_subquery()
        )
        with self.database.read() as connection:
            query = select(Labeler.name, Labeler.role, Labeler.simulated, answers.label("answers")).order_by(
                Labeler.id
            )
            return [dict(row._mapping) for row in connection.execute(query)]

    # Batches and tasks

    def add_batch(
        self, name: str, tasks: Iterable[NewTask] = (), *, kind: str = "rank", guidelines: str = "", overlap: int = 1,
        asks: dict[str, Any] | None = None, sampling: dict[str, Any] | None = None, source: str = "",
    ) -> None:  # fmt: skip
        """Make a batch with its tasks in one transaction. overlap: labelers per task; source: a hash of what made it."""
        if kind not in BATCH_KINDS or overlap < 1 or not name.strip():
            raise LabelError(
                f"batch {name!r}: kind is one of {', '.join(BATCH_KINDS)}, overlap at least 1, the name not empty"
            )
        row = {
            "name": name,
            "kind": kind,
            "guidelines": guidelines,
            "overlap": overlap,
            "asks": asks or {},
            "source": source,
        }
        with self.database.write() as connection:
            try:
                connection.execute(insert(Batch), [{**row, "created": time.time()}])
            except IntegrityError:
                raise LabelError(f"batch {name}: is there already; choose another name") from None
            self._add_tasks(
                connection, self._batch_id(connection, name), list(tasks), kind, overlap, sampling or {}
            )

    def batch_source(self, name: str) -> str | None:
        """The `source` a batch was made with; None where there is no such batch."""
        with self.database.read() as connection:
            return connection.execute(select(Batch.source).where(Batch.name == name)).scalar()

    def batches(self) -> list[str]:
        with self.database.read() as connection:
            return list(connection.execute(select(Batch.name).order_by(Batch.id)).scalars())

    def progress(self, batch: str) -> Progress:
        """How far a batch is."""
        with self.database.read() as connection:
            finished = func.coalesce(func.sum(case((Task.done >= Task.overlap, 1), else_=0)), 0)
            sums = (func.coalesce(func.sum(Task.done), 0), func.coalesce(func.sum(Task.overlap), 0))
            query = select(func.count(), finished, *sums).where(
                Task.batch_id == self._batch_id(connection, batch)
            )
            return Progress(*(int(value) for value in connection.execute(query).one()))

    def _add_tasks(
        self, connection: Connection, batch_id: int, tasks: Sequence[NewTask], kind: str, overlap: int, sampling: dict[str, Any]
    ) -> None:  # fmt: skip
        for number, task in enumerate(tasks, start=1):
            if kind != "demonstrate" and not 2 <= len(task.completions) <= 9:
                raise LabelError(
                    f"task {number}: {len(task.completions)} answers; between 2 and 9 can be ranked"
                )
            said = [message["content"] for message in as_messages(task.prompt)]
            if any("\x00" in text for text in (*said, *task.completions)):
                raise LabelError(
                    f"task {number}: the text holds a NUL character, which databases cannot keep"
                )
        prompts = _add_prompts(connection, [task.prompt for task in tasks])
        first_task = (connection.execute(select(func.max(Task.id))).scalar() or 0) + 1
        first_answer = (connection.execute(select(func.max(Completion.id))).scalar() or 0) + 1
        rows: list[dict[str, Any]] = []
        answers: list[dict[str, Any]] = []
        places: list[dict[str, int]] = []
        for i, (task, prompt_id) in enumerate(zip(tasks, prompts, strict=True)):
            row = {
                "id": first_task + i,
                "batch_id": batch_id,
                "prompt_id": prompt_id,
                "overlap": overlap,
                "done": 0,
            }
            rows.append({**row, "priority": task.priority})
            ended = task.ended or (None,) * len(task.completions)
            for place, (text, stopped) in enumerate(zip(task.completions, ended, strict=True)):
                answer_id = first_answer + len(answers)
                places.append({"task_id": first_task + i, "place": place, "completion_id": answer_id})
                made = {"id": answer_id, "prompt_id": prompt_id, "text": text, "ended": stopped}
                answers.append({**made, "checkpoint": task.checkpoint, "sampling": sampling})
        for table, values in ((Task, rows), (Completion, answers), (TaskCompletion, places)):
            if values:
                connection.execute(insert(table), values)
        if not self.database.is_sqlite and rows:
            for name in ("task", "completion"):
                connection.exec_driver_sql(f"SELECT setval('{name}_id_seq', (SELECT max(id) FROM {name}))")

    # Labeling

    def lease(self, labeler: str, batch: str | None = None, minutes: float = 30.0) -> TaskView | None:
        """The labeler's next task, held for `minutes`; None when nothing is left for them."""
        found = self.lease_many(labeler, 1, batch, minutes)
        return found[0] if found else None

    def lease_many(
        self, labeler: str, num_tasks: int, batch: str | None = None, minutes: float = 30.0
    ) -> list[TaskView]:
        """Up to `num_tasks` tasks for the labeler, each held for `minutes`."""
        with self.database.write() as connection:
            labeler_id = self._labeler_id(connection, labeler)
            batch_id = None if batch is None else self._batch_id(connection, batch)
            skip_locked = not self.database.is_sqlite
            ids = assign.lease_tasks(connection, labeler_id, batch_id, num_tasks, minutes, skip_locked)
            return assign.view_tasks(connection, ids, labeler_id)

    def release(self, labeler: str, task_id: int) -> None:
        """Give a leased task back unanswered."""
        with self.database.write() as connection:
            assign.release_task(connection, task_id, self._labeler_id(connection, labeler))

    def submit(self, labeler: str, submission: Submission) -> int:
        """Keep one answer; returns its id once it is on disk. The same client id again changes nothing."""
        return self.submit_many(labeler, [submission])[0]

    def submit_many(self, labeler: str, submissions: Sequence[Submission]) -> list[int]:
        """Keep several answers of one labeler in one transaction; returns their ids."""
        with self.database.write() as connection:
            return submit.write_submissions(connection, self._labeler_id(connection, labeler), submissions)

    # Reading

    def snapshot(self, batch: str | None = None, *, include_simulated: bool = True) -> SnapshotRecord:
        """Fix the set of answers that stand now under an id; later answers and edits do not change it."""
        with self.database.write() as connection:
            batch_id = None if batch is None else self._batch_id(connection, batch)
            return snapshots.take(connection, batch_id, include_simulated)

    def rankings(
        self, batch: str | None = None, *, snapshot: str | None = None, include_simulated: bool = True
    ) -> list[Ranking]:
        """Every standing ranking, or those of a snapshot, completions in the store's order, oldest first."""
        with self.database.read() as connection:
            batch_id = None if batch is None else self._batch_id(connection, batch)
            return snapshots.rankings(connection, batch_id, snapshot, include_simulated)

    def demonstrations(self, batch: str | None = None) -> list[Demonstration]:
        """Every standing demonstration, oldest first."""
        query = (
            select(Prompt.content, Annotation.demonstration)
            .join(Task, Task.id == Annotation.task_id)
            .join(Prompt, Prompt.id == Task.prompt_id)
            .where(and_(Annotation.standing, Annotation.kind == "demonstrate"))
            .order_by(Annotation.id)
        )
        with self.database.read() as connection:
            if batch is not None:
                query = query.where(Task.batch_id == self._batch_id(connection, batch))
            return [
                Demonstration(prompt=prompt, completion=text or "")
                for prompt, text in connection.execute(query)
            ]

    def _labeler_id(self, connection: Connection, name: str) -> int:
        found = connection.execute(select(Labeler.id).where(Labeler.name == name)).scalar()
        if found is None:
            raise LabelError(f"labeler {name}: no such account; make it with rlhf labels user add {name}")
        return found

    def _batch_id(self, connection: Connection, name: str) -> int:
        found = connection.execute(select(Batch.id).where(Batch.name == name)).scalar()
        if found is None:
            there = ", ".join(connection.execute(select(Batch.name)).scalars()) or "none"
            raise LabelError(f"batch {name}: no such batch (there: {there})")
        return found


def _add_prompts(connection: Connection, prompts: Sequence[PromptText]) -> list[int]:
    """Ids of the prompts, each stored once however many tasks ask it."""
    hashes = [fingerprint([prompt]) for prompt in prompts]
    known = _prompt_ids(connection, hashes)
    new = {sha: prompt for sha, prompt in zip(hashes, prompts, strict=True) if sha not in known}
    if new:
        connection.execute(
            insert(Prompt), [{"content": prompt, "sha256": sha} for sha, prompt in new.items()]
        )
        known |= _prompt_ids(connection, list(new))
    return [known[sha] for sha in hashes]


def _prompt_ids(connection: Connection, hashes: Sequence[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for start in range(0, len(hashes), 500):
        query = select(Prompt.sha256, Prompt.id).where(Prompt.sha256.in_(hashes[start : start + 500]))
        found |= {sha: prompt_id for sha, prompt_id in connection.execute(query)}
    return found
