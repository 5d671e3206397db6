"""Writing an answer down once: the client makes its id, so a retry or a double click changes nothing."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, delete, func, insert, select, update

from annotate.schema import Annotation, Lease, RankingItem, Task, TaskCompletion
from rlhf.errors import LabelError

KINDS = ("rank", "skip", "demonstrate", "none_acceptable")


@dataclass(frozen=True, kw_only=True)
class Submission:
    """One answer to one task. ranks, ratings and flags follow the completions' stored order, not the shown one.

    ranks: 0 is best, equal ranks tie. shown_order: stored places in the order the labeler saw them. time_s: seconds
    spent on the task.
    """

    task_id: int
    client_id: str
    kind: str = "rank"
    ranks: tuple[int, ...] = ()
    ratings: tuple[int | None, ...] = ()
    flags: tuple[tuple[str, ...], ...] = ()
    shown_order: tuple[int, ...] = ()
    demonstration: str | None = None
    comment: str = ""
    time_s: float = 0.0


def write_submissions(
    connection: Connection, labeler_id: int, submissions: Sequence[Submission]
) -> list[int]:
    """Store one labeler's answers; returns the annotation's id of each, the earlier one's for a known client id.

    An answer to a task the labeler has answered before supersedes that one. Without a valid lease an answer is kept
    and marked late. Raises LabelError, with nothing written, for an unknown task or ranks that do not fit it.
    """
    task_ids = sorted({submission.task_id for submission in submissions})
    known = _known(connection, [submission.client_id for submission in submissions], labeler_id)
    sizes = _num_completions(connection, task_ids)
    new = [submission for submission in submissions if submission.client_id not in known]
    for submission in new:
        _check(submission, sizes)
    if len({submission.task_id for submission in new}) < len(new):
        raise LabelError("two new answers to the same task in one call; send them one after the other")
    if new:
        _insert(connection, labeler_id, new)
        known |= _known(connection, [submission.client_id for submission in new], labeler_id)
        _insert_items(connection, new, known)
    return [known[submission.client_id] for submission in submissions]


def _insert(connection: Connection, labeler_id: int, new: Sequence[Submission]) -> None:
    now, ids = time.time(), [submission.task_id for submission in new]
    leased: set[int] = set()
    earlier: dict[int, tuple[int, str]] = {}
    for some in _chunks(ids):
        leases = select(Lease.task_id).where(
            Lease.labeler_id == labeler_id, Lease.task_id.in_(some), Lease.expires > now
        )
        leased |= set(connection.execute(leases).scalars())
        mine = select(Annotation.task_id, Annotation.id, Annotation.kind).where(
            Annotation.labeler_id == labeler_id, Annotation.task_id.in_(some), Annotation.standing
        )
        earlier |= {task: (annotation, kind) for task, annotation, kind in connection.execute(mine)}
    rows = [
        {
            "client_id": submission.client_id,
            "task_id": submission.task_id,
            "labeler_id": labeler_id,
            "kind": submission.kind,
            "shown_order": list(submission.shown_order),
            "demonstration": submission.demonstration,
            "comment": submission.comment,
            "time_s": submission.time_s,
            "late": submission.task_id not in leased and submission.task_id not in earlier,
            "supersedes": earlier[submission.task_id][0] if submission.task_id in earlier else None,
            "standing": True,
            "created": now,
        }
        for submission in new
    ]
    for some in _chunks([annotation for annotation, _ in earlier.values()]):
        connection.execute(update(Annotation).where(Annotation.id.in_(some)).values(standing=False))
    connection.execute(insert(Annotation), rows)
    for some in _chunks(ids):
        connection.execute(delete(Lease).where(Lease.labeler_id == labeler_id, Lease.task_id.in_(some)))
    _recount(connection, ids)


def _recount(connection: Connection, task_ids: Sequence[int]) -> None:
    answers = (
        select(func.count())
        .select_from(Annotation)
        .where(Annotation.task_id == Task.id, Annotation.standing, Annotation.kind != "skip")
        .scalar_subquery()
    )
    for some in _chunks(task_ids):
        connection.execute(update(Task).where(Task.id.in_(some)).values(done=answers))


def _insert_items(connection: Connection, new: Sequence[Submission], known: dict[str, int]) -> None:
    rows = []
    for submission in new:
        size = len(submission.ranks)
        ratings = submission.ratings or (None,) * size
        flags = submission.flags or ((),) * size
        for place, (rank, rating, marks) in enumerate(zip(submission.ranks, ratings, flags, strict=True)):
            rows.append(
                {
                    "annotation_id": known[submission.client_id],
                    "place": place,
                    "rank": rank,
                    "rating": rating,
                    "flags": list(marks),
                }
            )
    if rows:
        connection.execute(insert(RankingItem), rows)


def _known(connection: Connection, client_ids: Sequence[str], labeler_id: int) -> dict[str, int]:
    found: dict[str, int] = {}
    for some in _chunks(client_ids):
        query = select(Annotation.client_id, Annotation.id, Annotation.labeler_id).where(
            Annotation.client_id.in_(some)
        )
        for client_id, annotation_id, owner in connection.execute(query):
            if owner != labeler_id:
                raise LabelError("this client id belongs to another labeler's answer; make a new one")
            found[client_id] = annotation_id
    return found


def _num_completions(connection: Connection, task_ids: Sequence[int]) -> dict[int, int]:
    sizes: dict[int, int] = {}
    for some in _chunks(task_ids):
        places = select(TaskCompletion.task_id, func.count()).where(TaskCompletion.task_id.in_(some))
        sizes |= {task: size for task, size in connection.execute(places.group_by(TaskCompletion.task_id))}
        empty = select(Task.id).where(Task.id.in_(some))
        for task in connection.execute(empty).scalars():
            sizes.setdefault(task, 0)
    return sizes


def _check(submission: Submission, sizes: dict[int, int]) -> None:
    task, size = submission.task_id, sizes.get(submission.task_id)
    if size is None:
        raise LabelError(f"task {task}: no such task")
    if submission.kind not in KINDS:
        raise LabelError(f"task {task}: {submission.kind} is no kind of answer; known are {', '.join(KINDS)}")
    if not 1 <= len(submission.client_id) <= 64:
        raise LabelError(f"task {task}: a client id has 1 to 64 characters")
    if submission.kind == "demonstrate" and not (submission.demonstration or "").strip():
        raise LabelError(f"task {task}: the demonstration is empty")
    if submission.kind == "rank" and len(submission.ranks) != size:
        raise LabelError(f"task {task}: {len(submission.ranks)} ranks for {size} answers")
    if any(rank < 0 for rank in submission.ranks):
        raise LabelError(f"task {task}: a rank is negative; 0 is best")
    for name in ("ratings", "flags"):
        given = getattr(submission, name)
        if given and len(given) != len(submission.ranks):
            raise LabelError(f"task {task}: {len(given)} {name} for {len(submission.ranks)} ranked answers")
    for rating in submission.ratings:
        if rating is not None and not 1 <= rating <= 7:
            raise LabelError(f"task {task}: a rating of {rating}; ratings go from 1 to 7")


def _chunks(values: Sequence) -> list[Sequence]:  # type: ignore[type-arg]
    return [values[start : start + 500] for start in range(0, len(values), 500)]
