"""Engines in a process of their own: the one that talks to people imports no torch and outlives the models.

When the engine process dies, it is started anew and every answer under way goes on where it was: an answer depends on
its request and seed only, so it is said again from the beginning and what was passed on already is left out.
"""

import asyncio
import itertools
import multiprocessing
import queue
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from rlhf.errors import BusyError, ClosedError, EngineError, InputError
from rlhf.serving.completions import Answer, Done, Event, Failed, Piece, Queued, Request, Result, Started
from rlhf.serving.engine_worker import work

SILENT_S = (
    600.0  # a process that has work and says nothing for so long hangs; loading a large model takes a while
)
SHORT_LIFE_S = 60.0  # a process that dies sooner, the second time in a row, is followed after a pause
LONGEST_PAUSE_S = 30.0
ATTEMPTS = 2  # what may have been the reason of so many deaths of the engine is given up


@dataclass
class Pending:
    """Something asked of the engine process and not finished."""

    command: tuple[Any, ...]
    tell: Callable[[Event], None] | None  # None once nobody waits for it, and its end is only counted
    asked_at: float = field(default_factory=time.monotonic)
    deaths: int = 0  # of the engine, of which it may have been the reason
    has_started: bool = False
    is_running: bool = False  # has started since the engine did
    text: str = ""  # passed on so far
    num_tokens: int = 0
    num_pieces: int = 0
    again: str = ""  # said again since the engine was restarted
    num_again: int = 0

    @property
    def folder(self) -> str:
        """Of the model that is asked."""
        return str(self.command[2] if self.command[0] == "submit" else self.command[3][0])

    @property
    def age_s(self) -> float:
        """Seconds since it was asked."""
        return time.monotonic() - self.asked_at

    def fresh(self, event: Event) -> Event | None:
        """What of an event has not been passed on before the engine died."""
        if isinstance(event, Piece):
            return self._fresh_part(event)
        if isinstance(event, Queued | Started):
            self.is_running = isinstance(event, Started)
            had_started, self.has_started = self.has_started, self.has_started or self.is_running
            return None if had_started else event
        return event

    def _fresh_part(self, event: Piece) -> Event | None:
        """What of a piece has not been passed on before the engine died; a Failed if it says something else now."""
        start, first = len(self.again), self.num_again
        self.again, self.num_again = self.again + event.text, self.num_again + len(event.tokens)
        common = min(len(self.again), len(self.text))
        if self.again[:common] != self.text[:common]:
            return Failed("the model process died, and the answer could not be continued; ask again")
        text = event.text[max(0, len(self.text) - start) :]
        tokens = event.tokens[max(0, self.num_tokens - first) :]
        self.text, self.num_tokens = self.text + text, max(self.num_tokens, self.num_again)
        if not text and not tokens:
            return None
        self.num_pieces += 1
        return Piece(text, tokens)


