"""Files that a crash leaves whole: atomic writes, what reached the disk, hashes, locks."""

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from rlhf.errors import RLHFError, StoreError

HOLDER = ".holder"
# The lock files of folders that this process holds. POSIX locks: the process may take its own again.
HELD: dict[Path, IO[str]] = {}
FULL_BYTES = 2**16


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file, fsync it, rename it to `path`: readers see the old file or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text file as `write_atomically` does."""

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    write_atomically(path, write)


def link_or_copy(source: str, target: str) -> str:
    """Make `target` the same file as `source`, or a copy where the two lie on different file systems; replaces it."""
    Path(target).unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError as problem:
        if problem.errno not in (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK):
            raise
        shutil.copy2(source, target)
    return target


def hashes_under(folder: Path) -> dict[str, str]:
    """sha256 of every file by its path under the folder, manifest.json aside."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path != folder / "manifest.json":
            with open(path, "rb") as handle:
                found[path.relative_to(folder).as_posix()] = hashlib.file_digest(handle, "sha256").hexdigest()
    return found


def sync_tree(folder: Path) -> None:
    """fsync everything under the folder, and the folder."""
    for path in sorted(folder.rglob("*"), reverse=True):
        sync(path)
    sync(folder)


def sync(path: Path) -> None:
    """fsync one file or folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def removed_afterwards(folder: Path) -> Iterator[None]:
    """Remove what is left of a folder at the end, however the block ends."""
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def disk_problems_explained(place: Path) -> Iterator[None]:
    """Raises StoreError, in one line, for what failed because of the disk that `place` lies on; all else as it is."""
    try:
        yield
    except (RLHFError, KeyboardInterrupt):
        raise
    except Exception as problem:
        if reason := _disk_problem(problem, place):
            raise StoreError(reason) from problem
        raise


def _disk_problem(problem: Exception, place: Path) -> str | None:
    """What is wrong with the disk, if that is why. Libraries that write by themselves do not always say OSError."""
    number = problem.errno if isinstance(problem, OSError) else None
    full = os.strerror(errno.ENOSPC) in f"{problem}" or (number is None and _is_full(place))
    if full or number == errno.EDQUOT:
        return f"{place}: no space left on its disk; free some, then run the same command again"
    named = f"{problem.filename or ''}" if isinstance(problem, OSError) else ""
    if number in (errno.EROFS, errno.EACCES, errno.EPERM) or named.startswith(f"{place}"):
        return f"{named or place}: cannot be written ({problem.args[-1]}); give the right to, or another folder with --store"
    return None


def _is_full(place: Path) -> bool:
    existing = next(folder for folder in (place.absolute(), *place.absolute().parents) if folder.exists())
    return shutil.disk_usage(existing).free < FULL_BYTES


def take_lock(lock: Callable[[Any, int], None], handle: Any) -> bool:
    """Whether the file is locked now by this process, without waiting."""
    try:
        lock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as problem:
        if problem.errno in (errno.EACCES, errno.EAGAIN):
            return False
        raise
    return True


def hold(folder: Path) -> None:
    """Keep a run's folder to this process until `let_go` or the process's end.

    Raises StoreError where another process has it.
    """
    if folder in HELD:
        return
    handle = open(folder / HOLDER, "a+")  # noqa: SIM115  held as long as the work goes on
    if not take_lock(fcntl.lockf, handle):
        handle.seek(0)
        raise StoreError(
            f"{folder}: process {handle.read().strip() or '?'} is at the same run; wait for it or stop it first"
        )
    handle.truncate(0)
    handle.write(f"{os.getpid()}\n")
    handle.flush()
    HELD[folder] = handle


def let_go(folder: Path) -> None:
    """Leave a folder that `hold` was called for to others."""
    if handle := HELD.pop(folder, None):
        handle.close()
