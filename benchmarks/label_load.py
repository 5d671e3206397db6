"""Many labelers at once against `rlhf label` on SQLite or PostgreSQL: how long they wait, and whether anything acknowledged is lost.

    python benchmarks/label_load.py                      # 50 labelers, 5 minutes
    python benchmarks/label_load.py --kill 10            # … and kill -9 of the server ten times meanwhile
    python benchmarks/label_load.py --kill 10 --labels postgresql://rlhf@127.0.0.1/load    # a new, empty database
    python benchmarks/label_load.py --pages              # how fast pages open on 10,000 tasks × 9 answers
    python benchmarks/label_load.py --pages --tasks 100000 --answers 4

Labelers work at the HTTP level with the requests of the page: next task, a draft, the answer. Every acknowledgement is
written to a log outside the server at once; at the end the database is compared with it, one for one.
"""

import argparse
import asyncio
import json
import math
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
from sqlalchemy import func, select, update

from annotate.app.payloads import own_id
from annotate.app.security import csrf_token
from annotate.labels import LabelStore, Submission
from annotate.store.accounts import account_named, add_account, open_session
from annotate.store.backup import check
from annotate.store.schema import Annotation, Lease, Task
from annotate.work.batches import NewTask

BATCH = "load"
LIMITS_MS = {"next": 300.0, "submit": 100.0}  # of the 95th percentile


class Server:
    """`rlhf label` in a process of its own."""

    def __init__(self, labels: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.command = [
            sys.executable,
            "-m",
            "stages.cli",
            "label",
            "--port",
            str(self.port),
        ]
        self.environment = os.environ | {"RLHF_LABELS": labels}
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self.command, env=self.environment, stderr=subprocess.DEVNULL)
        deadline = time.time() + 300
        while time.time() < deadline:
            try:
                httpx.get(self.url + "/login", timeout=5)
                return
            except httpx.HTTPError:
                time.sleep(0.1)
        raise SystemExit("the server did not start within five minutes")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


class Run:
    """What labelers measured and what the server acknowledged."""

    def __init__(self, log: Path, think_s: float) -> None:
        self.log = log.open("a", encoding="utf-8")
        self.think_s = think_s
        self.waits: dict[str, list[float]] = {"next": [], "draft": [], "submit": []}
        self.retries = 0
        self.errors: Counter[str] = Counter()

    def acknowledged(self, name: str, client_id: str, annotation: int) -> None:
        self.log.write(json.dumps([name, client_id, annotation]) + "\n")
        self.log.flush()


async def ask(
    run: Run, client: httpx.AsyncClient, kind: str, method: str, path: str, body: object = None
) -> dict:
    """One request, again until it is answered; only answers at the first try count as waiting time."""
    for attempt in range(1000):
        started = time.perf_counter()
        try:
            reply = await client.request(method, path, json=body)
        except httpx.HTTPError:
            reply = None
        if reply is not None and reply.status_code == 200:
            if attempt == 0:
                run.waits[kind].append(1000 * (time.perf_counter() - started))
            return reply.json()
        if reply is not None and reply.status_code < 500:
            run.errors[f"{kind}: {reply.status_code} {reply.text[:100]}"] += 1
            return {}
        run.retries += 1
        await asyncio.sleep(random.uniform(0.2, 1.0))
    raise SystemExit(f"{kind}: no answer after 1000 tries")


async def labeler(run: Run, server: Server, name: str, session: str, until: float) -> None:
    """Rank until the time is over, thinking as long as a quick person does."""
    rng = random.Random(name)
    headers = {"X-CSRF-Token": csrf_token(session)}
    cookies = {f"rlhf_label_{server.port}": session}
    async with httpx.AsyncClient(base_url=server.url, headers=headers, cookies=cookies, timeout=30) as client:
        await asyncio.sleep(rng.uniform(0, run.think_s))
        while time.time() < until:
            found = await ask(run, client, "next", "POST", f"/api/next?batch={BATCH}")
            task = found.get("task")
            if task is None:
                run.errors[f"no task: {found.get('reason')}"] += 1
                return
            ranks = [rng.randrange(4) for _ in task["answers"]]
            await asyncio.sleep(rng.uniform(0.2, 0.8) * run.think_s)
            draft = {"content": {"ranks": ranks}, "revision": int(1000 * time.time())}
            await ask(run, client, "draft", "PUT", f"/api/tasks/{task['id']}/draft", draft)
            await asyncio.sleep(rng.uniform(0.2, 0.8) * run.think_s)
            if time.time() >= until:
                return  # with a task in hand: its place must come back
            answer = {"client_id": task["client_id"], "kind": "rank", "ranks": ranks, "time_s": run.think_s}
            stored = await ask(run, client, "submit", "POST", f"/api/tasks/{task['id']}/answers", answer)
            if stored:
                run.acknowledged(name, task["client_id"], stored["id"])