class EngineProcess:
    """Answers from any number of models, named by their folders, loaded when first asked for.

    max_rows: answers of one model at a time; max_waiting: requests of one model in line. precision: see
    rlhf/serving/precision.py. template_kwargs: what chat templates are given, by folder. silent_s: after so long without a word about what it was asked the process is taken for
    hung, and killed. Use `with`, or close it.
    """

    def __init__(
        self,
        *,
        max_rows: int = 16,
        max_waiting: int = 64,
        precision: str = "auto",
        template_kwargs: Mapping[str, str] | None = None,
        silent_s: float = SILENT_S,
    ) -> None:
        self.settings = (max_rows, max_waiting, precision, dict(template_kwargs or {}))
        self.max_rows, self.silent_s = max_rows, silent_s
        self.pending: dict[str, Pending] = {}
        self.listeners: list[Callable[[Pending, Event], None]] = []  # hear all that is told
        self.keys = map(str, itertools.count())
        self.lock = threading.RLock()
        self.closing = threading.Event()
        self.num_starts = 0
        self.short_lives = 0  # in a row
        self.loaded: dict[str, None] = {}  # folders of models that have answered
        self._start()

    def __enter__(self) -> "EngineProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process; what is under way fails."""
        with self.lock:
            self.closing.set()
            for key in list(self.pending):
                self._dispatch(key, Failed("the server is shutting down", "closed"))
        self.process.terminate()
        self.process.join(10)
        self.connection.close()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.progress = context.RawArray("q", [-1, -1])
        self.process = context.Process(target=work, args=(theirs, self.progress, *self.settings), daemon=True)
        self.is_there = False
        self.process.start()
        theirs.close()
        self.num_starts, self.started_at = self.num_starts + 1, time.monotonic()
        # Commands go through a queue, so that nobody who holds the lock waits for a full pipe.
        self.outbox: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
        for run in (self._listen, self._deliver):
            threading.Thread(target=run, args=(self.connection, self.outbox), daemon=True).start()

    def _deliver(self, connection: Any, outbox: queue.SimpleQueue[tuple[Any, ...]]) -> None:
        with suppress(OSError):  # the listening thread sees the same and starts anew with all that is pending
            while command := outbox.get():
                connection.send(command)

    def _listen(self, connection: Any, outbox: queue.SimpleQueue[tuple[Any, ...]]) -> None:
        with suppress(EOFError, OSError):
            while True:
                if not connection.poll(self.silent_s):
                    self._kill_if_hung()
                    continue
                told = connection.recv()
                self.is_there = True
                for key, event in told:
                    self._dispatch(key, event)
        outbox.put(())
        self._restart()

    def _kill_if_hung(self) -> None:
        """End a process that owes somebody a word; nothing has been heard of it for `silent_s`."""
        with self.lock:
            if any(pending.tell and pending.age_s > self.silent_s for pending in self.pending.values()):
                self.process.kill()

    def _restart(self) -> None:
        """A new process, and what was under way once more; at once, or after a pause where it keeps dying."""
        self.is_there = False
        self.process.join(10)
        with self.lock:
            if self.closing.is_set():
                return
            for key in self._suspects():
                self.pending[key].deaths += 1
            for key, pending in list(self.pending.items()):
                if pending.tell and pending.deaths >= ATTEMPTS:
                    self._dispatch(
                        key, Failed("the model process died twice over this answer; it is given up")
                    )
                pending.again, pending.num_again, pending.is_running = "", 0, False
        self.closing.wait(self._pause())
        with self.lock:
            if self.closing.is_set():
                return
            self._start()
            for key, pending in list(self.pending.items()):
                if pending.tell:
                    self.outbox.put(pending.command)
                else:
                    self._dispatch(key, Done("cancelled", 0))

    def _suspects(self) -> list[str]:
        """Keys of what the process may have died of: what it was taking up, or else all that was under way in it."""
        begun, done = self.progress
        if begun != done:
            return [str(begun)] if str(begun) in self.pending else []
        return [
            key
            for key, pending in self.pending.items()
            if pending.is_running or (pending.command[0] == "call" and int(key) <= done)
        ]

    def _pause(self) -> float:
        """Seconds before the next start: none after the first death, then 1, 2, 4 …"""
        short = time.monotonic() - self.started_at < SHORT_LIFE_S
        self.short_lives = self.short_lives + 1 if short else 0
        return min(LONGEST_PAUSE_S, 2.0 ** (self.short_lives - 2)) if self.short_lives > 1 else 0.0

    def _dispatch(self, key: str, event: Event) -> None:
        with self.lock:
            pending = self.pending.get(key)
            if pending is None:
                return
            told = pending.fresh(event)
            if isinstance(told, Done | Failed | Result):
                del self.pending[key]
                if not isinstance(told, Failed):
                    self.loaded[pending.folder] = None
                if isinstance(event, Piece):  # it failed on this side; the engine is still at it
                    self.outbox.put(("cancel", key))
            if told is not None:
                if pending.tell:
                    pending.tell(told)
                for hear in self.listeners:
                    hear(pending, told)

    def _ask(self, name: str, tell: Callable[[Event], None], *arguments: Any) -> str:
        with self.lock:
            if self.closing.is_set():
                raise ClosedError("the server is shutting down")
            key = next(self.keys)
            command = (name, key, *arguments)
            self.pending[key] = Pending(command, tell)
            self.outbox.put(command)
            return key

    def _cancel(self, key: str) -> None:
        with self.lock:
            pending = self.pending.get(key)
            if pending is None:
                return
            self.outbox.put(("cancel", key))
            if pending.command[0] == "submit":
                pending.tell = None
            else:
                del self.pending[key]

    def stream(self, folder: str, request: Request) -> Iterator[Event]:
        """The events of one answer, ended by Done or Failed; leaving the loop earlier cancels it."""
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        key = self._ask("submit", events.put, folder, request, False)
        try:
            while True:
                event = events.get()
                yield event
                if isinstance(event, Done | Failed):
                    return
        finally:
            self._cancel(key)

    async def astream(self, folder: str, request: Request) -> AsyncGenerator[Event, None]:
        """`stream` for a running event loop."""
        async with aclosing(self.astreams(folder, [request])) as events:
            async for _, event in events:
                yield event

    async def astreams(
        self, folder: str, requests: Sequence[Request]
    ) -> AsyncGenerator[tuple[int, Event], None]:
        """(place of the request, event) of several answers as they come, each ended by Done or Failed; leaving cancels all.

        As many are asked for as have a slot in an idle engine; each further one follows one that has ended.
        """
        events, tell = _async_queue()
        keys: list[str] = []
        coming = enumerate(requests)

        def ask_next(follows: bool) -> None:
            for place, request in itertools.islice(coming, 1):
                told = partial(_with_place, tell, place)
                try:
                    keys.append(self._ask("submit", told, folder, request, follows))
                except ClosedError as error:
                    told(Failed(str(error), "closed"))

        try:
            for _ in range(self.max_rows):
                ask_next(follows=False)
            going = len(requests)
            while going:
                place, event = await events.get()
                yield place, event
                if isinstance(event, Done | Failed):
                    going -= 1
                    ask_next(follows=True)
        finally:
            for key in keys:
                self._cancel(key)

    @property
    def state(self) -> str:
        """What the engine process is at: starting, restarting, loading (a model), or ready."""
        if not self.is_there:
            return "restarting" if self.num_starts > 1 or not self.process.is_alive() else "starting"
        begun, done = self.progress
        taken_up = self.pending.get(str(begun)) if begun != done else None
        return "loading" if taken_up and taken_up.folder not in self.loaded else "ready"

    def status(self) -> dict[str, dict[str, int]]:
        """Answers under way and requests in line, by the folder of the model, told at once whatever the engine is at.

        Raises ClosedError.
        """
        with self.lock:
            if self.closing.is_set():
                raise ClosedError("the server is shutting down")
            status = {folder: {"running": 0, "waiting": 0} for folder in self.loaded}
            for pending in self.pending.values():
                if pending.command[0] == "submit":
                    numbers = status.setdefault(pending.folder, {"running": 0, "waiting": 0})
                    numbers["running" if pending.has_started else "waiting"] += 1
            return status

    async def call(self, name: str, *arguments: Any) -> Any:
        """What a function of `rlhf/serving/engine_worker.py` gives: score, explain. Raises InputError, EngineError."""
        events, tell = _async_queue()
        key = self._ask("call", tell, name, arguments)
        try:
            event = await events.get()
        finally:
            self._cancel(key)
        if isinstance(event, Failed):
            raise raised(event)
        return event.value

    async def answer(self, folder: str, request: Request) -> Answer:
        """The whole answer. Raises InputError for the request's fault, BusyError for a full line, EngineError."""
        [answer] = await self.answers(folder, [request])
        return answer

    async def answers(self, folder: str, requests: Sequence[Request]) -> list[Answer]:
        """Several whole answers; the first failure ends the others, and is raised as by `answer`."""
        answers = [Answer() for _ in requests]
        async with aclosing(self.astreams(folder, requests)) as events:
            async for place, event in events:
                if isinstance(event, Failed):
                    raise raised(event)
                answers[place].add(event)
        return answers


def raised(failed: Failed) -> InputError | EngineError:
    """The exception that a failure stands for."""
    if failed.kind == "input":
        return InputError(failed.error, param=failed.param, code=failed.code)
    kinds = {"busy": BusyError, "closed": ClosedError}
    return kinds.get(failed.kind, EngineError)(failed.error)


def _with_place(tell: Callable[[tuple[int, Event]], None], place: int, event: Event) -> None:
    tell((place, event))


def _async_queue() -> tuple[asyncio.Queue[Any], Callable[[Any], None]]:
    events: asyncio.Queue[Any] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def tell(event: Any) -> None:
        with suppress(RuntimeError):  # the loop has been closed, so nobody listens
            loop.call_soon_threadsafe(events.put_nowait, event)

    return events, tell
