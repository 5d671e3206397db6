"""Writing an answer down once: the client makes its id, so a retry or a double click changes nothing."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, insert, select, update

from annotate.store.database import storable
from annotate.store.schema import (
    COUNTED,
    MAX_INTEGER,
    Annotation,
    Batch,
    Draft,
    Lease,
    RankingItem,
    Task,
    TaskCompletion,
)
from annotate.work.asks import FLAGS, STRENGTHS, Asks, asks_from
from annotate.work.completed import note_completed
from annotate.work.history import items_of
from rlhf.data.formats.lists import ranks_by_score
from rlhf.errors import LabelError

KINDS = ("rank", "demonstrate", "compare", "rate", "skip")
VERDICT_RANKS = {"a": (0, 1), "b": (1, 0), "tie": (0, 0), "both_bad": (0, 0)}
THUMBS = {"up": 7, "down": 1}  # the ratings that a chat's thumbs are kept as


@dataclass(frozen=True, kw_only=True)
class Submission:
    """One answer to one task. ranks, ratings and flags follow the completions' stored order, not the shown one.

    ranks: 0 is best, equal ranks tie; may be left out where none_acceptable, whose ratings and flags are kept all the same.
    ratings: 1 to the batch's scale; all that is said where the kind is rate, and the ranks follow from them. verdict: a,
    b, tie or both_bad of a comparison (a is the answer stored first); up or down of a chat's answer, in place of its
    rating. strength: 1…3, of a preference between two.
    shown_order: stored places in the order the labeler saw them. time_s: seconds of attention. fields: what the fields of
    a lead's own page say, by name, as JSON has it.
    """

    task_id: int
    client_id: str
    kind: str = "rank"
    ranks: tuple[int, ...] = ()
    ratings: tuple[int | None, ...] = ()
    flags: tuple[tuple[str, ...], ...] = ()
    shown_order: tuple[int, ...] = ()
    demonstration: str | None = None
    verdict: str | None = None
    strength: int | None = None
    none_acceptable: bool = False
    comment: str = ""
    time_s: float = 0.0
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where answers come from: label, chat (with the place in it as context) or import; or a lead's verdict."""

    origin: str = "label"
    context: dict[str, Any] | None = None
    adjudicates: bool = False


LABELED = Source()
# Statements of every answer are built once: that takes SQLAlchemy longer than a database takes to answer them.
IDS: Any = bindparam("ids", expanding=True)
LABELER: Any = bindparam("labeler")
LOCK = select(Task.id).where(Task.id.in_(IDS)).order_by(Task.id).with_for_update(key_share=True)
NUM_COMPLETIONS = select(func.count()).where(TaskCompletion.task_id == Task.id).scalar_subquery()
TASKS = (
    select(
        Task.id,
        Task.batch_id,
        Batch.name.label("batch"),
        Batch.kind,
        Batch.asks,
        NUM_COMPLETIONS.label("size"),
    )
    .join(Batch, Batch.id == Task.batch_id)
    .where(Task.id.in_(IDS))
)
KNOWN = select(Annotation.client_id, Annotation.id, Annotation.labeler_id).where(
    Annotation.client_id.in_(IDS)
)
SAID = ("task_id", "kind", "demonstration", "verdict", "strength", "none_acceptable", "comment", "fields")
SAID_BEFORE = select(
    Annotation.id, Annotation.client_id, *(getattr(Annotation, name) for name in SAID)
).where(Annotation.client_id.in_(IDS))
LEASES = select(Lease.task_id, Lease.expires, Lease.created).where(
    Lease.labeler_id == LABELER, Lease.task_id.in_(IDS)
)
STANDING = select(Annotation.task_id, Annotation.id).where(Annotation.task_id.in_(IDS), Annotation.standing)
VERDICTS = STANDING.where(Annotation.adjudicates)
OWN = STANDING.where(~Annotation.adjudicates, Annotation.labeler_id == LABELER)
SUPERSEDE = update(Annotation).where(Annotation.id.in_(IDS)).values(standing=False)
NO_LONGER_NEEDED = (
    delete(Lease).where(Lease.labeler_id == LABELER, Lease.task_id.in_(IDS)),
    # Its revision stays, so that a save that comes late is known to be late.
    update(Draft).where(Draft.labeler_id == LABELER, Draft.task_id.in_(IDS)).values(content=None),
)
NUM_ANSWERS = (
    select(func.count())
    .select_from(Annotation)
    .where(Annotation.task_id == Task.id, COUNTED)
    .scalar_subquery()
)
RECOUNT = update(Task).where(Task.id.in_(IDS)).values(done=NUM_ANSWERS)
KEEP, KEEP_ITEMS = insert(Annotation), insert(RankingItem)


