"""What is acknowledged is on disk; what cannot be written is said in one line and leaves nothing behind."""

import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import text

from annotate.labels import LabelStore, NewTask, Submission
from annotate.store.backup import backup, check
from annotate.store.database import DatabaseDown
from rlhf.errors import LabelError

ROOT = Path(__file__).parent.parent.parent
TASKS = [NewTask(prompt=f"question {i}", completions=("a", "b", "c")) for i in range(4)]


@pytest.fixture
def store(store):
    store.add_batch("round", TASKS)
    return store


@pytest.fixture
def local(tmp_path):
    """A store in a SQLite file."""
    with LabelStore(tmp_path / "labels.db") as store:
        store.add_labeler("ann")
        store.add_batch("round", TASKS)
        yield store


def answer(task, client_id="c1", **more):
    return Submission(**{"task_id": task.id, "client_id": client_id, "ranks": (0, 1, 1)} | more)


def test_sqlite_is_durable_and_strict(local):
    with local.database.read() as connection:
        pragmas = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("synchronous", "journal_mode", "foreign_keys")
        ]
    assert pragmas == [2, "wal", 1]


def test_reopening_keeps_everything_and_a_newer_schema_is_refused(store, url):
    store.submit("ann", answer(store.lease("ann")))
    with LabelStore(url) as again:
        assert len(again.rankings()) == 1
    with store.database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(LabelError, match="newer"):
        LabelStore(url)


def test_a_file_that_is_no_database_is_left_alone(tmp_path):
    (tmp_path / "labels.db").write_text(
        "these are my notes, not a database, and long enough to be taken for a header"
    )
    with pytest.raises(LabelError, match=r"labels\.db") as caught:
        LabelStore(tmp_path / "labels.db")
    assert "\n" not in str(caught.value)
    assert (tmp_path / "labels.db").read_text().startswith("these are my notes")


def test_a_path_may_hold_what_means_something_in_a_url(tmp_path):
    folder = tmp_path / "what? 100%25 #1"
    folder.mkdir()
    with LabelStore(folder / "labels.db") as store:
        store.add_batch("round", TASKS)
        backup(store.database, folder / "copy.db")
    assert (folder / "labels.db").exists() and {path.name for path in tmp_path.iterdir()} == {folder.name}
    with LabelStore(folder / "copy.db") as copy:
        assert copy.batches() == ["round"]


def test_a_backup_is_whole(local, tmp_path):
    local.submit("ann", answer(local.lease("ann")))
    backup(local.database, tmp_path / "copy.db")
    with LabelStore(tmp_path / "copy.db") as copy:
        assert copy.rankings() == local.rankings()
        assert check(copy.database) == []
    with pytest.raises(LabelError, match="exists"):
        backup(local.database, tmp_path / "copy.db")


def test_a_backup_made_while_people_work_is_whole(local, tmp_path):
    local.add_batch("busy", [NewTask(prompt=f"b{i}", completions=("a", "b")) for i in range(300)])
    stop = threading.Event()

    def work():
        while not stop.is_set() and (task := local.lease("ann", "busy")):
            local.submit("ann", answer(task, f"b{task.id}", ranks=(0, 1)))

    worker = threading.Thread(target=work)
    worker.start()
    sizes = []
    for number in range(5):
        backup(local.database, tmp_path / f"copy{number}.db")
        with LabelStore(tmp_path / f"copy{number}.db") as copy:
            assert check(copy.database) == []
            sizes.append(copy.progress("busy").answers)
    stop.set()
    worker.join()
    assert sizes == sorted(sizes) and sizes[-1] > 0


DAMAGE = {
    "annotation 1 does not rank every answer": "DELETE FROM ranking_item WHERE place = 0",
    "task 1 counts 5 answers but has 1": "UPDATE task SET done = 5 WHERE id = 1",
    "annotation 1 does not stand although nothing supersedes it": "UPDATE annotation SET standing = false WHERE id = 1",
    "the answers of task 1 are not numbered from 0": "UPDATE task_completion SET place = 7 WHERE task_id = 1 AND place = 2",
    "annotation 1 ranks although it is no ranking": "UPDATE annotation SET kind = 'demonstrate' WHERE id = 1",
}


@pytest.mark.parametrize("finding", DAMAGE)
def test_check_finds_damage(store, finding):
    task = first_task(store)
    store.submit("ann", answer(task))
    assert check(store.database) == []
    with store.database.write() as connection:
        connection.execute(text(DAMAGE[finding]))
    assert finding in check(store.database)


def first_task(store):
    return next(task for task in store.lease_many("ann", 10) if task.id == 1)


def test_check_finds_rows_that_name_missing_ones(local, tmp_path):
    local.submit("ann", answer(local.lease("ann")))
    with sqlite3.connect(tmp_path / "labels.db") as raw:
        raw.execute("DELETE FROM labeler")
    assert any("names a labeler that is missing" in line for line in check(local.database))


FULL = """
import resource, signal, sys
from annotate.labels import LabelStore, Submission
store = LabelStore(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
import os
resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize(sys.argv[1] + "-wal") + 1_000_000,) * 2)
while task := store.lease("ann"):
    store.submit("ann", Submission(task_id=task.id, client_id=f"full-{task.id}", ranks=(0, 1), comment="x" * 5000))
    print(task.id, flush=True)
"""


