"""What a labeler has typed so far, kept on the server: a closed browser or a restarted server loses nothing."""

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, bindparam, insert, select, update

from annotate.store.accounts import labeler_id
from annotate.store.database import Database, retried, storable
from annotate.store.schema import Annotation, Draft
from annotate.work.assign import was_given
from rlhf.errors import LabelError

MAX_CHARACTERS, MAX_DEPTH = 2_000_000, 50
# Of every change of an answer, so built once.
MINE = and_(Draft.task_id == bindparam("task"), Draft.labeler_id == bindparam("labeler"))
REVISION = select(Draft.revision).where(MINE)
DRAFT = select(Draft.content, Draft.revision).where(MINE)
GIVEN = select(Annotation.id).where(Annotation.client_id == bindparam("client_id"))
KEEP, KEEP_NEWER = insert(Draft), update(Draft).where(MINE)


@dataclass(frozen=True)
class Saved:
    """What became of a draft: kept, or late, because revision is there already or because its answer was given."""

    saved: bool
    revision: int
    answered: bool = False


@retried
def save_draft(
    database: Database, labeler: str, task: int, content: dict[str, Any], revision: int, answer_id: str = ""
) -> Saved:
    """Keep what is typed so far, where neither a newer revision nor the answer itself is there already.

    revision: a number that grows, from that of the draft on which this one goes on. answer_id: the client id that the
    answer will have. Raises LabelError for a task this labeler never had, and for a draft that cannot be kept.
    """
    _check_content(task, content)
    if not 0 <= revision < 2**63:
        raise LabelError(f"task {task}: revision {revision} is out of range")
    values = {"content": storable(content), "revision": revision, "saved": time.time()}
    with database.write() as connection:
        number = labeler_id(connection, labeler, lock=True)
        mine = {"task": task, "labeler": number}
        known = connection.execute(REVISION, mine).scalar()
        if answer_id and connection.execute(GIVEN, {"client_id": answer_id}).first():
            return Saved(False, known or 0, answered=True)
        is_newer = known is None or known < revision
        if known is None:
            if not was_given(connection, number, task):
                raise LabelError(f"task {task}: not a task of yours; open the next one")
            connection.execute(KEEP, [{"task_id": task, "labeler_id": number, **values}])
        elif is_newer:
            connection.execute(KEEP_NEWER, {**mine, **values})
        return Saved(is_newer, max(known or 0, revision))


def _check_content(task: int, content: dict[str, Any]) -> None:
    """Raises LabelError for what could not be kept and shown again: too long, too deep, no JSON."""
    level: list[Any] = [content]
    for _ in range(MAX_DEPTH):
        level = [one for value in level if isinstance(value, dict | list) for one in _within(value)]
    if level:
        raise LabelError(f"task {task}: a draft of more than {MAX_DEPTH} levels is too deep to keep")
    try:
        size = len(json.dumps(content, ensure_ascii=False, allow_nan=False))
    except ValueError:
        raise LabelError(f"task {task}: a draft with a number that is none cannot be kept") from None
    if size > MAX_CHARACTERS:
        raise LabelError(f"task {task}: a draft of {size} characters is too long to keep")


def _within(value: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value
