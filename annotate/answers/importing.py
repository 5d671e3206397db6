"""A batch from rankings or prompts that are there already, in one transaction: whole or not at all."""

import json
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, insert, select

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
from annotate.work.submit import Source, Submission, verdict_of, write_submissions
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
    gold: Sequence[NewTask] = (),
) -> Imported:
    """Make a batch of the rankings' answers, with their ranks, or ratings in a batch of those, as their labelers' answers,
    marked as imported.

    Rankings of the same answers become one task; settings.overlap labelers are wanted for each, those of the file
    included. With keep_ranks=False nobody has ranked them yet. gold: questions (`gold_questions`) mixed in. Some thousand
    rankings are in memory at once.
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
        batch = add_batch(connection, settings, gold)
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
    database: Database,
    settings: BatchSettings,
    prompts: Sequence[Prompt],
    watch: Watch = unwatched,
    gold: Sequence[NewTask] = (),
) -> Imported:
    """Make a batch in which people write the answers to these prompts. Raises LabelError for gold questions among them."""
    with database.write() as connection:
        batch = add_batch(connection, settings, gold)
        for start in watch(range(0, len(prompts), AT_ONCE), "tasks"):
            part = prompts[start : start + AT_ONCE]
            new = [NewTask(prompt=prompt, completions=()) for prompt in part]
            add_tasks(connection, batch, settings, new, before=start)
    return Imported(len(prompts), 0)


def _new_task(given: Sequence[Ranking], overlap: int, keep_ranks: bool) -> NewTask:
    wanted = max(overlap, len(given)) if keep_ranks else overlap
    return NewTask(prompt=given[0].prompt, completions=given[0].completions, overlap=wanted)


def gold_questions(rankings: Iterable[Ranking]) -> list[NewTask]:
    """Tasks whose right answers are known: the ranks."""
    return [NewTask(prompt=r.prompt, completions=r.completions, gold=r.ranks) for r in rankings]


@retried
def add_gold_questions(database: Database, batch: str, rankings: Sequence[Ranking]) -> int:
    """Mix questions with known ranks into a batch of rankings; returns how many."""
    with database.write() as connection:
        number = batch_id(connection, batch)
        added = add_tasks(connection, number, settings_of(connection, number), gold_questions(rankings))
    return len(added)


def rows_by_task(rankings: Sequence[Ranking], watch: Watch = unwatched) -> tuple[RowsByTask, set[str]]:
    """Which rankings are of one task, in whatever order they hold its answers, and the names of those who gave them.

    One labeler's second ranking of the same answers opens a task of its own: nothing is lost.
    """
    tasks, names = RowsByTask(), set()
    for start in watch(range(0, len(rankings), AT_ONCE), "rankings"):
        for ranking in rankings[start : start + AT_ONCE]:
            name = _name(ranking)
            tasks.append(fingerprint([ranking.prompt, sorted(ranking.completions)]), name)
            names.add(name)
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
        for ranking in (_in_order_of(given[0].completions, ranking) for ranking in given):
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


def _in_order_of(completions: tuple[str, ...], ranking: Ranking) -> Ranking:
    """The ranking with its answers, and all that is said of each, in the order of these, which are the same."""
    if ranking.completions == completions:
        return ranking

    def alphabetical(texts: Sequence[str]) -> list[int]:
        return sorted(range(len(texts)), key=lambda place: texts[place])

    there = dict(zip(alphabetical(completions), alphabetical(ranking.completions), strict=True))

    def moved(values: tuple[Any, ...]) -> tuple[Any, ...]:
        """Values of another length are passed on, for the store to refuse."""
        return tuple(values[there[i]] for i in range(len(there))) if len(values) == len(there) else values

    of_each: dict[str, Any] = {
        name: moved(getattr(ranking, name)) for name in ("ranks", "flags", "ratings", "scores")
    }
    return replace(ranking, completions=completions, **of_each)


def _said(batch: BatchSettings, ranking: Ranking) -> dict[str, Any]:
    """Kind, order and ratings of an answer in a batch of its kind, and what its source says beside them."""
    beside = json.loads(ranking.beside) if ranking.beside else {}
    scale = beside.pop("scale", batch.asks.scale)
    if batch.kind == "compare":
        verdict = verdict_of(ranking.ranks)
        if verdict == "tie" and beside.get("none_acceptable"):
            verdict = "both_bad"
        return {"kind": "compare", "verdict": verdict, "ratings": ranking.ratings, **beside}
    if batch.kind != "rate":
        return {"ranks": ranking.ranks, "ratings": ranking.ratings, **beside}
    if scale != batch.asks.scale:
        raise LabelError(
            f"batch {batch.name}: the file's ratings go from 1 to {scale}, the batch's to {batch.asks.scale}; add --scale {scale}"
        )
    scores = tuple(int(score) for score in ranking.scores if score == int(score))
    ratings = ranking.ratings or (scores if len(scores) == len(ranking.scores) else ())
    if not ratings or None in ratings:
        raise LabelError(
            f"batch {batch.name}: the file ranks answers without ratings; add --unranked to have people rate them"
        )
    return {"kind": "rate", "ratings": ratings, **beside}


def _importer(connection: Connection, name: str) -> int:
    if connection.execute(select(Labeler.id).where(Labeler.name == name)).first() is None:
        row = {"name": name, "role": "labeler", "origin": "imported", "created": time.time()}
        connection.execute(insert(Labeler), [row])
    return labeler_id(connection, name, lock=True)
