"""Telling another program that a batch is complete. The notice is written by completed.py and sent afterwards.

A notice that could not be delivered is tried again with growing pauses, over a restart too; it may arrive twice, with
the same id.
"""

import hashlib
import hmac
import threading
import time
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from sqlalchemy import or_, select, update

from annotate.store.database import Database, storable
from annotate.store.schema import Batch, WebhookDelivery
from annotate.work.batches import batch_id
from rlhf.errors import LabelError

FIRST_PAUSE_S, LONGEST_PAUSE_S, MAX_ATTEMPTS, TIMEOUT_S = 10.0, 3600.0, 20, 10.0
WHOLE_S = 20.0  # for one notice; TIMEOUT_S is for each part of an answer
CLAIM_S = 60.0


def set_webhook(database: Database, batch: str, url: str, secret: str) -> None:
    """Call `url` (POST, JSON) once the batch is complete, signed with the secret; an empty URL ends it."""
    if url and not _is_web_address(url):
        raise LabelError(f"webhook {url}: give a http:// or https:// address")
    if url and len(secret) < 16:
        raise LabelError("webhook: give a secret of at least 16 characters, which signs the notices")
    with database.write() as connection:
        chosen = Batch.id == batch_id(connection, batch)
        connection.execute(update(Batch).where(chosen).values(webhook_url=url, webhook_secret=secret))


def _is_web_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:  # brackets that hold no address
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def deliver_due(database: Database) -> int:
    """Send the notices that are due; returns how many were accepted (status 2xx). Call it every few seconds."""
    accepted = 0
    while (claimed := _claim(database)) is not None:
        number, url, secret, body, attempts = claimed
        error = _posted_in_time(number, url, secret, body)
        pause = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (attempts - 1))
        values = {"error": error, "next_attempt": time.time() + pause}
        if not error:
            accepted, values = accepted + 1, {"error": "", "delivered": time.time()}
        with database.write() as connection:
            connection.execute(update(WebhookDelivery).where(WebhookDelivery.id == number).values(**values))
    return accepted


def _claim(database: Database) -> tuple[int, str, str, str, int] | None:
    now = time.time()
    columns = (WebhookDelivery.id, Batch.webhook_url, Batch.webhook_secret, WebhookDelivery.body)
    due = (
        WebhookDelivery.delivered.is_(None),
        # one that is due later than any pause lasts was written while a clock was wrong
        or_(WebhookDelivery.next_attempt <= now, WebhookDelivery.next_attempt > now + LONGEST_PAUSE_S),
        WebhookDelivery.attempts < MAX_ATTEMPTS,
        Batch.webhook_url != "",
    )
    query = (
        select(*columns, WebhookDelivery.attempts)
        .join(Batch, Batch.id == WebhookDelivery.batch_id)
        .where(*due)
    )
    with database.read() as connection:
        if connection.execute(query.limit(1)).first() is None:
            return None
    with database.write() as connection:
        row = connection.execute(
            query.order_by(WebhookDelivery.id).limit(1).with_for_update(of=WebhookDelivery, skip_locked=True)
        ).first()
        if row is None:
            return None
        change = update(WebhookDelivery).where(WebhookDelivery.id == row.id)
        connection.execute(change.values(attempts=row.attempts + 1, next_attempt=now + CLAIM_S))
        return row.id, row.webhook_url, row.webhook_secret, row.body, row.attempts + 1


class _NoRedirect(HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        """A notice goes to the address that was configured and to no other."""


def _posted_in_time(number: int, url: str, secret: str, body: str) -> str:
    """Send one notice; what went wrong, empty for nothing. An address that answers a byte at a time is left alone."""
    errors: list[str] = []
    sending = threading.Thread(target=lambda: errors.append(_post(number, url, secret, body)), daemon=True)
    sending.start()
    sending.join(WHOLE_S)
    return errors[0] if errors else f"no answer within {WHOLE_S:.0f} seconds"


def _post(number: int, url: str, secret: str, body: str) -> str:
    signature = hmac.new(secret.encode(), body.encode(), hashlib.sha256).hexdigest()
    headers = {"Content-Type": "application/json", "X-RLHF-Delivery": str(number)}
    try:
        request = Request(url, body.encode(), headers | {"X-RLHF-Signature": f"sha256={signature}"})
        with build_opener(_NoRedirect).open(request, timeout=TIMEOUT_S):
            return ""
    except Exception as error:  # whatever an address makes of it is this notice's error, and nobody else's
        return storable(f"{type(error).__name__}: {error}"[:500])
