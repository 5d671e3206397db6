"""The annotations that a choice means, by id."""

from typing import Any

from sqlalchemy import Connection, select

from annotate.answers.agreement import disagreement_share
from annotate.answers.choice import Choice, standing
from annotate.store.schema import Annotation
from rlhf.errors import LabelError


def chosen_annotations(connection: Connection, choice: Choice, only: Any = None) -> list[int]:
    """Ids of the answers, oldest first; only: a condition on Annotation that they meet. Raises LabelError."""
    if choice.min_agreement is not None and not 0 <= choice.min_agreement <= 1:
        raise LabelError(f"minimum agreement {choice.min_agreement}: give a share from 0 to 1")
    query = standing(connection, choice, select(Annotation.id, Annotation.task_id)).order_by(Annotation.id)
    rows = connection.execute(query if only is None else query.where(only)).all()
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
    from annotate.answers.ballots import ballots, group_by_task

    everybody = Choice(batch=choice.batch, include_simulated=choice.include_simulated)
    groups = group_by_task(ballots(connection, everybody))
    return {
        task
        for task, group in groups.items()
        if len(group.ranks) > 1 and 1 - disagreement_share(group.ranks) >= least
    }
