"""Where labelers disagree, side by side, and a lead's verdict that overrules them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from annotate.answers.agreement import disagreement_share
from annotate.answers.ballots import ballots, group_by_task
from annotate.answers.choice import Choice, standing
from annotate.answers.ratings import apart_by_task, ratings_given
from annotate.store.accounts import labeler_id
from annotate.store.database import Database, retried
from annotate.store.schema import Annotation, Labeler
from annotate.work.assign import TaskView, view_tasks
from annotate.work.batches import RANKED
from annotate.work.history import Verdict, items_of, ranks_in, verdicts_on
from annotate.work.submit import KNOWN, LOCK, Source, Submission, write_submissions
from rlhf.errors import LabelError

Place = tuple[
    bool, float, int
]  # whether it has a verdict, minus its share, its task: the order of disagreements


@dataclass(frozen=True)
class GivenAnswer:
    """One labeler's standing answer to a task; ranks, ratings and flags in the stored order of its completions."""

    annotation_id: int
    labeler: str
    simulated: bool
    ranks: tuple[int, ...]
    ratings: tuple[int | None, ...]
    flags: tuple[tuple[str, ...], ...]
    verdict: str | None
    strength: int | None
    comment: str
    fields: dict[str, Any]


@dataclass(frozen=True)
class Disagreement:
    """A task with its answers; share: of the judgements on its pairs by two labelers, those that differ, 0…1.

    Of ratings: how far two labelers are apart, as a part of the scale.
    """

    task: TaskView
    answers: tuple[GivenAnswer, ...]
    share: float
    adjudicated: Verdict | None

    @property
    def place(self) -> Place:
        """Where it stands in the list; known of a task, the list goes on from there however it has changed."""
        return (self.adjudicated is not None, -self.share, self.task.id)


@retried
def adjudicate(database: Database, lead: str, submission: Submission, over: float | None = None) -> int:
    """Keep a lead's verdict on a task; returns its id. It supersedes an earlier verdict, whoever gave that.

    over: when the verdict was given that the lead saw, 0 for none. Raises LabelError where another one stands by now, for
    a labeler without the role and for a skip.
    """
    if submission.kind == "skip":
        raise LabelError(f"task {submission.task_id}: a verdict cannot be skipped")
    with database.write() as connection:
        number = labeler_id(connection, lead, lock=True)
        role = connection.execute(select(Labeler.role).where(Labeler.id == number)).scalar_one()
        if role not in ("lead", "admin"):
            raise LabelError(f"{lead} is a {role}; verdicts are given by a lead or an admin")
        if over is not None:
            _check_unchanged(connection, submission, over)
        return write_submissions(connection, number, [submission], Source(adjudicates=True))[0]


def _check_unchanged(connection: Connection, submission: Submission, over: float) -> None:
    if connection.execute(KNOWN, {"ids": [submission.client_id]}).first():
        return  # sent again
    connection.execute(LOCK, {"ids": [submission.task_id]})
    stands = verdicts_on(connection, [submission.task_id]).get(submission.task_id)
    if stands and stands.created != over:
        raise LabelError(
            f"task {submission.task_id}: {stands.by} has given a verdict meanwhile; look at it before you give yours"
        )


def disagreement_by_task(database: Database, choice: Choice) -> dict[int, float]:
    """Tasks whose labelers differ, each with how much (`Disagreement.share`)."""
    with database.read() as connection:
        groups = group_by_task(ballots(connection, choice))
        rated = ratings_given(connection, choice)
    shares = {task: disagreement_share(group.ranks) for task, group in groups.items()} | apart_by_task(rated)
    return {task: share for task, share in shares.items() if share}


def disagreements(
    database: Database, choice: Choice, shares: Mapping[int, float], limit: int = 20, offset: int = 0,
    *, after: Place | None = None,
) -> list[Disagreement]:  # fmt: skip
    """Tasks of `shares` (see `disagreement_by_task`) with the choice's answers, worst first; after them those with a verdict.

    after: the place of the one that they follow. Tasks whose answers have changed so much since that nobody puts them in
    order are left out.
    """
    found: list[Disagreement] = []
    with database.read() as connection:
        verdicts = verdicts_on(connection, list(shares))
        places = sorted((task in verdicts, -share, task) for task, share in shares.items())
        order = [place[2] for place in places if after is None or place > after][offset:]
        for start in range(0, len(order), limit):
            some = order[start : start + limit]
            answers = _answers(connection, choice, some)
            views = {view.id: view for view in view_tasks(connection, some, labeler=0)}
            found += [
                Disagreement(views[task], tuple(answers[task]), shares[task], verdicts.get(task))
                for task in some
                if task in answers
            ]
            if len(found) >= limit:
                break
    return found[:limit]


def _answers(connection: Connection, choice: Choice, tasks: Sequence[int]) -> dict[int, list[GivenAnswer]]:
    columns = (
        Annotation.id,
        Annotation.task_id,
        Labeler.name,
        (Labeler.origin == "simulated").label("simulated"),
    )
    query = standing(connection, choice, select(*columns))
    query = query.add_columns(Annotation.verdict, Annotation.strength, Annotation.comment, Annotation.fields)
    query = query.where(Annotation.kind.in_((*RANKED, "rate")), Annotation.task_id.in_(tasks)).order_by(
        Annotation.id
    )
    rows = connection.execute(query).all()
    items = items_of(connection, [row.id for row in rows])
    found: dict[int, list[GivenAnswer]] = {}
    for row in rows:
        if ranks_in(items.get(row.id, [])):
            found.setdefault(row.task_id, []).append(_given(row, items[row.id]))
    return found


def _given(row: Any, items: Sequence[Any]) -> GivenAnswer:
    return GivenAnswer(
        row.id, row.name, bool(row.simulated), ranks_in(items),
        tuple(item.rating for item in items), tuple(tuple(item.flags) for item in items),
        row.verdict, row.strength, row.comment, row.fields,
    )  # fmt: skip
