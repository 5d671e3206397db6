"""What matters about this machine for training and labeling, and what its owner could change."""

import os
import platform
import shutil
import sqlite3
import sys
from dataclasses import dataclass
from pathlib import Path

from rlhf.errors import without_password
from rlhf.packages import how_to_install, version_of

PACKAGES = (
    "torch",
    "transformers",
    "trl",
    "datasets",
    "accelerate",
    "peft",
    "tiktoken",
    "gradio",
    "sqlalchemy",
)
ENOUGH_DISK_GIB = 2.0
ENOUGH_MEMORY_GIB = 4.0


@dataclass(frozen=True)
class Check:
    """One finding, and what to do about it where something should be done."""

    name: str
    found: str
    advice: str = ""


def report(store: Path, labels_url: str) -> list[Check]:
    """Everything `rlhf doctor` prints, for a store folder and a label database."""
    return [
        _python(),
        _cores(),
        _bf16(),
        _loops(),
        _memory(),
        _gpu(),
        *(_package(name) for name in PACKAGES),
        _sqlite(),
        _disk(store),
        Check("checkpoint store", f"{store} ({'there' if store.is_dir() else 'not made yet'})"),
        Check("label store", without_password(labels_url)),
    ]


def _python() -> Check:
    old = sys.version_info < (3, 11)
    return Check("Python", platform.python_version(), "use Python 3.11 or newer" if old else "")


def _cores() -> Check:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    advice = "other programs keep the cores busy; training shares them badly" if busy > 0.7 * cores else ""
    return Check("CPU cores", f"{cores} usable, load {busy:.1f}", advice)


def _bf16() -> Check:
    from rlhf.machine.devices import bf16_units

    if (found := bf16_units()) is None:
        return Check("bf16 units", "unknown on this system")
    return Check("bf16 units", ", ".join(found) or "none: the CPU trains in float32, several times slower")


def _loops() -> Check:
    from rlhf.machine.kernels import compiler, library

    if compiler() and library() is not None:
        return Check("compiled loops", "there")
    return Check("compiled loops", "none", "install g++ or clang++: the CPU then samples and trains faster")


def memory_gib() -> float | None:
    """The machine's memory, where the system tells."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30


def _memory() -> Check:
    gib = memory_gib()
    if gib is None:
        return Check("memory", "unknown on this system")
    return Check("memory", f"{gib:.1f} GiB", "quickstart wants 4 GiB" if gib < ENOUGH_MEMORY_GIB else "")


def _gpu() -> Check:
    import torch

    if torch.cuda.is_available():
        device = torch.cuda.get_device_properties(0)
        return Check(
            "GPU", f"{torch.cuda.device_count()} × {device.name}, {device.total_memory / 2**30:.0f} GiB"
        )
    if torch.backends.mps.is_available():
        return Check("GPU", "Apple MPS")
    return Check("GPU", "none; the small recipes need none")


def _package(name: str) -> Check:
    if (version := version_of(name)) is None:
        return Check(name, "not installed", how_to_install(name) or f"pip install {name}")
    return Check(name, version)


def _sqlite() -> Check:
    version = sqlite3.sqlite_version_info
    # The WAL-reset bug of 3.7.0 to 3.51.2 needs two checkpoints at once; one writer with one lock avoids it.
    fixed = (
        version >= (3, 51, 3)
        or (version[:2] == (3, 50) and version >= (3, 50, 7))
        or (version[:2] == (3, 44) and version >= (3, 44, 6))
    )
    advice = "" if fixed else "has the WAL-reset bug: let only one rlhf process write to one label file"
    return Check("SQLite", sqlite3.sqlite_version, advice)


def _disk(store: Path) -> Check:
    folder = next(path for path in (store.absolute(), *store.absolute().parents) if path.exists())
    gib = shutil.disk_usage(folder).free / 2**30
    return Check(
        "free disk",
        f"{gib:.1f} GiB",
        "the store may fill the disk: choose another --store" if gib < ENOUGH_DISK_GIB else "",
    )