async def killer(server: Server, kills: int, seconds: float) -> None:
    """kill -9 at even distances, and a new server at once."""
    for _ in range(kills):
        await asyncio.sleep(seconds / (kills + 1) * random.uniform(0.7, 1.0))
        server.kill()
        await asyncio.to_thread(server.start)


async def work(run: Run, server: Server, sessions: dict[str, str], seconds: float, kills: int) -> None:
    until = time.time() + seconds
    labelers = (labeler(run, server, name, session, until) for name, session in sessions.items())
    await asyncio.gather(*labelers, killer(server, kills, seconds))


def prepare(path: str, labelers: int, tasks: int, answers: int) -> dict[str, str]:
    """A store with tasks, and accounts with sessions."""
    with LabelStore(path) as store:
        text = "An answer of about the length that small models give, which ends with its number. " * 3
        rows = [
            NewTask(
                prompt=f"Question {i} of the load test?",
                completions=tuple(f"{text}{k}" for k in range(answers)),
            )
            for i in range(tasks)
        ]
        store.add_batch(BATCH, rows, overlap=2)
        add_account(store.database, "somebody", "a password to have one")
        names = [f"labeler-{i}" for i in range(labelers)]
        for name in names:
            add_account(store.database, name)
        return {name: open_session(store.database, name) for name in names}


def compare(path: str, log: Path) -> list[str]:
    """What is wrong between the database and the log of acknowledgements; empty where nothing is."""
    acknowledged = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    problems = []
    with LabelStore(path) as store:
        accounts = (account_named(store.database, name) for name in {row[0] for row in acknowledged})
        numbers = {account.name: account.id for account in accounts if account}
        with store.database.read() as connection:
            stored = dict(connection.execute(select(Annotation.id, Annotation.client_id)).all())
            twice = select(Annotation.task_id).where(Annotation.standing)
            twice = twice.group_by(Annotation.task_id, Annotation.labeler_id).having(func.count() > 1)
            doubled = connection.execute(twice).all()
            over = connection.execute(select(Task.id).where(Task.done > Task.overlap)).all()
        wanted = {
            annotation: own_id(numbers[name], client_id) for name, client_id, annotation in acknowledged
        }
        lost = {key for key, client_id in wanted.items() if stored.get(key) != client_id}
        extra = set(stored) - set(wanted)
        problems += [f"{len(lost)} acknowledged answers are not in the database"] if lost else []
        problems += [f"{len(extra)} answers in the database were never acknowledged"] if extra else []
        problems += [f"{len(doubled)} answers stand twice"] if doubled else []
        problems += [f"{len(over)} tasks have more answers than places"] if over else []
        problems += check(store.database)
        problems += stuck_leases(store)
    print(f"acknowledged {len(wanted)}, in the database {len(stored)}")
    return problems


def stuck_leases(store: LabelStore) -> list[str]:
    """Let every lease expire; then one new labeler must get every task that still has a place."""
    add_account(store.database, "latecomer")
    with store.database.write() as connection:
        held = connection.execute(select(func.count()).select_from(Lease)).scalar_one()
        connection.execute(update(Lease).values(expires=time.time() - 1))
        places = connection.execute(
            select(func.count()).select_from(Task).where(Task.done < Task.overlap)
        ).scalar_one()
    got = len(store.lease_many("latecomer", places + 1, BATCH))
    print(f"leases left behind {held}; open tasks {places}, leased after expiry {got}")
    return [] if got == places else [f"{places - got} tasks are stuck"]


def report(run: Run, seconds: float, kills: int) -> list[str]:
    problems = [f"{count} × {error}" for error, count in run.errors.items()]
    for kind, waits in run.waits.items():
        p50, p95 = statistics.median(waits), statistics.quantiles(waits, n=20)[-1]
        print(f"{kind:<7} n {len(waits):6d}  p50 {p50:6.1f} ms  p95 {p95:6.1f} ms  max {max(waits):7.1f} ms")
        if p95 > LIMITS_MS.get(kind, math.inf):
            problems.append(f"p95 of {kind} is {p95:.0f} ms, more than {LIMITS_MS[kind]:.0f}")
    print(
        f"answers per second {len(run.waits['submit']) / seconds:.1f}, retries {run.retries}, kills {kills}"
    )
    return problems


