"""How long a stage has worked, over all its interruptions."""

import threading
import time
from contextlib import suppress
from pathlib import Path

from rlhf.durable import write_text
from rlhf.machine import processes

FILE = ".seconds"  # in a stage's working folder
KEEP_EVERY_S = 30.0


class Stopwatch:
    """Counts from its making on, and on from what an interrupted run of the same working folder had counted.

    It writes that down every KEEP_EVERY_S seconds, so that a killed run loses no more. Use `with`.
    """

    def __init__(self, folder: Path) -> None:
        self.file, self.before, self.started = folder / FILE, 0.0, time.monotonic()
        with suppress(OSError, ValueError):
            self.before = float(self.file.read_text())
        self.ended = threading.Event()

    @property
    def seconds(self) -> float:
        """Of work so far."""
        return self.before + time.monotonic() - self.started

    def __enter__(self) -> "Stopwatch":
        if processes.is_main_process():
            threading.Thread(target=self._keep, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        if processes.is_main_process():
            self._write()

    def _keep(self) -> None:
        while not self.ended.wait(KEEP_EVERY_S):
            self._write()

    def _write(self) -> None:
        with suppress(OSError):  # a full disk is told by what must be saved
            write_text(self.file, str(self.seconds))
