"""Imports of a thread that let requests go first: Python runs one thread at a time, and people wait for answers, not for Gradio."""

import gc
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

STEP_S = 0.05  # the longest wait before one module
SWITCH_S = 0.0005  # a request takes Python's lock dozens of times, and waits that long each time
LIMIT_S = 20.0  # of all waits together: a stream that stays open is no reason to wait for ever


class Courtesy:
    """Counts requests under way; within `polite()` a thread's imports wait until there are none.

    A finder of modules that finds none: Python asks it before each import.
    """

    def __init__(self) -> None:
        self.under_way = 0
        self.quiet = threading.Event()
        self.quiet.set()
        self.thread: int | None = None
        self.left_s = LIMIT_S

    @contextmanager
    def request(self) -> Iterator[None]:
        """One request. Enter and leave it in the event loop's thread only."""
        self.under_way += 1
        self.quiet.clear()
        try:
            yield
        finally:
            self.under_way -= 1
            if not self.under_way:
                self.quiet.set()

    @contextmanager
    def polite(self) -> Iterator[None]:
        """What this thread imports meanwhile makes way for requests, and garbage is not looked for in what stays for good."""
        self.thread = threading.get_ident()
        usual = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_S)
        sys.meta_path.insert(0, self)  # type: ignore[arg-type]
        gc.disable()  # a search through all that is imported stops every thread for a tenth of a second
        try:
            yield
        finally:
            gc.freeze()
            gc.enable()
            sys.meta_path.remove(self)  # type: ignore[arg-type]
            sys.setswitchinterval(usual)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if threading.get_ident() == self.thread and self.left_s > 0 and not self.quiet.is_set():
            start = time.monotonic()
            self.quiet.wait(STEP_S)
            self.left_s -= time.monotonic() - start
