"""How many CPU threads to compute with: measured at the start, and again when another process has come or gone.

On two cores a GPT of a few million weights trains a quarter faster on both, but fifty times slower than on one as soon
as another process wants a core: the threads wait for each other at every product. `OMP_NUM_THREADS`, where set,
decides instead, and nothing is measured.
"""

import os
import time

import torch

RECHECK_S = 60.0  # with fewer threads than cores, how often to ask whether the other process has gone
STALLED_S = 2.0  # how long steps have to stay slow before the threads are measured anew
STALLED_FACTOR = 4.0  # a step this much slower than usual is slow


def num_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def fastest_threads() -> int:
    """All the cores this process may use, or 1 where two threads are slower than one; measured in half a second.

    Leaves torch set to the number it returns.
    """
    if wanted := os.environ.get("OMP_NUM_THREADS", ""):
        return _use(int(wanted)) if wanted.isdigit() and int(wanted) else torch.get_num_threads()
    cores = num_cores()
    if cores == 1:
        return _use(1)
    rounds = [(_matmul_s(1), _matmul_s(cores)) for _ in range(5)]
    one, all_cores = (sorted(times)[len(rounds) // 2] for times in zip(*rounds, strict=True))
    return _use(cores if all_cores < one else 1)


def _use(num_threads: int) -> int:
    torch.set_num_threads(num_threads)
    return num_threads


def _matmul_s(num_threads: int, repeats: int = 30) -> float:
    """Seconds for products of the size that small models are made of."""
    _use(num_threads)
    a, b = torch.ones(1024, 128), torch.ones(128, 512)
    a @ b
    started = time.perf_counter()
    for _ in range(repeats):
        a @ b
    return time.perf_counter() - started


class ThreadWatch:
    """Measures the threads anew when steps stall, and from time to time while a core is left unused."""

    def __init__(self) -> None:
        self.fixed = num_cores() == 1 or bool(os.environ.get("OMP_NUM_THREADS"))
        self.usual: float | None = None
        self.stalled = 0.0
        self.last: float | None = None  # the first step holds what is done only once
        self.measured = time.monotonic()

    def step(self) -> None:
        """Call after every step of a training loop."""
        now, before = time.monotonic(), self.last
        self.last = now
        if self.fixed or before is None:
            return
        took = now - before
        slow = self.usual is not None and took > STALLED_FACTOR * self.usual
        self.stalled = self.stalled + took if slow else 0.0
        if not slow:
            self.usual = took if self.usual is None else 0.9 * self.usual + 0.1 * took
        unused = torch.get_num_threads() < num_cores() and now - self.measured > RECHECK_S
        if self.stalled > STALLED_S or unused:
            fastest_threads()
            self.stalled, self.usual, self.last = 0.0, None, None
            self.measured = time.monotonic()
