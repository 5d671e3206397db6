"""kill -9 of labeling processes: what they acknowledged, in a log outside of them, is what the database holds."""

import random
import signal
import subprocess
import sys
import time

import pytest

from annotate.labels import LabelStore, NewTask
from annotate.store.backup import check

# Says what it is about to send and what was acknowledged; the lines are read, and so kept, by another process.
LABELER = """
import os, sys
from annotate.labels import LabelStore
from annotate.work.submit import Submission
name = sys.argv[2]
store = LabelStore(sys.argv[1])
os.write(1, b"ready\\n")
while task := store.lease(name, minutes=0.001):
    client = f"{name}-{task.id}"
    ranks = (task.id % 2, 1 - task.id % 2)
    os.write(1, f"sending {client}\\n".encode())
    number = store.submit(name, Submission(task_id=task.id, client_id=client, ranks=ranks))
    os.write(1, f"acknowledged {client} {number}\\n".encode())
"""
ROUNDS, NAMES = 3, ("ann", "bob")


@pytest.fixture(params=["sqlite", "postgresql"])
def path(request, tmp_path):
    if request.param == "sqlite":
        return str(tmp_path / "labels.db")
    return request.getfixturevalue("postgres").create()


def killed(path, rng):
    """The lines of two labelers at work at once, killed at a random moment."""
    workers = [
        subprocess.Popen([sys.executable, "-c", LABELER, path, name], stdout=subprocess.PIPE, text=True)
        for name in NAMES
    ]
    assert all(worker.stdout.readline() == "ready\n" for worker in workers)
    lines = []
    for worker in workers:  # on a busy machine too, everybody has got somewhere
        while not lines or not lines[-1].startswith("ack"):
            lines.append(worker.stdout.readline().strip())
        lines.append("")
    time.sleep(rng.uniform(0.1, 0.5))
    for worker in workers:
        worker.send_signal(signal.SIGKILL)
    lines += [line for worker in workers for line in worker.stdout.read().split("\n")[:-1]]
    for worker in workers:
        worker.wait()
    return lines


def test_the_database_holds_what_was_acknowledged_one_for_one(path):
    rng, lines = random.Random(1), []
    with LabelStore(path) as store:
        for name in NAMES:
            store.add_labeler(name)
        store.add_batch("round", [NewTask(prompt=f"q{i}", completions=("a", "b")) for i in range(3000)])
    for _ in range(ROUNDS):
        lines += killed(path, rng)
    sent = {line.split()[1] for line in lines if line.startswith("sending")}
    acknowledged = {line.split()[1]: int(line.split()[2]) for line in lines if line.startswith("ack")}
    with LabelStore(path) as store, store.database.read() as connection:
        rows = connection.exec_driver_sql("SELECT client_id, id, task_id FROM annotation").all()
    stored = {row.client_id: row.id for row in rows}
    assert len(acknowledged) >= ROUNDS * len(NAMES) and len(stored) == len(rows)
    assert {client: stored.get(client) for client in acknowledged} == acknowledged
    # What is stored without an acknowledgement was being sent when the kill came: at most one for each process.
    unacknowledged = set(stored) - set(acknowledged)
    assert unacknowledged <= sent and len(unacknowledged) <= ROUNDS * len(NAMES)
    time.sleep(0.1)
    with LabelStore(path) as store:
        for ranking in store.rankings():
            task = int(ranking.prompt[1:]) + 1
            assert ranking.ranks == (task % 2, 1 - task % 2)
        assert check(store.database) == []
        assert store.lease("ann") is not None  # no lease of a dead process stands in the way
