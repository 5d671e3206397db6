"""kill -9 of a labeling process: every acknowledged answer is there, once."""

import random
import signal
import subprocess
import sys
import time

from annotate.backup import check
from annotate.labels import LabelStore, NewTask

LABELER = """
import sys
from annotate.labels import LabelStore
from annotate.submit import Submission
store = LabelStore(sys.argv[1])
print("ready", flush=True)
while task := store.lease("ann", minutes=0.001):
    store.submit("ann", Submission(task_id=task.id, client_id=f"task-{task.id}", ranks=(0, 1)))
    print(task.id, flush=True)
"""


def test_every_acknowledged_answer_survives(tmp_path):
    path, rng, acknowledged = tmp_path / "labels.db", random.Random(1), []
    with LabelStore(path) as store:
        store.add_labeler("ann")
        store.add_batch("round", [NewTask(prompt=f"q{i}", completions=("a", "b")) for i in range(3000)])
    for _ in range(5):
        process = subprocess.Popen(
            [sys.executable, "-c", LABELER, str(path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0.2, 0.7))
        process.send_signal(signal.SIGKILL)
        acknowledged += [line.strip() for line in process.stdout.read().split("\n") if line.strip().isdigit()]
        process.wait()
    time.sleep(0.1)
    with LabelStore(path) as store:
        stored = [int(ranking.prompt[1:]) + 1 for ranking in store.rankings()]
        assert len(stored) == len(set(stored))
        assert {int(number) for number in acknowledged} <= set(stored)
        assert len(acknowledged) > 10
        assert check(store.database) == []
        assert store.lease("ann") is not None  # no lease of a dead process stands in the way
