"""Whether a batch was made before under another name, as by importing one file twice."""

from collections.abc import Iterable

from sqlalchemy import Connection, func, select

from annotate.store.database import Database
from annotate.store.schema import Batch, Task
from annotate.work.batches import answers_of, batch_id

MOST_LOOKED_AT = 500


def twins(database: Database, batch: str) -> list[str]:
    """Other batches of as many tasks whose first and last ask the same of the same answers, as this one's do."""
    with database.read() as connection:
        mine = Task.batch_id == batch_id(connection, batch)
        ends = connection.execute(select(func.min(Task.id), func.max(Task.id)).where(mine)).one()
        found = [_batches_with(connection, task) for task in ends if task is not None]
        alike = set.intersection(*found) if found else set()
        size = connection.execute(select(func.count()).where(mine)).scalar_one()
        sizes = select(Batch.name, func.count()).join(Task, Task.batch_id == Batch.id).group_by(Batch.name)
        rows = connection.execute(sizes.where(Batch.name.in_(alike)))
        return sorted(name for name, number in rows if number == size)


def _batches_with(connection: Connection, task: int) -> set[str]:
    """Names of other batches that have a task with this one's prompt and answers."""
    prompt, batch = connection.execute(select(Task.prompt_id, Task.batch_id).where(Task.id == task)).one()
    others = select(Task.id, Batch.name).join(Batch, Batch.id == Task.batch_id)
    others = others.where(Task.prompt_id == prompt, Task.batch_id != batch).limit(MOST_LOOKED_AT)
    names = {number: name for number, name in connection.execute(others)}
    texts = _texts(connection, [task, *names])
    return {name for number, name in names.items() if texts[number] == texts[task]}


def _texts(connection: Connection, tasks: Iterable[int]) -> dict[int, list[str]]:
    ids = list(tasks)
    answers = answers_of(connection, ids)
    return {task: sorted(answer.text for answer in answers.get(task, [])) for task in ids}
