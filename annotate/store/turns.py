"""Whose turn it is to write to a SQLite file: one thread of one process at a time, and how long the others wait for it."""

import fcntl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

LONG_S = 1.0  # a write that takes longer is an import's, or another program's
MOST_WAITING = 8  # threads that wait for such a write: the others of a server go on reading
ASK_EVERY_S = 0.02
BUSY = "another program, or an import, is writing; try again in a little while"


class Busy(OSError):
    """It is somebody else's turn, for longer than the patience lasts."""

    def __init__(self) -> None:
        super().__init__(BUSY)


class Turns:
    """Turns of this process's threads, and with each the lock file that other processes share."""

    def __init__(self) -> None:
        self.free = threading.Condition()
        self.taken = False
        self.waiting = 0
        self.since = 0.0  # when whoever writes now, here or elsewhere, was first waited for

    @contextmanager
    def mine(self, lock_file: Path, patience_s: float | None) -> Iterator[None]:
        """A turn, once it comes. patience_s: None waits as long as it takes; else raises Busy after so many seconds."""
        last = None if patience_s is None else time.monotonic() + patience_s
        self._take(last)
        got = False
        try:
            with locked(lock_file, last):
                got, self.since = True, time.monotonic()
                yield
        finally:
            with self.free:
                self.taken = False
                if got:
                    self.since = 0.0
                self.free.notify()

    def _take(self, last: float | None) -> None:
        with self.free:
            self.waiting += 1
            try:
                while self.taken:
                    self._check_patience(last)
                    self.free.wait(None if last is None else 0.1)
                self.taken = True
                self.since = self.since or time.monotonic()
            finally:
                self.waiting -= 1

    def _check_patience(self, last: float | None) -> None:
        now = time.monotonic()
        crowded = self.waiting > MOST_WAITING and now - self.since > LONG_S
        if last is not None and (crowded or now > last):
            raise Busy


@contextmanager
def locked(lock_file: Path, last: float | None = None) -> Iterator[None]:
    """The lock file that processes share. last: until when to wait, by time.monotonic; then raises Busy."""
    with lock_file.open("w") as file:  # closing it gives the lock back
        _lock(file, last)
        yield


def _lock(file: IO[str], last: float | None) -> None:
    if last is None:
        return fcntl.flock(file, fcntl.LOCK_EX)
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > last:
                raise Busy from None
            time.sleep(ASK_EVERY_S)
