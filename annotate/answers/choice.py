"""Which answers a snapshot, an export or a figure is about."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from annotate.figures.agreement import apart
from annotate.store.schema import Annotation, Labeler, Task
from annotate.work.batches import batch_id
from rlhf.errors import LabelError

RANKED = ("rank", "compare")  # kinds of answers that order completions


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Answers that stand, gold questions and skips aside, narrowed down.

    since, until: seconds since 1970, until not included. labelers: names, all where empty. min_agreement: share in
    [0, 1] of the judgements on a task's pairs on which its labelers agree; a task only one person ranked has none and
    is left out. adjudicated: a lead's verdict takes the place of the answers it overrules.
    """

    batch: str | None = None
    since: float | None = None
    until: float | None = None
    labelers: tuple[str, ...] = ()
    include_simulated: bool = True
    min_agreement: float | None = None
    adjudicated: bool = False


def standing(connection: Connection, choice: Choice, query: Any, *, gold: bool = False) -> Any:
    """The query over Annotation, joined with its Task and Labeler and narrowed to labelers' answers of the choice."""
    query = query.join(Task, Task.id == Annotation.task_id).join(Labeler, Labeler.id == Annotation.labeler_id)
    query = query.where(Annotation.standing, Annotation.kind != "skip", ~Annotation.adjudicates)
    query = query.where(Task.gold.is_not(None) if gold else Task.gold.is_(None))
    if choice.batch is not None:
        query = query.where(Task.batch_id == batch_id(connection, choice.batch))
    if choice.since is not None:
        query = query.where(Annotation.created >= choice.since)
    if choice.until is not None:
        query = query.where(Annotation.created < choice.until)
    if choice.labelers:
        query = query.where(Labeler.name.in_(choice.labelers))
    return query if choice.include_simulated else query.where(Labeler.origin != "simulated")


def chosen_annotations(connection: Connection, choice: Choice, kinds: Sequence[str] = ()) -> list[int]:
    """Ids of the answers, oldest first; of these kinds only, where any are named."""
    if choice.min_agreement is not None and not 0 <= choice.min_agreement <= 1:
        raise LabelError(f"minimum agreement {choice.min_agreement}: give a share from 0 to 1")
    query = standing(connection, choice, select(Annotation.id, Annotation.task_id)).order_by(Annotation.id)
    rows = connection.execute(query.where(Annotation.kind.in_(kinds)) if kinds else query).all()
    verdicts = _verdicts(connection) if choice.adjudicated else {}
    agreed = None if choice.min_agreement is None else _agreed(connection, choice, choice.min_agreement)
    ids = set()
    for annotation, task in rows:
        if task in verdicts:
            ids.add(verdicts[task])
        elif agreed is None or task in agreed:
            ids.add(annotation)
    return sorted(ids)


def _verdicts(connection: Connection) -> dict[int, int]:
    query = select(Annotation.task_id, Annotation.id).where(Annotation.standing, Annotation.adjudicates)
    return {task: annotation for task, annotation in connection.execute(query)}


def _agreed(connection: Connection, choice: Choice, least: float) -> set[int]:
    """Tasks whose labelers, those the choice leaves out by name or date too, agree at least so much."""
    from annotate.figures.ballots import ballots, grouped

    everybody = Choice(batch=choice.batch, include_simulated=choice.include_simulated)
    groups = grouped(ballots(connection, everybody))
    return {
        task for task, group in groups.items() if len(group.ranks) > 1 and 1 - apart(group.ranks) >= least
    }


def chunks(values: Sequence[Any], size: int = 500) -> Iterator[Sequence[Any]]:
    """The values in slices that fit a database's limit on parameters."""
    return (values[start : start + size] for start in range(0, len(values), size))