def test_a_full_disk_is_said_in_one_line_and_loses_nothing(local, tmp_path):
    local.add_batch("full", [NewTask(prompt=f"f{i}", completions=("a", "b")) for i in range(50)])
    path = tmp_path / "labels.db"
    done = subprocess.run(
        [sys.executable, "-c", FULL.replace('lease("ann")', 'lease("ann", "full")'), str(path)],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(
        "annotate.store.database.DatabaseDown: the label database cannot be written now:"
    ), last
    acknowledged = {int(number) for number in done.stdout.split()}
    with LabelStore(path) as store:
        with store.database.read() as connection:
            stored = set(connection.execute(text("SELECT task_id FROM annotation")).scalars())
        assert 0 < len(acknowledged) < 50 and stored == acknowledged
        assert check(store.database) == []
        assert store.lease("ann", "full") is not None


READ_ONLY = """
import os, sys
import psycopg, sqlalchemy.dialects.sqlite
import annotate.store.migrations
from annotate.labels import LabelStore, Submission
if os.geteuid() == 0:  # nothing is read-only to root
    os.seteuid(65534)
os.access(sys.argv[1], os.R_OK) or sys.exit("the test's folder cannot be reached")
LabelStore(sys.argv[1]).submit("ann", Submission(task_id=int(sys.argv[2]), client_id="c", ranks=(0, 1, 1)))
"""


def test_a_read_only_file_is_said_in_one_line(local, tmp_path):
    path, task = tmp_path / "labels.db", local.lease("ann")
    local.close()
    for file in tmp_path.iterdir():
        file.chmod(0o444)
    tmp_path.chmod(0o555)
    done = subprocess.run(
        [sys.executable, "-c", READ_ONLY, str(path), str(task.id)], capture_output=True, text=True, cwd=ROOT
    )
    tmp_path.chmod(0o755)
    last = done.stderr.strip().splitlines()[-1]
    assert "LabelError" in last or "DatabaseDown" in last, done.stderr
    assert "cannot be" in last
    with sqlite3.connect(path) as raw:
        assert raw.execute("SELECT count(*) FROM annotation").fetchone() == (0,)


def test_a_server_that_dies_loses_nothing_and_is_used_again_when_it_is_back(postgres_of_its_own):
    cluster = postgres_of_its_own
    with LabelStore(cluster.create()) as store:
        store.add_labeler("ann")
        store.add_batch("round", TASKS)
        first, second = store.lease_many("ann", 2)
        kept = store.submit("ann", answer(first))
        cluster.stop("immediate")  # no checkpoint: what is there afterwards was in the log on disk
        with pytest.raises(DatabaseDown) as caught:
            store.submit("ann", answer(second, "c2"))
        assert "\n" not in str(caught.value)
        cluster.start()
        assert store.submit("ann", answer(first)) == kept
        store.submit("ann", answer(second, "c2"))
        assert len(store.rankings()) == 2 and check(store.database) == []


def test_an_unsafe_server_is_refused(postgres_of_its_own):
    cluster = postgres_of_its_own
    url = cluster.create()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("ALTER ROLE rlhf SET synchronous_commit = off")
    with pytest.raises(LabelError, match="synchronous_commit=off"):
        LabelStore(url)


ACKNOWLEDGING = """
import os, sys
from annotate.labels import LabelStore, Submission
store = LabelStore(sys.argv[1])
for _ in range(20):
    task = store.lease("ann", "traced")
    os.write(1, b"WORKING")
    store.submit("ann", Submission(task_id=task.id, client_id=f"traced-{task.id}", ranks=(0, 1)))
    os.write(1, b"ACKNOWLEDGED")
"""


def test_an_answer_is_acknowledged_after_its_fsync(local, tmp_path, strace):
    """kill -9 cannot tell FULL from OFF, as the page cache survives it: so the system calls are counted."""
    local.add_batch("traced", [NewTask(prompt=f"t{i}", completions=("a", "b")) for i in range(20)])
    trace = tmp_path / "trace"
    command = [strace, "-f", "-y", "-e", "trace=write,pwrite64,fsync,fdatasync", "-o", str(trace)]
    subprocess.run(
        [*command, sys.executable, "-c", ACKNOWLEDGING, str(tmp_path / "labels.db")],
        check=True, cwd=ROOT, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    calls = trace.read_text()
    acknowledged = 0
    for part in calls.split("WORKING")[1:]:
        before, said, _ = part.partition("ACKNOWLEDGED")
        written = before.rfind("labels.db-wal>, ")
        synced = max(before.rfind("fsync("), before.rfind("fdatasync("))
        assert said and 0 < written < synced, before
        assert "labels.db-wal>) = 0" in before[synced:].replace("  ", " ").replace("  ", " ")[:400]
        acknowledged += 1
    assert acknowledged == 20


@pytest.mark.slow
def test_what_was_acknowledged_is_there_after_kill_9_of_a_server_at_work():
    """The full run, fifty labelers and ten kills, is in docs/benchmarks.md."""
    options = {"labelers": 10, "seconds": 30, "kill": 3, "tasks": 300, "answers": 4, "think": 1}
    given = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    command = [sys.executable, "benchmarks/label_load.py", *given]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "kills 3" in done.stdout and "nothing lost, nothing doubled, nothing stuck" in done.stdout
