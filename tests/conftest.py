"""One thread for every test: the order of sums, and so the last bit, depends on how many threads add up.

And one PostgreSQL server for all of them, where it is installed.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

import hypothesis
import pytest
from filelock import FileLock

from annotate.store import accounts
from stages.quiet import quiet_libraries

os.environ["OMP_NUM_THREADS"] = "1"
quiet_libraries()  # before any of them is imported, as the command line does
hypothesis.settings.register_profile(
    "any machine", hypothesis.settings.default, deadline=None
)  # slow is not wrong
hypothesis.settings.load_profile("any machine")

BINARIES = ("", "/usr/lib/postgresql/*/bin/", "/usr/pgsql-*/bin/", "/opt/homebrew/opt/postgresql*/bin/")


def binary(name):
    for folder in BINARIES:
        found = (
            shutil.which(name)
            if not folder
            else next(map(str, sorted(Path("/").glob(folder[1:] + name), reverse=True)), None)
        )
        if found:
            return found
    return None


@pytest.fixture(scope="session", autouse=True)
def cheap_passwords():
    """A hash of a password takes a tenth of a second, on purpose; tests hash hundreds, and keep the same kind at the least cost."""
    argon2 = pytest.importorskip("argon2")
    cheap = argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accounts, "_hasher", lambda: cheap)
        patch.setattr(accounts, "DECOY", cheap.hash("no password at all"))
        yield


class Cluster:
    """A PostgreSQL server in a folder of its own, with the durability settings it has by default."""

    def __init__(self, folder):
        self.folder, self.user = Path(folder), None
        if os.getuid() == 0:  # the server refuses to run as root
            self.user = "nobody"
            shutil.chown(self.folder, "nobody")
        self.run(
            binary("initdb"),
            "-D",
            self.folder / "data",
            "-U",
            "rlhf",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--no-locale",
        )
        self.start()

    def run(self, *command):
        done = subprocess.run(
            [str(part) for part in command], user=self.user, cwd=self.folder, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self):
        options = f"-c listen_addresses='' -c unix_socket_directories={self.folder}"
        self.run(
            binary("pg_ctl"),
            "-D",
            self.folder / "data",
            "-l",
            self.folder / "log",
            "-w",
            "-o",
            options,
            "start",
        )

    def stop(self, mode="fast"):
        self.run(binary("pg_ctl"), "-D", self.folder / "data", "-m", mode, "-w", "stop")

    def create(self):
        """URL of a new, empty schema: what a new database is to its user, but made in no time."""
        import psycopg

        name = "t" + uuid.uuid4().hex
        with psycopg.connect(self.server(), autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {name}")
        return f"{self.server()}&options=-csearch_path%3D{name}"

    def server(self, database="postgres"):
        """URL of one of the server's databases."""
        return f"postgresql://rlhf@/{database}?host={self.folder}"


MISSING: set[str] = set()


def missing(what, fail=None):
    """Skip a test that needs a program this machine lacks; on CI fail it, where tests/prepare installs: on Linux."""
    MISSING.add(what)
    reason = f"{what} is not to be had here: nothing was tested with it"
    fail = bool(os.environ.get("CI")) and sys.platform == "linux" if fail is None else fail
    pytest.fail(reason) if fail else pytest.skip(reason)


def pytest_unconfigure():
    if MISSING:
        print(f"NOT TESTED with what is not to be had here: {', '.join(sorted(MISSING))} (see tests/prepare)")


@pytest.fixture(scope="session")
def strace():
    """The path of strace where it may trace; containers often forbid that, so it is no failure on CI."""
    found = binary("strace")
    if found is None or subprocess.run([found, "-o", "/dev/null", "true"], capture_output=True).returncode:
        missing("strace", fail=False)
    return found


@pytest.fixture(scope="session")
def postgres():
    """A running server; skipped where there is none to run, except on CI."""
    yield from _cluster()


@pytest.fixture
def postgres_of_its_own():
    """A server for one test, which may stop it."""
    yield from _cluster()


def made_once(tmp_path_factory, name, make):
    """A copy of the folder that make(folder) fills: by the first worker that needs it, for all of them."""
    shared = tmp_path_factory.getbasetemp()
    shared = (shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared) / f"shared-{name}"
    with FileLock(f"{shared}.lock"):
        if not shared.exists():
            make(shared.with_suffix(".begun"))
            shared.with_suffix(".begun").rename(shared)
    return shutil.copytree(shared, tmp_path_factory.mktemp(name) / "made")


def quick_folder():
    """A temporary folder in memory where there is room: a busy disk makes every test wait."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 2**30
    return tempfile.mkdtemp(prefix="rlhf-", dir=memory if roomy else None)


def _cluster():
    if binary("initdb") is None:
        missing("PostgreSQL")
    folder = quick_folder()  # also a short path: a socket's name has at most 107 bytes
    cluster = Cluster(folder)
    yield cluster
    cluster.stop("immediate")
    shutil.rmtree(folder, ignore_errors=True)
