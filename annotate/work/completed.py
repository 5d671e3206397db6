"""Whether a batch is complete: every task has its answers and none is still to come. The notice of it is written here."""

import json
import time
from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, insert, select, update

from annotate.store.schema import Batch, LiveRequest, Task, WebhookDelivery

# Of every answer, so built once. Locked, so that of two last answers at once the later one sees the earlier.
STATE = (
    select(Batch.name, Batch.kind, Batch.webhook_url, Batch.completed)
    .where(Batch.id == bindparam("batch"))
    .with_for_update(key_share=True)
)
UNFINISHED = select(Task.id).where(Task.batch_id == bindparam("batch"), Task.done < Task.overlap).limit(1)


def answers_pending(connection: Connection, batch: int) -> bool:
    """Whether fresh answers may still come."""
    coming = LiveRequest.state.in_(("waiting", "wanted", "claimed"))
    query = select(LiveRequest.id).where(LiveRequest.batch_id == batch, coming).limit(1)
    return connection.execute(query).first() is not None


def note_completed(connection: Connection, batches: Sequence[int]) -> None:
    """Mark those of the batches that are complete now and no others; write the notices of those that have become so.

    To be called by whatever changes tasks, their overlap or their answers.
    """
    for batch in batches:
        row = connection.execute(STATE, {"batch": batch}).one()
        unfinished = connection.execute(UNFINISHED, {"batch": batch}).first() is not None
        complete = not unfinished and not answers_pending(connection, batch)
        if complete == (row.completed is not None):
            continue
        now = time.time()
        change = update(Batch).where(Batch.id == batch)
        connection.execute(change.values(completed=now if complete else None))
        if complete and row.webhook_url:
            body = json.dumps({"event": "batch_completed", "batch": row.name, "kind": row.kind, "at": now})
            notice = {"batch_id": batch, "body": body, "created": now, "next_attempt": now}
            connection.execute(insert(WebhookDelivery), [notice])
