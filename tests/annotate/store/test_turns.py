"""While another program writes to a SQLite file: writers wait for so long and no longer, and readers do not wait at all."""

import asyncio
import fcntl
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest

from annotate.app.server import create_app
from annotate.app.settings import AppSettings
from annotate.labels import LabelStore, NewTask
from annotate.store import turns
from annotate.store.accounts import account_of_session, add_account, add_token, open_session
from annotate.store.database import DatabaseDown


@pytest.fixture
def store(tmp_path):
    with LabelStore(tmp_path / "labels.db") as store:
        add_account(store.database, "ann", None)
        store.add_batch("round", [NewTask(prompt="q", completions=("a", "b"))])
        yield store


@contextmanager
def another_program_writes(store):
    """As an import does, by the lock file beside the store."""
    with open(f"{store.database.engine.url.database}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def test_a_writer_waits_as_long_as_its_patience_lasts_and_then_says_why(store):
    store.database.patience_s = 0.1
    with another_program_writes(store) as lock:
        with pytest.raises(DatabaseDown, match="is writing; try again"):
            store.lease("ann")
        fcntl.flock(lock, fcntl.LOCK_UN)
        assert store.lease("ann") is not None


def test_a_session_that_cannot_be_renewed_now_is_good_all_the_same(store):
    token = open_session(store.database, "ann")
    with store.database.write() as connection:
        connection.exec_driver_sql("UPDATE session SET created = created - 40000, expires = expires - 40000")
    store.database.patience_s = 0.05
    with another_program_writes(store):
        assert account_of_session(store.database, token).name == "ann"


def test_a_crowd_of_writers_leaves_threads_for_readers(store, monkeypatch):
    monkeypatch.setattr(turns, "LONG_S", 0.1)
    app = create_app(store, AppSettings())
    assert store.database.patience_s == 4
    store.database.patience_s = 60
    task = store.lease("ann").id
    headers = {"Authorization": f"Bearer {add_token(store.database, 'ann', 'test')}"}

    async def crowd():
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://localhost", headers=headers
        ) as client:
            with another_program_writes(store):
                drafts = [
                    asyncio.create_task(
                        client.put(f"/api/tasks/{task}/draft", json={"content": {}, "revision": i})
                    )
                    for i in range(60)
                ]
                await asyncio.sleep(0.2)
                reading = await asyncio.wait_for(client.get("/api/me"), 30)
            return reading, await asyncio.gather(*drafts)

    with ThreadPoolExecutor(1) as aside:  # a browser's loop may be running in this thread
        reading, drafts = aside.submit(lambda: asyncio.run(crowd())).result()
    assert reading.status_code == 200
    kept = [reply for reply in drafts if reply.status_code == 200]
    told = [reply for reply in drafts if reply.status_code == 503]
    assert len(kept) + len(told) == 60 and kept and "is writing" in told[0].json()["detail"]