def write_submissions(
    connection: Connection, labeler: int, submissions: Sequence[Submission], source: Source = LABELED
) -> list[int]:
    """Store one labeler's answers; returns the annotation's id of each, the earlier one's for a known client id.

    An answer to a task the labeler has answered before supersedes that one. Without a valid lease an answer is kept
    and marked late. Raises LabelError, with nothing written, for an unknown task, ranks that do not fit it, and a known
    client id that says something else now. `labeler` is locked.
    """
    tasks = _lock_tasks(connection, [submission.task_id for submission in submissions])
    known = _known(connection, [submission.client_id for submission in submissions], labeler)
    new = [submission for submission in submissions if submission.client_id not in known]
    if known:
        _check_repeated(connection, [one for one in submissions if one.client_id in known])
    for submission in new:
        _check(submission, tasks.get(submission.task_id), source)
    if len({submission.task_id for submission in new}) < len(new):
        raise LabelError("two new answers to the same task in one call; send them one after the other")
    if new:
        _insert(connection, labeler, new, source)
        known |= _known(connection, [submission.client_id for submission in new], labeler)
        _insert_items(connection, new, known)
        batches = sorted({tasks[submission.task_id].batch_id for submission in new})
        note_completed(connection, batches)
    return [known[submission.client_id] for submission in submissions]


def _lock_tasks(connection: Connection, task_ids: Sequence[int]) -> dict[int, Any]:
    """batch, its kind and what it asks, and size of tasks; locked, so that counts made after this see every earlier answer."""
    found: dict[int, Any] = {}
    ids = sorted(set(task_ids))
    for some in _chunks(ids):
        connection.execute(LOCK, {"ids": some})
        found |= {row.id: row for row in connection.execute(TASKS, {"ids": some})}
    return found


def _insert(connection: Connection, labeler: int, new: Sequence[Submission], source: Source) -> None:
    now, ids = time.time(), [submission.task_id for submission in new]
    leases = _leases(connection, labeler, ids)
    earlier = _earlier(connection, labeler, ids, source.adjudicates)
    rows = []
    for submission in new:
        lease, before = leases.get(submission.task_id), earlier.get(submission.task_id)
        unleased = lease is None or lease.expires <= now
        free = source.origin != "label" or source.adjudicates  # needs no place
        rows.append(
            {
                **_said(submission),
                "labeler_id": labeler,
                "late": unleased and before is None and not free,
                "lease_s": max(0.0, now - lease.created) if lease is not None and lease.created else None,
                "supersedes": before,
                "standing": True,
                "created": now,
                "origin": source.origin,
                "context": source.context,
                "adjudicates": source.adjudicates,
            }
        )
    for some in _chunks(list(earlier.values())):
        connection.execute(SUPERSEDE, {"ids": some})
    connection.execute(KEEP, rows)
    if not source.adjudicates:
        for statement in NO_LONGER_NEEDED:
            for some in _chunks(ids):
                connection.execute(statement, {"labeler": labeler, "ids": some})
        recount_answers(connection, ids)


def _said(submission: Submission) -> dict[str, Any]:
    text = submission.demonstration
    return {
        "client_id": submission.client_id,
        "task_id": submission.task_id,
        "kind": submission.kind,
        "shown_order": list(submission.shown_order),
        "demonstration": None if text is None else storable(text),
        "verdict": submission.verdict,
        "strength": submission.strength,
        "none_acceptable": submission.none_acceptable or submission.verdict == "both_bad",
        "comment": storable(submission.comment),
        "time_s": submission.time_s,
        "fields": storable(submission.fields),
    }


