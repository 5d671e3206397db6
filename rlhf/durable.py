"""Files that a crash leaves whole: atomic writes, what reached the disk, hashes, locks."""

import errno
import fcntl
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from rlhf.errors import RLHFError, StoreError

HOLDER = ".holder"
FULL_BYTES = 2**16
NOT_FOR_FOLDERS = (
    errno.EINVAL,
    errno.EBADF,
    errno.ENOTSUP,
)  # network file systems say so of fsync, which files bear
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)  # of a disk or folder that may not be written
# Lock files that this process holds. POSIX locks: the process may take its own again, and loses it by closing the file.
HELD: dict[Path, IO[str]] = {}


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


def append_lines(path: Path, lines: Iterable[str]) -> None:
    """Add lines to a file that may be new, or end in the middle of a line, and fsync it."""
    with path.open("a+b") as file:
        if file.tell() and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n":
            file.write(b"\n")
        file.write("".join(line + "\n" for line in lines).encode(errors="replace"))
        file.flush()
        os.fsync(file.fileno())


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


def copy_files(source: Path, target: Path, leave_out: Collection[str] = ()) -> None:
    """Copy what is under a folder, apart from files and folders of these names at its top, with the rights of new files."""
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source)
        if not path.is_dir() and name.parts[0] not in leave_out:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / name)


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
    """fsync one file or folder; a folder where its file system can."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as problem:
        if problem.errno not in NOT_FOR_FOLDERS or not path.is_dir():
            raise
    finally:
        os.close(handle)


@contextmanager
def removed_afterwards(folder: Path) -> Iterator[None]:
    """Remove what is left of a folder at the end, however the block ends."""
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def give_usual_rights(folder: Path) -> None:
    """Give every file under a folder the rights that a new file gets there; safetensors' are for their owner alone."""
    example = folder / ".rights"
    example.touch()
    rights = example.stat().st_mode & 0o777
    example.unlink()
    for path in folder.rglob("*"):
        if path.is_file() and path.stat().st_mode & 0o777 != rights:
            path.chmod(rights)


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder to fill that becomes `target` when the block ends without an exception; else nothing of it stays.

    Raises StoreError where something of that name is there, and for what the target's disk refuses.
    """
    with disk_problems_explained(target):
        if os.path.lexists(target):
            raise StoreError(f"{target} exists already; name a folder that does not")
        hidden = target.with_name(
            f".{os.getpid()}-{uuid.uuid4().hex[:8]}"
        )  # as short as any name of a new folder
        with removed_afterwards(hidden):
            hidden.mkdir(parents=True)
            yield hidden
            give_usual_rights(hidden)
            os.rename(hidden, target)


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
    if number == errno.ENAMETOOLONG:
        return f"{place}: this name is too long for its disk; give a shorter one"
    named = f"{problem.filename or ''}" if isinstance(problem, OSError) else ""
    if number in FORBIDDEN or named.startswith(f"{place}"):
        return f"{named or place}: cannot be read or written ({problem.args[-1]}); give the right to, or name another folder"
    return None


def _is_full(place: Path) -> bool:
    existing = next(folder for folder in (place.absolute(), *place.absolute().parents) if folder.exists())
    return shutil.disk_usage(existing).free < FULL_BYTES


def take_lock(lock: Callable[[Any, int], None], handle: Any) -> bool:
    """Whether the file is locked now by this process, without waiting. Raises StoreError where its disk has no locks."""
    try:
        lock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as problem:
        if problem.errno in (errno.EACCES, errno.EAGAIN):
            return False
        if problem.errno in WITHOUT_LOCKS:
            raise StoreError(
                f"{handle.name}: its disk has no file locks ({os.strerror(problem.errno)}), which keep two processes apart; put the "
                "store on a disk that has, or let the network file system lock"
            ) from None
        raise
    return True


def keep_lock(file: Path) -> str | None:
    """Lock a file for this process until `give_back_lock` or its end; else gives what its holder wrote, its number."""
    if file in HELD:
        return None
    handle = open(file, "a+")  # noqa: SIM115  held as long as the work goes on
    if not take_lock(fcntl.lockf, handle):
        with handle:
            handle.seek(0)
            return handle.read().strip() or "?"
    handle.truncate(0)
    handle.write(f"{os.getpid()}\n")
    handle.flush()
    HELD[file] = handle
    return None


def give_back_lock(file: Path) -> None:
    """Delete a lock file of `keep_lock`, and with it the lock."""
    file.unlink(missing_ok=True)
    if handle := HELD.pop(file, None):
        handle.close()


@contextmanager
def locked(folder: Path, patience_s: float) -> Iterator[None]:
    """One process at a time in a folder, which is made. Raises StoreError where another one is there for `patience_s`."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as handle:
        last = time.monotonic() + patience_s
        while not take_lock(fcntl.flock, handle):
            if time.monotonic() > last:
                raise StoreError(
                    f"{folder / '.lock'} was held by another process for {patience_s:.0f} s; "
                    "stop that process, then run the same command again"
                )
            time.sleep(0.02)
        yield


def hold(folder: Path) -> None:
    """Keep a run's folder to this process until its work is discarded or the process ends.

    Raises StoreError where another process has it.
    """
    if holder := keep_lock(folder / HOLDER):
        raise StoreError(f"{folder}: process {holder} is at the same run; wait for it or stop it first")
