"""A batch from rankings or prompts that are there already, in one transaction: whole or not at all."""

import json
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, select

from annotate.answers.choice import RANKED
from annotate.answers.grouping import RowsByTask
from annotate.store.accounts import labeler_id
from annotate.store.database import Database, retried, storable
from annotate.store.schema import Labeler
from annotate.work.batches import (
    BatchSettings,
    NewTask,
    add_batch,
    add_tasks,
    batch_id,
    settings_of,
)
from annotate.work.submit import Source, Submission, write_submissions
from rlhf.data import Prompt, Ranking, fingerprint
from rlhf.errors import LabelError

IMPORTED = "imported"
AT_ONCE = 2000  # tasks that are made by one statement
Watch = Callable[[Sequence[int], str], Iterable[int]]


@dataclass(frozen=True)
class Imported:
    """How many tasks a batch got, and how many answers that came with them."""

    tasks: int
    answers: int


def unwatched(parts: Sequence[int], what: str) -> Iterable[int]:
    """No progress is shown."""
    return parts


@retried
def import_rankings(
    database: Database,
    settings: BatchSettings,
    rankings: Sequence[Ranking],
    keep_ranks: bool = True,
    watch: Watch = unwatched,
) -> Imported:
    """Make a batch of the rankings' answers, with their ranks, or ratings in a batch of those, as their labelers' answers,
    marked as imported.

    Rankings of the same answers become one task; settings.overlap labelers are wanted for each, those of the file
    included. With keep_ranks=False nobody has ranked them yet. Some thousand rankings are in memory at once.
    """
    tasks, names = rows_by_task(rankings, watch)
    ids, answers = array("q"), 0

    def parts(what: str) -> Iterator[list[list[Ranking]]]:
        for start in watch(range(0, len(tasks), AT_ONCE), what):
            yield [
                [rankings[row] for row in tasks[n]] for n in range(start, min(start + AT_ONCE, len(tasks)))
            ]

    with database.write() as connection:
        # Their rows are locked first, as everywhere.
        importers = {name: _importer(connection, name) for name in sorted(names)} if keep_ranks else {}
        batch = add_batch(connection, settings, ())
        for part in parts("tasks"):
            new = [_new_task(given, settings.overlap, keep_ranks) for given in part]
            ids.extend(add_tasks(connection, batch, settings, new, before=len(ids)))
        kept = 0
        for part in parts("answers") if keep_ranks else ():
            answers += _keep(connection, settings, ids[kept : kept + len(part)], part, importers)
            kept += len(part)
    return Imported(len(tasks), answers)


@retried
def import_prompts(
    database: Database, settings: BatchSettings, prompts: Sequence[Prompt], watch: Watch = unwatched
) -> Imported:
    """Make a batch in which people write the answers to these prompts."""
    with database.write() as connection:
        batch = add_batch(connection, settings, ())
        for start in watch(range(0, len(prompts), AT_ONCE), "tasks"):
            part = prompts[start : start + AT_ONCE]
            new = [NewTask(prompt=prompt, completions=()) for prompt in part]
            add_tasks(connection, batch, settings, new, before=start)
    return Imported(len(prompts), 0)


def _new_task(given: Sequence[Ranking], overlap: int, keep_ranks: bool) -> NewTask:
    wanted = max(overlap, len(given)) if keep_ranks else overlap
    return NewTask(prompt=given[0].prompt, completions=given[0].completions, overlap=wanted)


@retried
def add_gold_questions(database: Database, batch: str, rankings: Sequence[Ranking]) -> int:
    """Mix questions with known ranks into a batch of rankings; returns how many."""
    tasks = [NewTask(prompt=r.prompt, completions=r.completions, gold=r.ranks) for r in rankings]
    with database.write() as connection:
        number = batch_id(connection, batch)
        settings = settings_of(connection, number)
        if settings.kind not in RANKED:
            raise LabelError(f"batch {batch}: gold questions belong to rankings, not to {settings.kind}")
        add_tasks(connection, number, settings, tasks)
    return len(tasks)


def rows_by_task(rankings: Sequence[Ranking], watch: Watch = unwatched) -> tuple[RowsByTask, set[str]]:
    """Which rankings are of one task, and the names of those who gave them.

    One labeler's second ranking of the same answers opens a task of its own: nothing is lost.
    """
    tasks, names = RowsByTask(), set()
    for start in watch(range(0, len(rankings), AT_ONCE), "rankings"):
        for ranking in rankings[start : start + AT_ONCE]:
            tasks.append(fingerprint([ranking.prompt, list(ranking.completions)]), _name(ranking))
            names.add(_name(ranking))
    tasks.close()
    return tasks, names


def _name(ranking: Ranking) -> str:
    name: str = storable(ranking.labeler)[:200]
    return name if name.strip() else IMPORTED


def _keep(
    connection: Connection,
    batch: BatchSettings,
    tasks: Sequence[int],
    groups: Sequence[list[Ranking]],
    importers: Mapping[str, int],
) -> int:
    by_labeler: dict[str, list[Submission]] = {}
    for task, given in zip(tasks, groups, strict=True):
        for ranking in given:
            name = _name(ranking)
            submission = Submission(
                task_id=task,
                client_id=fingerprint([batch.name, task, name])[:32],
                flags=ranking.flags,
                fields=json.loads(ranking.fields) if ranking.fields else {},
                **_said(batch, ranking),
            )
            by_labeler.setdefault(name, []).append(submission)
    for name, submissions in by_labeler.items():
        write_submissions(connection, importers[name], submissions, Source(origin="import"))
    return sum(map(len, by_labeler.values()))


def _said(batch: BatchSettings, ranking: Ranking) -> dict[str, Any]:
    """Kind, ranks and ratings of an answer in a batch of its kind."""
    if batch.kind != "rate":
        return {"ranks": ranking.ranks, "ratings": ranking.ratings}
    scores = tuple(int(score) for score in ranking.scores if score == int(score))
    ratings = ranking.ratings or (scores if len(scores) == len(ranking.scores) else ())
    if not ratings or None in ratings:
        raise LabelError(
            f"batch {batch.name}: the file ranks answers without ratings; add --unranked to have people rate them"
        )
    return {"kind": "rate", "ratings": ratings}


def _importer(connection: Connection, name: str) -> int:
    if connection.execute(select(Labeler.id).where(Labeler.name == name)).first() is None:
        row = {"name": name, "role": "labeler", "origin": "imported", "created": time.time()}
        connection.execute(insert(Labeler), [row])
    return labeler_id(connection, name, lock=True)