def _leases(connection: Connection, labeler: int, task_ids: Sequence[int]) -> dict[int, Any]:
    found: dict[int, Any] = {}
    for some in _chunks(task_ids):
        rows = connection.execute(LEASES, {"labeler": labeler, "ids": some})
        found |= {row.task_id: row for row in rows}
    return found


def _earlier(
    connection: Connection, labeler: int, task_ids: Sequence[int], adjudicates: bool
) -> dict[int, int]:
    """The answers that new ones supersede: the labeler's own, or whoever's verdict stood before."""
    found: dict[int, int] = {}
    for some in _chunks(task_ids):
        rows = connection.execute(VERDICTS if adjudicates else OWN, {"labeler": labeler, "ids": some})
        found |= {task: annotation for task, annotation in rows}
    return found


def recount_answers(connection: Connection, task_ids: Sequence[int]) -> None:
    """Set the tasks' counts of standing answers. The tasks are locked."""
    for some in _chunks(task_ids):
        connection.execute(RECOUNT, {"ids": some})


def _insert_items(connection: Connection, new: Sequence[Submission], known: dict[str, int]) -> None:
    rows = [
        {"annotation_id": known[submission.client_id], "place": place, "rank": rank, "rating": rating, "flags": flags}
        for submission in new
        for place, (rank, rating, flags) in enumerate(_items(submission))
    ]  # fmt: skip
    if rows:
        connection.execute(KEEP_ITEMS, rows)


def _items(submission: Submission) -> list[tuple[int | None, int | None, list[str]]]:
    """Rank, rating and flags that an answer gives to each of the task's completions, none where it speaks of none."""
    ratings = _ratings(submission)
    ranks = _ranks(submission, ratings)
    size = len(ranks or ratings or submission.flags)
    flags = [list(marks) for marks in submission.flags] or [[] for _ in range(size)]
    return list(zip(ranks or (None,) * size, ratings or (None,) * size, flags, strict=True))


def _check_repeated(connection: Connection, submissions: Sequence[Submission]) -> None:
    """Raises LabelError for a known client id with other content: passed over as a repetition it would be lost."""
    for some in _chunks(submissions):
        ids = [submission.client_id for submission in some]
        rows = {row.client_id: row for row in connection.execute(SAID_BEFORE, {"ids": ids})}
        items = items_of(connection, [row.id for row in rows.values()])
        for submission in some:
            row, now = rows[submission.client_id], _said(submission)
            given = [(item.rank, item.rating, list(item.flags)) for item in items.get(row.id, [])]
            if given != _items(submission) or any(getattr(row, name) != now[name] for name in SAID):
                raise LabelError(
                    f"task {submission.task_id}: another answer was kept under this client id; open the task again to change it"
                )


def _ratings(submission: Submission) -> tuple[int | None, ...]:
    if submission.kind == "rate" and submission.verdict is not None:
        return (THUMBS[submission.verdict],)
    return submission.ratings


def _ranks(submission: Submission, ratings: Sequence[int | None]) -> tuple[int, ...]:
    """An answer's ranks; those that ratings imply where the answer is ratings."""
    if submission.kind == "compare":
        return VERDICT_RANKS[submission.verdict or ""]
    if submission.kind == "rate":
        return ranks_by_score([rating for rating in ratings if rating is not None])
    return submission.ranks


def verdict_of(ranks: Sequence[int]) -> str:
    """What a comparison says that puts two answers in these ranks."""
    first, second = ranks
    return "tie" if first == second else "a" if first < second else "b"


def _known(connection: Connection, client_ids: Sequence[str], labeler: int) -> dict[str, int]:
    found: dict[str, int] = {}
    for some in _chunks(client_ids):
        for client_id, annotation, owner in connection.execute(KNOWN, {"ids": some}):
            if owner != labeler:
                raise LabelError("this client id belongs to another labeler's answer; make a new one")
            found[client_id] = annotation
    return found


