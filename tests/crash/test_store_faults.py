"""A crash, or an error of the disk, at every single file operation of a save: the store stays whole, and says why."""

import errno
import io
import os
import subprocess
from pathlib import Path

import pytest

from rlhf.errors import StoreError
from rlhf.store import Store
from tests.command_line import rlhf

OPERATIONS = ("open", "fsync", "rename", "replace", "mkdir", "link", "unlink")


class Faults:
    """Counts the file operations of this process and fails the one with the chosen number."""

    def __init__(self, monkeypatch, fail):
        self.count, self.at, self.fail = 0, None, fail
        for name in OPERATIONS:
            monkeypatch.setattr(os, name, self.watched(getattr(os, name)))
        monkeypatch.setattr(io, "open", self.watched(io.open))
        monkeypatch.setattr("builtins.open", self.watched(open))

    def watched(self, operation):
        def run(*given, **named):
            self.count += 1
            if self.count == self.at:
                self.fail()
            return operation(*given, **named)

        return run


def full():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def save(store):
    with store.new("base", "a", parents={}, settings={}, data={}, seed=0) as writer:
        (writer.path / "inner").mkdir()
        (writer.path / "inner" / "weights.bin").write_bytes(b"1" * 1000)
        (writer.path / "config.json").write_text("{}")


def num_operations(folder):
    with pytest.MonkeyPatch.context() as patch:
        faults = Faults(patch, full)
        save(Store(folder))
        return faults.count


def is_whole(folder):
    """The store after a fault: nothing to complain about, no entry half there. Gives the number of its entries."""
    if not folder.exists():  # the fault was before anything
        return 0
    store = Store(folder)
    assert store.verify() == []
    assert all(
        set(entry.manifest["files"]) == {"README.md", "config.json", "inner/weights.bin"}
        for entry in store.entries()
    )
    return len(store.entries())


def test_an_error_at_any_operation_leaves_no_half_entry_and_is_one_line(tmp_path):
    for number in range(1, num_operations(tmp_path / "counted") + 1):
        folder = tmp_path / f"{number}"
        with pytest.MonkeyPatch.context() as patch:
            Faults(patch, full).at = number
            try:
                save(Store(folder))
            except StoreError as problem:
                assert "no space left" in f"{problem}".lower() and "\n" not in f"{problem}", number
        before = is_whole(folder)
        save(Store(folder))
        assert is_whole(folder) == before + 1


def test_a_crash_at_any_operation_leaves_no_half_entry(tmp_path):
    for number in range(1, num_operations(tmp_path / "counted") + 1):
        folder = tmp_path / f"{number}"
        child = os.fork()
        if not child:
            with pytest.MonkeyPatch.context() as patch:
                Faults(patch, lambda: os._exit(9)).at = number
                save(Store(folder))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 9
        before = is_whole(folder)
        save(Store(folder))
        assert is_whole(folder) == before + 1


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True)
    if done.returncode:
        pytest.skip("mounting a small disk needs root")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


SMALL = (
    "--tokens", "8000", "--layers", "1", "--width", "64", "--heads", "2", "--vocab-size", "300", "--set", "threads=1",
)  # fmt: skip


def test_a_full_disk_ends_a_run_with_one_line_and_the_next_one_works(small_disk):
    filler = small_disk / "filler"
    filler.write_bytes(b"0" * 900_000)
    done = rlhf("pretrain", *SMALL, "--store", small_disk / "store")
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert "no space left" in last.lower() and str(small_disk) in last, done.stderr
    assert Store(small_disk / "store").verify() == []
    filler.unlink()
    assert rlhf("pretrain", *SMALL, "--store", small_disk / "store").returncode == 0


@pytest.mark.parametrize("what", ["a file", "a folder that may not be written"])
def test_a_store_that_cannot_be_written_is_one_line(what, tmp_path):
    place = tmp_path / "store"
    if what == "a file":
        place.write_text("")
    else:
        place = Path("/proc/store")  # refuses everybody, root too
    done = rlhf("pretrain", *SMALL, "--store", place)
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("rlhf: error:") and str(place) in last and "Traceback" not in done.stderr
