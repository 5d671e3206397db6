"""The label store at size: 10,000 tasks of 9 answers, 100,000 rankings; what pages wait for, and exports.

    python benchmarks/label_export.py [--tasks 10000] [--labelers 10] [--url postgresql://…]

Each export runs in a process of its own, so that its peak memory can be told from what Python and its packages take.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

from annotate.answers.adjudicate import disagreement_by_task, disagreements
from annotate.answers.choice import Choice
from annotate.figures.computed import Computed
from annotate.figures.tables import tables
from annotate.labels import LabelStore, NewTask, Submission
from annotate.store.backup import check
from annotate.work.batches import overview
from annotate.work.history import history, own_progress

NUM_ANSWERS = 9
WORDS = [
    "the",
    "a",
    "of",
    "to",
    "and",
    "in",
    "is",
    "it",
    "you",
    "that",
    "he",
    "was",
    "for",
    "on",
    "are",
    "with",
    "as",
    "his",
    "they",
    "be",
    "at",
    "one",
    "have",
    "this",
    "from",
]
EXPORT = """
import json, resource, sys, time
from pathlib import Path
from annotate.answers.choice import Choice
from annotate.answers.export import export
from annotate.labels import LabelStore
if sys.argv[2].endswith(".parquet"):
    import datasets, pyarrow.parquet
with LabelStore(sys.argv[1]) as store:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start = time.perf_counter()
    choice = Choice(batch=sys.argv[4] or None)
    done = export(store.database, Path(sys.argv[2]), sys.argv[3], choice)
    took = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"rows": done.rows, "seconds": round(took, 1), "grown_MiB": round(peak - before)}))
"""


def text(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=40))


def fill(store: LabelStore, num_tasks: int, num_labelers: int) -> None:
    """Tasks, and every labeler's ranking of every one, through the public functions."""
    rng = random.Random(0)
    tasks = [
        NewTask(prompt=text(rng), completions=tuple(text(rng) for _ in range(NUM_ANSWERS)))
        for _ in range(num_tasks)
    ]
    store.add_batch("done", tasks, overlap=num_labelers)
    store.add_batch("open", tasks)
    for number in range(num_labelers):
        name = f"labeler {number}"
        store.add_labeler(name)
        given = 0
        while leased := store.lease_many(name, 1000, "done"):
            answers = []
            for task in leased:
                order = [rng.randrange(NUM_ANSWERS) for _ in range(NUM_ANSWERS)]
                answers.append(
                    Submission(
                        task_id=task.id, client_id=uuid.uuid4().hex, ranks=tuple(order), time_s=30.0,
                        shown_order=task.shown_order,
                    )
                )  # fmt: skip
            store.submit_many(name, answers)
            given += len(answers)
        print(f"  {name}: {given} rankings", file=sys.stderr, flush=True)


def timed(label: str, call, times: int = 20) -> None:
    """Print median and slowest of so many calls, in ms."""
    took = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        took.append(1000 * (time.perf_counter() - start))
    print(f"{label:<44} {statistics.median(took):8.1f} {max(took):8.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--labelers", type=int, default=10)
    parser.add_argument("--url")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = options.url or str(Path(folder) / "labels.db")
        with LabelStore(url) as store:
            start = time.perf_counter()
            fill(store, options.tasks, options.labelers)
            print(f"filled in {time.perf_counter() - start:.0f} s")
            measure(store)
        for target, format in (("a.jsonl", "rankings"), ("b.parquet", "rankings"), ("c.jsonl", "pairs")):
            batch = "done"
            done = subprocess.run(
                [sys.executable, "-c", EXPORT, url, str(Path(folder) / target), format, batch],
                check=True, capture_output=True, text=True,
            )  # fmt: skip
            print(target, format, json.loads(done.stdout), flush=True)


def measure(store: LabelStore) -> None:
    """What pages wait for."""
    numbers = iter(range(10**6))
    print(f"{'ms':<44} {'median':>8} {'slowest':>8}")
    store.add_labeler("newcomer")

    def next_task() -> None:
        task = store.lease("newcomer", "open")
        assert task is not None
        submission = Submission(
            task_id=task.id, client_id=f"b{next(numbers)}", ranks=tuple(range(NUM_ANSWERS))
        )
        store.submit("newcomer", submission)

    timed("next task and its answer", next_task, 100)
    timed("next task, any batch", lambda: store.lease("newcomer"))
    timed("next task where all are answered", lambda: store.lease("labeler 0", "done"))
    timed("batches", lambda: overview(store.database))
    timed("own history, newest 50", lambda: history(store.database, "labeler 0"))
    timed("own progress", lambda: own_progress(store.database, "labeler 0", "done"))
    choice = Choice(batch="done")
    timed("all figures, computed", lambda: tables(store.database, choice), 1)
    timed("tasks that differ, computed", lambda: disagreement_by_task(store.database, choice), 1)
    shares = disagreement_by_task(store.database, choice)
    timed("disagreements, then", lambda: disagreements(store.database, choice, shares, 1))
    computed = Computed(store.database)
    timed(
        "figures, first asked for", lambda: computed.soon(choice, lambda: tables(store.database, choice)), 1
    )
    computed.current(choice, lambda: tables(store.database, choice))
    timed("figures, when computed", lambda: computed.soon(choice, lambda: tables(store.database, choice)))
    next_task()
    timed(
        "figures, after one more answer",
        lambda: computed.soon(choice, lambda: tables(store.database, choice)),
        1,
    )
    computed.close()
    timed("check", lambda: check(store.database), 1)


if __name__ == "__main__":
    main()
