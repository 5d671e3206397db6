"""Opening a label database so that a committed answer survives a crash: SQLite by path, PostgreSQL by URL.

What reads sees one state: SQLite's snapshots, PostgreSQL's REPEATABLE READ, which in a read-only transaction is never
refused. What writes on PostgreSQL takes row locks and READ COMMITTED, so that what it counts under a lock includes what
others committed while it waited (assign.py, submit.py); it takes them in one order, and what is in another's way all the
same, by a deadlock or a name made twice, runs again (`retried`).
"""

import itertools
import random
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    IntegrityError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout

from annotate.store.turns import Turns, locked
from rlhf.data.rows import replaced
from rlhf.durable import write_atomically
from rlhf.errors import LabelError, first_line, without_password

P = ParamSpec("P")
T = TypeVar("T")
BUSY_TIMEOUT_MS = 10_000
MIGRATION_TIMEOUT_MS = 600_000
MIGRATION_LOCK = 0x726C6866  # "rlhf": an advisory lock's number
# Few enough connections that ten processes fit into PostgreSQL's usual hundred.
POOL = {"pool_size": 4, "max_overflow": 4, "pool_pre_ping": True, "isolation_level": "READ COMMITTED"}
IN_THE_WAY = {
    "40001": "another transaction changed the same",
    "40P01": "two transactions waited for each other",
}
MADE_TWICE = "23505"
RETRY_PAUSES_S = (0.02, 0.1, 0.3, 1.0, 2.0)
WRITES_PER_CHECKPOINT = 200
# One turn after the other for all writers of this process: SQLite's own queue starves some of them, and a WAL checkpoint
# must not race a commit on another connection (a corruption bug of SQLite 3.7.0 to 3.51.2).
TURNS = Turns()
UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


class DatabaseDown(LabelError):
    """The database cannot be read or written now: full, read-only, away. Nothing was half-written; try again."""


class Conflict(DatabaseDown):
    """Another transaction was in the way of this one, which PostgreSQL undid; once more it is likely to succeed."""


def retried(work: Callable[P, T]) -> Callable[P, T]:
    """Has a function, which begins and ends its own transactions, run again where others were in its way."""

    @wraps(work)
    def again(*given: P.args, **named: P.kwargs) -> T:
        for pause_s in RETRY_PAUSES_S:
            try:
                return work(*given, **named)
            except Conflict:
                time.sleep(pause_s * random.uniform(0.5, 1.5))
        return work(*given, **named)

    return again


def storable(value: Any) -> Any:
    """A text, or JSON of texts, with U+FFFD for what no database keeps: NUL and surrogates without a partner."""
    return replaced(value, UNSTORABLE)


@contextmanager
def _one_line(verb: str) -> Iterator[None]:
    try:
        yield
    except (OperationalError, PoolTimeout, sqlite3.OperationalError, OSError) as error:
        orig = getattr(error, "orig", None)
        if reason := IN_THE_WAY.get(getattr(orig, "sqlstate", None) or ""):
            raise Conflict(f"the label database cannot be {verb} now: {reason}") from None
        reason = first_line(orig or error)
        raise DatabaseDown(f"the label database cannot be {verb} now: {reason}") from None
    except IntegrityError as error:
        if getattr(error.orig, "sqlstate", None) != MADE_TWICE:
            raise
        raise Conflict("the label database cannot be written now: another one made the same") from error
    except (DataError, OverflowError, UnicodeEncodeError) as error:
        # Of SQLite's driver these are Python's own errors; what else overflows is a bug of ours.
        if isinstance(error, OverflowError) and "SQLite" not in str(error):
            raise
        reason = first_line(getattr(error, "orig", None) or error)
        raise LabelError(f"the label database cannot keep a value that was given: {reason}") from None
    except DBAPIError as error:
        if error.connection_invalidated:
            raise DatabaseDown(f"the label database cannot be {verb} now: the connection was lost") from None
        raise


