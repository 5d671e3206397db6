"""What a labeler has typed so far, kept on the server: a closed browser or a restarted server loses nothing."""

import json
import time
from typing import Any

from sqlalchemy import and_, bindparam, insert, select, update

from annotate.store.accounts import labeler_id
from annotate.store.database import Database, retried, storable
from annotate.store.schema import Draft
from annotate.work.assign import was_given
from rlhf.errors import LabelError

MAX_CHARACTERS = 2_000_000
# Of every change of an answer, so built once.
MINE = and_(Draft.task_id == bindparam("task"), Draft.labeler_id == bindparam("labeler"))
REVISION, CONTENT = select(Draft.revision).where(MINE), select(Draft.content).where(MINE)
KEEP, KEEP_NEWER = insert(Draft), update(Draft).where(MINE)


@retried
def save_draft(database: Database, labeler: str, task: int, content: dict[str, Any], revision: int) -> bool:
    """Keep what is typed so far; False, with nothing changed, where a newer revision is there already.

    revision: a number that grows, such as the browser's clock in ms. Raises LabelError for a task this labeler never
    had, and for a draft too long to keep.
    """
    size = len(json.dumps(content, ensure_ascii=False))
    if size > MAX_CHARACTERS:
        raise LabelError(f"task {task}: a draft of {size} characters is too long to keep")
    if not 0 <= revision < 2**63:
        raise LabelError(f"task {task}: revision {revision} is out of range")
    values = {"content": storable(content), "revision": revision, "saved": time.time()}
    with database.write() as connection:
        number = labeler_id(connection, labeler, lock=True)
        mine = {"task": task, "labeler": number}
        known = connection.execute(REVISION, mine).scalar()
        if known is None:
            if not was_given(connection, number, task):
                raise LabelError(f"task {task}: not a task of yours; open the next one")
            connection.execute(KEEP, [{"task_id": task, "labeler_id": number, **values}])
        elif known < revision:
            connection.execute(KEEP_NEWER, {**mine, **values})
        return known is None or known < revision
