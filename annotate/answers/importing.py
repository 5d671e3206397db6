"""A batch from rankings or prompts that are there already, in one transaction: whole or not at all."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, select

from annotate.answers.choice import RANKED
from annotate.store.accounts import labeler_id
from annotate.store.database import Database, retried
from annotate.store.schema import Labeler
from annotate.work.batches import (
    BatchSettings,
    NewTask,
    add_batch,
    add_tasks,
    batch_id,
    make_batch,
    settings_of,
    tasks_of,
)
from annotate.work.submit import Source, Submission, write_submissions
from rlhf.data import Prompt, Ranking, fingerprint
from rlhf.errors import LabelError

IMPORTED = "imported"


@dataclass(frozen=True)
class Imported:
    """How many tasks a batch got, and how many answers that came with them."""

    tasks: int
    answers: int


@retried
def import_rankings(
    database: Database, settings: BatchSettings, rankings: Sequence[Ranking], keep_ranks: bool = True
) -> Imported:
    """Make a batch of the rankings' answers, with their ranks, or ratings in a batch of those, as their labelers' answers,
    marked as imported.

    Rankings of the same answers become one task; settings.overlap labelers are wanted for each, those of the file
    included. With keep_ranks=False nobody has ranked them yet.
    """
    groups = _groups(rankings)
    tasks = [
        NewTask(
            prompt=given[0].prompt,
            completions=given[0].completions,
            overlap=max(settings.overlap, len(given)) if keep_ranks else settings.overlap,
        )
        for given in groups
    ]
    names = sorted({_name(ranking) for ranking in rankings}) if keep_ranks else []
    with database.write() as connection:
        importers = {name: _importer(connection, name) for name in names}  # locked first, as everywhere
        batch = add_batch(connection, settings, tasks)
        if not keep_ranks:
            return Imported(len(tasks), 0)
        ids = tasks_of(connection, batch)
        return Imported(len(tasks), _keep(connection, settings, ids, groups, importers))


def import_prompts(database: Database, settings: BatchSettings, prompts: Sequence[Prompt]) -> Imported:
    """Make a batch in which people write the answers to these prompts."""
    make_batch(database, settings, [NewTask(prompt=prompt, completions=()) for prompt in prompts])
    return Imported(len(prompts), 0)


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


def _groups(rankings: Sequence[Ranking]) -> list[list[Ranking]]:
    """Rankings by task. One labeler's second ranking of the same answers opens a task of its own: nothing is lost."""
    groups: dict[tuple[str, int], list[Ranking]] = {}
    times: dict[tuple[str, str], int] = {}
    for ranking in rankings:
        answers = fingerprint([ranking.prompt, list(ranking.completions)])
        who = (answers, ranking.labeler)
        times[who] = times.get(who, -1) + 1
        groups.setdefault((answers, times[who]), []).append(ranking)
    return list(groups.values())


def _name(ranking: Ranking) -> str:
    return ranking.labeler[:200] or IMPORTED


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
