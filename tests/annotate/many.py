"""What each of eight processes does at once with a label store; here, so that the processes can import it."""

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path

from annotate.answers.choice import Choice
from annotate.answers.export import export
from annotate.answers.importing import import_rankings
from annotate.chat.feedback import ChatAnswer, record_comparison, record_rewrite, record_thumb
from annotate.labels import LabelStore, Submission
from annotate.store import accounts
from annotate.work.batches import BatchSettings, change_batch
from rlhf.data import Ranking
from rlhf.errors import LabelError

NUM_PROCESSES = 8
PROMPTS = [f"prompt {i}" for i in range(30)]


class Processes:
    """Eight processes, each with a store of its own."""

    def __init__(self):
        self.pool = ProcessPoolExecutor(NUM_PROCESSES, multiprocessing.get_context("spawn"))
        self.at_once(ready)

    def at_once(self, work, *given):
        """Results of work(process, …) in all processes, begun together; an error that a user would see as its text."""
        start = time.time() + 0.5
        calls = [self.pool.submit(begin, start, work, number, *given) for number in range(NUM_PROCESSES)]
        return [call.result(timeout=200) for call in calls]


def begin(start, work, *given):
    time.sleep(max(0.0, start - time.time()))
    try:
        return work(*given)
    except LabelError as error:
        return f"{type(error).__name__}: {error}"


def ready(number):
    time.sleep(0.5)  # so that no process takes two of the calls


@cache
def store_at(url):
    return LabelStore(url)


def opened(number, url):
    with LabelStore(url) as store:
        return store.batches()


def feedback(number, url, times):
    database = store_at(url).database
    a, b = ChatAnswer(text="a"), ChatAnswer(text="b")
    for i in range(times):
        key, prompt = f"{number}-{i}", [{"role": "user", "content": PROMPTS[(number + i) % len(PROMPTS)]}]
        record_comparison(database, f"person {number}", f"c{key}", prompt, a, b, "a")
        record_thumb(database, f"person {number}", f"t{key}", prompt, a, True)
        record_rewrite(database, f"person {number}", f"r{key}", prompt, a, "better")
    return 3 * times


def importing(number, url, times):
    """Every other process imports what the others give feedback on, by the same people, in its own order."""
    if number % 2:
        return feedback(number, url, times)
    order = PROMPTS if number % 4 else PROMPTS[::-1]
    rankings = [
        Ranking(prompt=prompt, completions=("a", "b"), ranks=(0, 1), labeler=f"person {i % NUM_PROCESSES}")
        for i, prompt in enumerate(order)
    ]
    for i in range(times):
        import_rankings(store_at(url).database, BatchSettings(name=f"import {number} {i}"), rankings)
    return times * len(rankings)


def same_names(number, url):
    """What of one name eight processes could make: an account, a labeler known by name, a batch."""
    store, made = store_at(url), []
    for what, make in (
        ("account", lambda: accounts.add_account(store.database, "one", "correct horse")),
        ("batch", lambda: store.add_batch("one")),
        ("labeler", lambda: store.add_labeler("two")),
        ("local", lambda: accounts.local_account(store.database)),
    ):
        try:
            make()
            made.append(what)
        except LabelError as error:
            assert "is there already" in str(error), error
    return made


def exported(number, url, folder):
    return export(store_at(url).database, Path(folder) / f"{number}.jsonl", "rankings", Choice()).snapshot


def changing(number, url):
    """One lead changes the batch again and again while the others work through it."""
    store = store_at(url)
    if number == 0:
        for i in range(20):
            change_batch(store.database, "busy", overlap=3 + i % 2)
        return 0
    name, given = f"person {number}", 0
    while task := store.lease(name, "busy"):
        store.submit(name, Submission(task_id=task.id, client_id=f"{name} {task.id}", ranks=(0, 1)))
        given += 1
    return given


def counted_twice(number, url):
    """In one transaction the number of answers, and again when others have answered; process 0 looks, the rest answer."""
    store = store_at(url)
    if number:
        time.sleep(0.2)
        return changing(number, url)
    with store.database.read() as connection:
        counts = []
        for _ in range(12):
            counts.append(
                connection.exec_driver_sql("SELECT count(*), count(DISTINCT task_id) FROM annotation").one()
            )
            time.sleep(0.25)
    return [tuple(count) for count in counts]
