"""Which open tasks come first: active selection by how unsure the current reward model is of them."""

import math
from collections.abc import Mapping, Sequence

from sqlalchemy import bindparam, select, update

from annotate.store.database import Database
from annotate.store.schema import Batch, Task
from annotate.work.assign import TaskView, view_tasks
from annotate.work.batches import batch_id
from rlhf.errors import LabelError


def open_tasks(database: Database, batch: str) -> list[TaskView]:
    """The tasks of a batch that still want answers."""
    with database.read() as connection:
        unfinished = (Task.batch_id == batch_id(connection, batch), Task.done < Task.overlap)
        ids = list(connection.execute(select(Task.id).where(*unfinished).order_by(Task.id)).scalars())
        return view_tasks(connection, ids, labeler=0)


def set_priorities(database: Database, batch: str, priorities: Mapping[int, float]) -> None:
    """Give out a batch's tasks by priority, highest first; labelers keep what they hold. Priorities are finite."""
    if not all(map(math.isfinite, priorities.values())):
        raise LabelError(f"batch {batch}: a priority is not a finite number; is the reward model sound?")
    with database.write() as connection:
        number = batch_id(connection, batch)
        change = update(Task).where(Task.id == bindparam("task"), Task.batch_id == number)
        rows = [{"task": task, "value": value} for task, value in sorted(priorities.items())]
        if rows:
            connection.execute(change.values(priority=bindparam("value")), rows)
        connection.execute(update(Batch).where(Batch.id == number).values(task_order="priority"))


def uncertainty(scores: Sequence[float]) -> float:
    """Mean entropy in bits of the reward model's σ(r_i − r_j) over pairs of answers, 0 (sure) to 1 (no idea)."""
    places = range(len(scores))
    pairs = [abs(scores[i] - scores[j]) for i in places for j in places if i < j]
    return sum(map(_entropy, pairs)) / len(pairs) if pairs else 0.0


def _entropy(difference: float) -> float:
    """Of σ(d) for d ≥ 0, in bits: log(1 + e^−d) + d · σ(−d), which does not overflow."""
    small = math.exp(-difference)
    return (math.log1p(small) + difference * small / (1 + small)) / math.log(2)