def _check(submission: Submission, task: Any, source: Source) -> None:
    number = submission.task_id
    if task is None:
        raise LabelError(f"task {number}: no such task")
    if submission.kind not in KINDS:
        raise LabelError(
            f"task {number}: {submission.kind} is no kind of answer; known are {', '.join(KINDS)}"
        )
    if submission.kind not in ("skip", task.kind):
        raise LabelError(f"task {number}: the batch wants {task.kind}, not {submission.kind}")
    if not 1 <= len(submission.client_id) <= 64 or storable(submission.client_id) != submission.client_id:
        raise LabelError(f"task {number}: a client id has 1 to 64 characters")
    if not 0 <= submission.time_s < 1e9 or math.isnan(submission.time_s):
        raise LabelError(f"task {number}: {submission.time_s} seconds is no time to have taken")
    if submission.kind == "demonstrate" and not (submission.demonstration or "").strip():
        raise LabelError(f"task {number}: the demonstration is empty")
    if submission.shown_order and sorted(submission.shown_order) != list(range(task.size)):
        raise LabelError(f"task {number}: the shown order does not name each of {task.size} answers once")
    asks = asks_from(task.asks)
    _check_verdict(submission, task.size)
    _check_items(submission, task.size, source)
    _check_ratings(submission, task.size, asks.scale)
    if source == LABELED:
        _check_owed(submission, task, asks)


def _check_owed(submission: Submission, task: Any, asks: Asks) -> None:
    """What a batch owes itself: tasks that are not skipped, a comment below a rating."""
    if submission.kind == "skip" and not asks.may_skip:
        raise LabelError(f"batch {task.batch}: its tasks may not be skipped")
    low = any(rating is not None and rating < asks.comment_below for rating in submission.ratings)
    if low and not submission.comment.strip():
        raise LabelError(
            f"batch {task.batch}: a rating below {asks.comment_below} needs a comment that says why"
        )


def _check_verdict(submission: Submission, size: int) -> None:
    number, verdict = submission.task_id, submission.verdict
    known: tuple[str, ...] = {"compare": tuple(VERDICT_RANKS), "rate": tuple(THUMBS)}.get(submission.kind, ())
    rated = submission.kind == "rate" and verdict is None  # by number
    if known and verdict not in known and not rated:
        raise LabelError(f"task {number}: the verdict is one of {', '.join(known)}, not {verdict}")
    if not known and verdict is not None:
        raise LabelError(f"task {number}: a verdict belongs to a comparison")
    if submission.kind == "rate" and verdict is not None and (size != 1 or submission.ratings):
        raise LabelError(f"task {number}: {verdict} is said of one answer, in place of a rating")
    if submission.strength is not None and (submission.strength not in STRENGTHS or size != 2):
        raise LabelError(f"task {number}: a strength of {submission.strength}; 1 to 3, between two answers")


def _check_items(submission: Submission, size: int, source: Source) -> None:
    number, ranked = submission.task_id, len(submission.ranks)
    if submission.kind == "rank" and ranked != size and not (submission.none_acceptable and ranked == 0):
        raise LabelError(f"task {number}: {ranked} ranks for {size} answers")
    if submission.kind != "rank" and ranked:
        raise LabelError(f"task {number}: ranks belong to a ranking, not to {submission.kind}")
    for rank in submission.ranks:
        if not 0 <= rank <= MAX_INTEGER:
            raise LabelError(f"task {number}: a rank of {rank}; 0 is best, {MAX_INTEGER:,} the last")
    items = 0 if submission.kind in ("skip", "demonstrate") else size
    for name in ("ratings", "flags"):
        given = getattr(submission, name)
        if given and len(given) != (ranked or items):
            raise LabelError(f"task {number}: {len(given)} {name} for {ranked or items} ranked answers")
    unknown = {flag for marks in submission.flags for flag in marks} - set(FLAGS)
    if unknown and source.origin != "import":
        raise LabelError(f"task {number}: no flag named {', '.join(sorted(unknown))}")


def _check_ratings(submission: Submission, size: int, scale: int) -> None:
    number, given = submission.task_id, [one for one in submission.ratings if one is not None]
    if submission.kind == "rate" and submission.verdict is None and len(given) != size:
        raise LabelError(f"task {number}: {len(given)} ratings for {size} answers")
    for rating in given:
        if not 1 <= rating <= scale:
            raise LabelError(f"task {number}: a rating of {rating}; ratings go from 1 to {scale}")


def _chunks(values: Sequence) -> list[Sequence]:  # type: ignore[type-arg]
    return [values[start : start + 500] for start in range(0, len(values), 500)]