def answer_half(path: str, sessions: dict[str, str]) -> None:
    """Two labelers rank half of the tasks, at random: what a lead's pages then show."""
    rng = random.Random(0)
    with LabelStore(path) as store:
        for name in list(sessions)[:2]:
            with store.database.read() as connection:
                places = connection.execute(select(func.count()).select_from(Task)).scalar_one() // 2
            for start in range(0, places, 1000):
                leased = store.lease_many(name, min(1000, places - start), BATCH)
                answers = [
                    Submission(
                        task_id=task.id, client_id=f"{name}-{task.id}", shown_order=task.shown_order, time_s=30.0,
                        ranks=tuple(rng.randrange(9) for _ in task.completions),
                    )
                    for task in leased
                ]  # fmt: skip
                store.submit_many(name, answers)


# A page can be used when this is there, and every picture on it.
LABELERS_PAGES = (
    ("a task", f"/label?batch={BATCH}", ".foot"),
    ("the list of batches", "/tasks", ".batch"),
    ("own answers", "/history", ".history li"),
)
LEADS_PAGES = (
    ("the lead's list of batches", "/lead", "#batches"),
    ("the dashboard", f"/lead/dashboard?batch={BATCH}", "#figures img"),
    ("disagreements", f"/lead/review?batch={BATCH}", ".foot"),
    ("form: new batch", "/lead/new", "#create"),
    ("form: settings", f"/lead/settings?batch={BATCH}", "#save"),
    ("form: export", "/lead/export", "#make-export"),
    ("form: people", "/lead/people", "#people table"),
)
DRAWN = "() => [...document.images].every((image) => image.complete)"


def cpu_ms() -> float:
    """Processor time of this process and all below it, the server and the browser among them."""
    own = psutil.Process()
    used = 0.0
    for one in (own, *own.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            times = one.cpu_times()
            used += times.user + times.system
    return 1000 * used


def pages(path: str, sessions: dict[str, str]) -> None:
    """How long pages take until they can be used, in Chromium, ten times each after the first."""
    from playwright.sync_api import sync_playwright

    answer_half(path, sessions)
    with LabelStore(path) as store:
        add_account(store.database, "lea", role="lead")
        lead = open_session(store.database, "lea")
    labeler = next(iter(sessions.values()))
    server = Server(path)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"]
        )
        rows = [(labeler, *row) for row in LABELERS_PAGES] + [(lead, *row) for row in LEADS_PAGES]
        for session, name, address, ready in rows:
            context = browser.new_context()
            cookie: Any = {"name": f"rlhf_label_{server.port}", "value": session, "url": server.url}
            context.add_cookies([cookie])
            times, cpu = [], []
            for _ in range(11):
                page = context.new_page()
                busy, started = cpu_ms(), time.perf_counter()
                page.goto(server.url + address)
                page.wait_for_selector(ready)
                page.wait_for_function(DRAWN)
                times.append(1000 * (time.perf_counter() - started))
                cpu.append(cpu_ms() - busy)
                page.close()
            context.close()
            print(
                f"{name:<28} first {times[0]:5.0f} ms, then median {statistics.median(times[1:]):5.0f} ms, "
                f"max {max(times[1:]):5.0f} ms; processor time {cpu[0]:5.0f} ms, then {statistics.median(cpu[1:]):5.0f} ms",
                flush=True,
            )
        browser.close()
    server.kill()


def main() -> int:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--labelers", type=int, default=50)
    options.add_argument("--seconds", type=float, default=300.0)
    options.add_argument("--think", type=float, default=4.0, help="mean seconds a labeler takes for a task")
    options.add_argument("--kill", type=int, default=0, metavar="N", help="kill -9 the server so many times")
    options.add_argument("--labels", metavar="URL", help="an empty PostgreSQL database (a new SQLite file)")
    options.add_argument("--tasks", type=int, default=10_000)
    options.add_argument("--answers", type=int, default=9)
    options.add_argument("--pages", action="store_true", help="measure page loads instead")
    given = options.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="rlhf-load-"))
    path, log = given.labels or str(folder / "labels.db"), folder / "acknowledged.jsonl"
    print(
        f"{given.labelers} labelers, {given.seconds:.0f} s, {given.tasks} tasks × {given.answers} answers, "
        f"{'PostgreSQL' if given.labels else path}"
    )
    sessions = prepare(path, given.labelers, given.tasks, given.answers)
    if given.pages:
        pages(path, sessions)
        return 0
    server, run = Server(path), Run(log, given.think)
    asyncio.run(work(run, server, sessions, given.seconds, given.kill))
    server.kill()
    problems = report(run, given.seconds, given.kill) + compare(path, log)
    print("\n".join(problems) or "nothing lost, nothing doubled, nothing stuck")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
