"""What memory this process holds: the most it has held, and what the C library does with what is freed.

Keeping it makes a small GPT a third faster; giving it back lets a long run of several stages hold no more than its
largest stage.
"""

import ctypes
import gc
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

GIVE_BACK_EVERY_S = 60
SOON_S = 20  # getting a gigabyte of pages again takes a third of a second
GROWN = 1.25
IN_PIECES = 0.5  # rows of other lengths do not fit where those before lay; 0.65 and more for 270M weights (docs/lab-log.md)

STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def keep_freed_memory() -> bool:
    """Let glibc keep freed memory for the next allocation; returns whether it was told so (False elsewhere).

    By default it gives each large tensor's pages back to the system, which then hands out zeroed ones one by one.
    """
    if (libc := _glibc()) is None:
        return False
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    return bool(libc.mallopt(trim_threshold, 2**31 - 1) and libc.mallopt(mmap_threshold, 2**30))


def give_back_at_once() -> None:
    """From here on give freed tensors back to the system at once: the opposite of `keep_freed_memory`.

    For sharded models, whose blocks' weights come and go: kept, they made a process three times as large as what it held.
    """
    if (libc := _glibc()) is not None:
        trim_threshold, mmap_threshold, arenas = -1, -3, -8  # malloc.h
        for parameter, value in ((trim_threshold, 2**17), (mmap_threshold, 2**16), (arenas, 1)):
            libc.mallopt(parameter, value)


def give_back_freed_memory() -> None:
    """Return to the system what one stage has freed, before another asks for memory of other sizes."""
    gc.collect()
    _trim()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def memory_of_a_process() -> int:
    """Bytes that a process of this run may hold: its GPU's, or its share of the machine's."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return pages * size // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def reset_peak() -> None:
    """From here on `peak_mib` is the peak of what follows, where the system can forget one (Linux, CUDA)."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):
        CLEAR_REFS.write_text("5")


def peak_mib() -> float:
    """The most memory this process has held, in MiB, or what it held of its GPU where there is one."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    if STATUS.exists():  # getrusage counts what the parent held, too
        return _told_mib("VmHWM")
    import resource  # not on every system

    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def peak_of_a_long_run_mib(peak: float) -> float:
    """What many steps hold at most where a few have held `peak` MiB: of what is allocated IN_PIECES more.

    Pages of mapped files are not allocated. A GPU's memory is counted without what its allocator keeps, so it stays.
    """
    if torch.cuda.is_available():
        return peak
    mapped = _told_mib("RssFile") if STATUS.exists() else 0.0
    return peak + IN_PIECES * max(0.0, peak - mapped)


def held_mib() -> float:
    """The memory that this process holds now, as `peak_mib` counts it; the peak where the system does not tell."""
    if torch.cuda.is_available():
        return torch.cuda.memory_allocated() / 2**20
    if STATUS.exists():
        return _told_mib("VmRSS")
    return peak_mib()


def _told_mib(name: str) -> float:
    """What Linux tells of this process's memory under a name."""
    return int(STATUS.read_text().split(f"{name}:")[1].split()[0]) / 2**10


def _trim() -> None:
    if (libc := _glibc()) is not None:
        libc.malloc_trim(0)


class FreedMemory:
    """Gives memory that a long loop has freed back to the system, by calling `give_back`.

    Rows of different lengths leave holes into which the next ones do not fit, so that without this the process grows with
    every step. Given back every `every_s` seconds, and after SOON_S where the process holds GROWN times
    what it held then.
    """

    def __init__(self, every_s: float = GIVE_BACK_EVERY_S, give_back: Callable[[], None] = _trim) -> None:
        self.every_s, self.give_back = every_s, give_back
        self.given_back, self.kept_mib = time.monotonic(), held_mib()

    def step(self) -> None:
        """Call between the steps of the loop."""
        passed = time.monotonic() - self.given_back
        if passed > self.every_s or (passed > SOON_S and held_mib() > GROWN * self.kept_mib):
            self.give_back()
            self.given_back, self.kept_mib = time.monotonic(), held_mib()


def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux" or not hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        return None
    return libc
