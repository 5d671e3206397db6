"""What takes seconds over a hundred thousand answers: computed by a thread beside the pages and kept until more come."""

import threading
import time
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import func, select

from annotate.store.database import Database
from annotate.store.schema import Annotation

PATIENCE_S = 0.25  # what a page waits for fresh values before it makes do with older ones
MOST_KEPT = 50


@dataclass(frozen=True)
class Result:
    """A value over the answers there were at the time `at` (seconds since 1970); revision: which answers those were.

    current: whether no answer has come since. Without any value yet, value is None and `at` 0.
    """

    value: Any
    at: float
    revision: tuple[int, int]
    current: bool


NOTHING = Result(None, 0.0, (0, 0), False)


class Computed:
    """Values by key; one is computed at a time, so that figures never crowd out the labelers' requests."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.worker = ThreadPoolExecutor(1, "figures")
        self.lock = threading.Lock()
        self.kept: dict[Hashable, Result] = {}
        self.running: dict[Hashable, Future[Result]] = {}

    def soon(self, key: Hashable, compute: Callable[[], Any], patience_s: float = PATIENCE_S) -> Result:
        """The newest value that can be had within `patience_s`; a newer one is on its way where it is not current."""
        wanted = self._revision()
        kept, future = self._started(key, compute, wanted)
        if future is None:
            return kept
        try:
            found = future.result(patience_s)
        except NotYet:
            found = kept
        return replace(found, current=found.current and found.revision >= wanted)

    def current(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        """The value over all answers there are now, however long it takes."""
        wanted = self._revision()
        while True:
            kept, future = self._started(key, compute, wanted)
            found = kept if future is None else future.result()
            if found.revision >= wanted:
                return found.value

    def close(self) -> None:
        self.worker.shutdown(wait=False, cancel_futures=True)

    def _revision(self) -> tuple[int, int]:
        """Grows with every answer: rows are only added. PostgreSQL may show a larger id before a smaller one."""
        with self.database.read() as connection:
            row = connection.execute(select(func.count(), func.coalesce(func.max(Annotation.id), 0))).one()
        return row[0], row[1]

    def _started(
        self, key: Hashable, compute: Callable[[], Any], wanted: tuple[int, int]
    ) -> tuple[Result, Future[Result] | None]:
        with self.lock:
            kept = self.kept.get(key, NOTHING)
            if kept.current and kept.revision >= wanted:
                return kept, None
            if key not in self.running:
                self.running[key] = self.worker.submit(self._compute, key, compute)
            return kept, self.running[key]

    def _compute(self, key: Hashable, compute: Callable[[], Any]) -> Result:
        try:
            at, revision = time.time(), self._revision()
            found = Result(compute(), at, revision, True)
            with self.lock:
                self.kept.pop(key, None)
                self.kept[key] = found
                while len(self.kept) > MOST_KEPT:
                    del self.kept[next(iter(self.kept))]
            return found
        finally:
            with self.lock:
                del self.running[key]