class Database:
    """An engine with a lock: `read()` and `write()` give connections inside one transaction.

    patience_s: how long a writer waits for another one of a SQLite file, None as long as it takes.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.patience_s: float | None = None
        self.is_sqlite = engine.dialect.name == "sqlite"
        self.writes = 0

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state. Raises DatabaseDown where there is nothing to read from."""
        with _one_line("read"):
            if self.is_sqlite:
                with self.engine.begin() as connection:
                    yield connection
                return
            options: dict[str, Any] = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
            with self.engine.connect().execution_options(**options) as connection, connection.begin():
                yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that is durable when the block has ended. Raises DatabaseDown where it cannot be."""
        with _one_line("written"):
            if not self.is_sqlite:
                with self.engine.begin() as connection:
                    yield connection
                return
            with TURNS.mine(self._lock_file(), self.patience_s):
                with self.engine.connect().execution_options(writes=True) as connection, connection.begin():
                    yield connection
                self._checkpoint_now_and_then()

    @contextmanager
    def opening(self) -> Iterator[Connection]:
        """`read` by the first connection. SQLite refuses it, without waiting, while another process opens or closes."""
        if not self.is_sqlite:
            with self.read() as connection:
                yield connection
            return
        with _one_line("read"), locked(self._lock_file()), self.read() as connection:
            yield connection

    def _lock_file(self) -> Path:
        """The write lock between processes: a server, an import and a sampler may share one file."""
        return Path(f"{self.engine.url.database}.lock")

    def _checkpoint_now_and_then(self) -> None:
        self.writes += 1
        if self.writes % WRITES_PER_CHECKPOINT == 0:
            with self.engine.connect() as connection:
                connection.exec_driver_sql("ROLLBACK")  # a checkpoint cannot run inside a transaction
                connection.exec_driver_sql("PRAGMA wal_checkpoint(PASSIVE)")
                connection.exec_driver_sql("BEGIN")

    def close(self) -> None:
        if not self.is_sqlite:
            self.engine.dispose()
            return
        try:
            # The last one to close tidies up, and refuses whoever opens meanwhile.
            with locked(self._lock_file()):
                self.engine.dispose()
        except OSError:  # the folder is gone, or may no longer be written
            self.engine.dispose()


def open_database(url: str | Path | None, make: bool = True) -> Database:
    """The label database at a path (SQLite) or a postgresql:// URL, migrated to this version.

    make: whether a file that is not there is made. Raises LabelError with one line where it cannot be opened, is not
    durable or is of a newer version.
    """
    text_url = str(url or "labels.db")
    database = Database(_engine(text_url, make))
    try:
        _check_durability(database)
        _migrate(database)
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:
        database.close()
        reason = first_line(getattr(error, "orig", None) or error)
        shown = without_password(text_url)
        raise LabelError(f"{shown}: the label database cannot be opened: {reason}") from None
    except LabelError:
        database.close()
        raise
    return database


def _engine(url: str, make: bool = True) -> Engine:
    if url.startswith(("postgresql://", "postgres://", "postgresql+psycopg://")):
        try:
            address = "postgresql+psycopg://" + url.split("://", 1)[1]
            engine = create_engine(address, connect_args={"connect_timeout": 10}, **POOL)
        except (ArgumentError, ValueError):
            raise LabelError(
                "the label database's URL cannot be read; write it as postgresql://user:password@host:5432/name, "
                "with % codes for the password's own / : @ and %"
            ) from None
        event.listen(engine, "connect", _configure_postgresql)
        return engine
    if "://" in url and not url.startswith("sqlite:///"):
        raise LabelError(f"{url.split('://')[0]}: give a file for SQLite or a postgresql:// URL")
    path = Path(url.removeprefix("sqlite:///")).expanduser()
    if not make and not path.exists():
        raise LabelError(f"{path}: there are no labels; name their file with --labels or $RLHF_LABELS")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LabelError(f"{path}: the label database cannot be opened: {error.strerror}") from None
    # a path may hold what means something in a URL
    engine = create_engine(
        URL.create("sqlite", database=str(path)), connect_args={"timeout": BUSY_TIMEOUT_MS / 1000}
    )
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _configure_postgresql(connection: Any, _: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SET lock_timeout = {BUSY_TIMEOUT_MS}")  # nothing waits for ever
    connection.commit()


def _configure_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # transactions are begun by us, not by the driver
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "wal_autocheckpoint=0"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    if cursor.execute("PRAGMA synchronous").fetchone()[0] != 2:
        raise LabelError("SQLite refused synchronous=FULL; answers would not survive a power cut")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _check_durability(database: Database) -> None:
    if database.is_sqlite:
        return
    with database.read() as connection:
        for setting in ("fsync", "synchronous_commit"):
            if connection.execute(text(f"SHOW {setting}")).scalar() == "off":
                raise LabelError(
                    f"PostgreSQL runs with {setting}=off; answers would not survive a crash. Turn it on"
                )


def _migrate(database: Database) -> None:
    from annotate.store.migrations import HEAD, KNOWN, upgrade

    version = _version_at_first(database)
    if version == HEAD:
        return
    if version is not None and version not in KNOWN:
        raise LabelError(
            f"the label database has schema {version}, newer than this rlhf ({HEAD}); upgrade rlhf"
        )
    with database.write() as connection:
        if (
            not database.is_sqlite
        ):  # of several processes that start at once, one migrates and the others wait for it
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = {MIGRATION_TIMEOUT_MS}")
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})")
        version = _version(connection)  # another process may have migrated it since
        if version == HEAD:
            return
        if version is not None and database.is_sqlite:
            _copy_before_migration(database, version)
        upgrade(connection)


def _version_at_first(database: Database) -> str | None:
    """The schema's version, by the first connection: SQLite makes it wait for nobody, so others must not be in its way."""
    with database.opening() as connection:
        return _version(connection)


def _version(connection: Connection) -> str | None:
    """The schema's version, None for a database without one."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def _copy_before_migration(database: Database, version: str) -> None:
    """Beside the file, under a name that is free: an earlier copy may be the only whole one."""
    path = Path(str(database.engine.url.database))
    target = path.with_suffix(f".before-{version}.db")
    for number in itertools.count(2):
        if not target.exists():
            return copy_whole(database, target)
        target = path.with_suffix(f".before-{version}-{number}.db")


def copy_whole(database: Database, target: Path) -> None:
    """Copy a SQLite file as it is committed, by SQLite's backup interface; whole or not at all."""

    def copy(path: Path) -> None:
        with (
            closing(sqlite3.connect(str(database.engine.url.database))) as source,
            closing(sqlite3.connect(path)) as copied,
        ):
            source.backup(copied)

    write_atomically(target, copy)
