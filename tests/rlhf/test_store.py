"""Checkpoints: whole or not there, never overwritten, and honest about damage."""

import contextlib
import errno
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
from dataclasses import dataclass, field

import pytest

from rlhf.errors import StoreError
from rlhf.store import Store


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def make(store, stage="base", name="a", parents=None, text="weights", **settings):
    with store.new(stage, name, parents=parents or {}, settings=settings, data={}, seed=0) as writer:
        (writer.path / "model.bin").write_text(text)
        writer.metrics = {"loss": 1.5}
    return writer.entry


def test_what_was_written_can_be_found_by_every_name(store):
    first, second = make(store), make(store, name="b")
    assert [entry.ref for entry in store.entries()] == ["base/0001-a", "base/0002-b"]
    for name, expected in (
        ("base", second),
        ("base:latest", second),
        ("base/a", first),
        ("base/0001-a", first),
    ):
        assert store.resolve(name).ref == expected.ref
    assert store.resolve("base/a").manifest["metrics"] == {"loss": 1.5}


def test_a_number_and_name_means_the_entry_at_that_place_whatever_others_are_called(store):
    first, other = make(store, name="a"), make(store, name="0001-a")
    assert store.resolve("base/0001-a").ref == store.at("base/0001-a").ref == first.ref
    assert store.resolve("base/0002-0001-a").ref == other.ref
    assert store.remove("base/0001-a").ref == first.ref
    with pytest.raises(StoreError, match="base/0001-a"):
        store.at("base/0001-a")


def test_a_new_entry_of_the_same_name_leaves_the_old_one(store):
    make(store, text="old")
    make(store, text="new")
    assert (store.resolve("base/0001-a").path / "model.bin").read_text() == "old"
    assert (store.resolve("base/a").path / "model.bin").read_text() == "new"


def test_a_failed_block_leaves_nothing(store):
    with (
        pytest.raises(ZeroDivisionError),
        store.new("base", "a", parents={}, settings={}, data={}, seed=0) as writer,
    ):
        (writer.path / "model.bin").write_text("half")
        _ = 1 / 0
    assert store.entries() == [] and not list(store.root.glob(".tmp-*"))


def test_same_inputs_are_found_again_and_others_are_not(store):
    parent = make(store)
    child = make(store, "sft", parents={"base": parent}, lr=1)
    inputs = {"parents": {"base": parent}, "data": {}, "seed": 0}
    assert store.find("sft", **inputs, settings={"lr": 1}).ref == child.ref
    assert store.find("sft", **inputs, settings={"lr": 2}) is None


def test_settings_that_decide_nothing_are_in_the_manifest_and_not_in_the_hash(store):
    @dataclass
    class Settings:
        lr: float = 1.0
        rows_at_once: int = field(default=8, metadata={"decides": False})

    with store.new("ppo", "a", parents={}, settings=Settings(), data={}, seed=0):
        pass
    inputs = {"parents": {}, "data": {}, "seed": 0}
    found = store.find("ppo", **inputs, settings=Settings(rows_at_once=1))
    assert found.manifest["settings"] == {"lr": 1.0, "rows_at_once": 8}
    assert store.find("ppo", **inputs, settings=Settings(lr=2.0)) is None


@dataclass
class Placed:
    lr: float = 1.0
    data: str = field(default="here/a.jsonl", metadata={"place": True})
    validation_data: str | None = field(default=None, metadata={"place": True})


@pytest.mark.parametrize(
    ("settings", "data", "same"),
    [
        (Placed(data="there/a.jsonl"), {"there/a.jsonl": "1"}, True),
        (Placed(data="there/a.jsonl"), {"there/a.jsonl": "2"}, False),
        (Placed(data="there/a.jsonl", lr=2.0), {"there/a.jsonl": "1"}, False),
        (Placed(data="a", validation_data="b"), {"a": "1"}, False),
    ],
)
def test_what_was_made_from_the_same_content_is_found_wherever_it_lies_now(store, settings, data, same):
    with store.new("sft", "a", parents={}, settings=Placed(), data={"here/a.jsonl": "1"}, seed=0):
        pass
    assert (store.find("sft", parents={}, settings=settings, data=data, seed=0) is not None) == same


def test_another_user_may_read_what_the_rights_of_new_files_allow(store, tmp_path):
    with store.new("base", "a", parents={}, settings={}, data={}, seed=0) as writer:
        (writer.path / "inner").mkdir()
        for name in ("model.safetensors", "inner/model.safetensors"):
            (writer.path / name).touch(0o600)
    store.export("base", tmp_path / "out")
    (tmp_path / "usual").touch()
    for folder in (store.resolve("base").path, tmp_path / "out"):
        rights = {path.stat().st_mode for path in folder.rglob("*") if path.is_file()}
        assert rights == {(tmp_path / "usual").stat().st_mode}


def test_verify_names_damaged_missing_and_added_files(store):
    for name in "abc":
        make(store, name=name)
    (store.resolve("base/a").path / "model.bin").write_text("bent")
    (store.resolve("base/b").path / "model.bin").unlink()
    (store.resolve("base/c").path / "extra").write_text("")
    problems = store.verify()
    assert len(problems) == 3
    assert "damaged" in problems[0] and "missing" in problems[1] and "added" in problems[2]
    assert all("base/000" in line for line in problems)


def test_a_damaged_manifest_is_named_in_one_line(store):
    path = make(store).path / "manifest.json"
    path.write_text("{")
    with pytest.raises(StoreError, match=r"manifest\.json") as caught:
        store.entries()
    assert "\n" not in str(caught.value)


def test_an_unknown_reference_says_what_there_is(store):
    make(store)
    with pytest.raises(StoreError, match="base/0001-a"):
        store.resolve("base/other")


def test_a_parent_is_not_removed_under_its_children(store):
    parent = make(store)
    make(store, "sft", parents={"base": parent})
    with pytest.raises(StoreError, match="sft/0001-a"):
        store.remove("base")
    store.remove("sft")
    store.remove("base")
    assert store.entries() == []


def test_export_copies_to_a_new_folder_only(store, tmp_path):
    make(store)
    store.export("base", tmp_path / "out")
    assert (tmp_path / "out/model.bin").read_text() == "weights"
    with pytest.raises(StoreError, match="exists"):
        store.export("base", tmp_path / "out")


def test_an_export_that_fails_leaves_nothing_and_names_its_own_place(store, tmp_path):
    make(store)

    def fail(folder):
        assert (folder / "model.bin").read_text() == "weights"
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(StoreError, match=f"{tmp_path / 'out'}: no space left"):
        store.export("base", tmp_path / "out", fail)
    assert list(tmp_path.iterdir()) == [store.root]
    with pytest.raises(StoreError, match="x: this name is too long for its disk"):
        store.export("base", tmp_path / ("x" * 300))
    store.export("base", tmp_path / ("x" * 250))
    for inside in (store.root / "base/0002-b", store.resolve("base").path / "copy"):
        with pytest.raises(StoreError, match="among the store's entries"):
            store.export("base", inside)


WRITES = """
import sys
from rlhf.store import Store
with Store(sys.argv[1]).new("base", "a", {}, {}, {}, 0) as writer:
    (writer.path / "model.bin").write_text("weights")
    print("writing", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("elsewhere", [False, True])
def test_verify_leaves_what_another_process_writes_and_removes_what_a_killed_one_left(store, elsewhere):
    command = [sys.executable, "-c", WRITES, store.root]
    if elsewhere:  # another container: its process has a number of its own there, and none here
        command = ["unshare", "--pid", "--fork", *command]
        if subprocess.run(["unshare", "--pid", "--fork", "true"], capture_output=True).returncode:
            pytest.skip("a container of its own needs root")
    writers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2)]
    assert all(writer.stdout.readline() == b"writing\n" for writer in writers)
    for name in (".tmp-foo", ".tmp-99999999999999999999-x"):
        (store.root / name).mkdir()
    if not elsewhere:
        writers[1].kill()
        writers[1].wait()
    assert store.verify() == []
    for writer in writers:
        writer.communicate(b"")
    assert len(store.entries()) == 1 + elsewhere
    assert sorted(path.name for path in store.root.glob(".tmp-*")) == [
        ".tmp-99999999999999999999-x",
        ".tmp-foo",
    ]


def test_a_store_that_is_not_there_is_not_verified(tmp_path):
    with pytest.raises(StoreError, match="typo"):
        Store(tmp_path / "typo").verify()


@pytest.mark.parametrize("name", ["my model", "größe", "../x", "", "a" * 300])
def test_a_name_that_cannot_be_is_refused(store, name):
    with pytest.raises(StoreError, match="letters, digits"):
        make(store, name=name)


def test_writers_at_the_same_time_get_numbers_of_their_own(store):
    threads = [threading.Thread(target=make, args=(store,), kwargs={"name": f"t{i}"}) for i in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    numbers = [entry.path.name.split("-")[0] for entry in store.entries()]
    assert numbers == [f"{i:04d}" for i in range(1, 9)]


def test_a_removed_entrys_number_is_not_given_again(store):
    make(store)
    make(store)
    store.remove("base")
    assert make(store).ref == "base/0003-a"


@pytest.mark.parametrize("field", ["metrics", "parents", "settings", "manifest_hash"])
def test_verify_names_an_edited_manifest(store, field):
    path = make(store).path / "manifest.json"
    assert store.verify() == []
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {field: {"loss": 0.1}}))
    assert ["edited" in line and "base/0001-a" in line for line in store.verify()] == [True]


HOLDS = """
import fcntl, sys
handle = open(sys.argv[1], "a+")
getattr(fcntl, sys.argv[2])(handle, fcntl.LOCK_EX)
handle.write("4711\\n")
handle.flush()
print("held", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def held_by_another_process(path, lock):
    path.parent.mkdir(parents=True, exist_ok=True)
    other = subprocess.Popen(
        [sys.executable, "-c", HOLDS, path, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout.readline() == b"held\n"
    try:
        yield
    finally:
        other.communicate(b"")


def test_a_lock_that_is_not_given_back_ends_in_one_line(store, monkeypatch):
    monkeypatch.setattr("rlhf.store.LOCK_PATIENCE_S", 0.1)
    with held_by_another_process(store.root / ".lock", "flock"):
        with pytest.raises(StoreError, match="another process") as caught:
            make(store)
        assert "\n" not in str(caught.value) and store.entries() == []
    assert make(store).ref == "base/0001-a"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP])
def test_a_disk_without_locks_is_named_in_one_line(store, number, monkeypatch):
    def without(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("rlhf.durable.fcntl.flock", without)
    monkeypatch.setattr("rlhf.durable.fcntl.lockf", without)
    for write in (lambda: make(store), lambda: store.work_folder("sft", "a" * 64)):
        with pytest.raises(
            StoreError, match=f"{store.root}.*has no file locks.*another disk|disk that has"
        ) as caught:
            write()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EBADF])
def test_a_file_system_that_syncs_no_folders_keeps_entries(store, number, monkeypatch):
    fsync = os.fsync

    def of_files(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(handle)

    monkeypatch.setattr("rlhf.durable.os.fsync", of_files)
    assert make(store).ref == "base/0001-a" and store.verify() == []
    monkeypatch.setattr("rlhf.durable.os.fsync", lambda handle: (_ for _ in ()).throw(OSError(number, "no")))
    with pytest.raises(OSError, match="no"):
        make(store, name="b")


def test_a_copy_beside_an_entry_is_none(store):
    first, second = make(store, "sft"), make(store, "sft", text="more")
    for copy in ("0002-a.bak", "0002-a copy"):
        shutil.copytree(second.path, second.path.with_name(copy))
    assert [entry.ref for entry in store.entries()] == [first.ref, second.ref]
    assert store.resolve("sft").path == second.path and not store.has("sft/a.bak")
    assert store.verify("sft") == []
    problems = sorted(store.verify())
    assert [line.split(": ")[0] for line in problems] == ["sft/0002-a copy", "sft/0002-a.bak"]
    assert all("a copy that nothing uses" in line for line in problems)


def test_an_entry_that_was_called_otherwise_by_hand_stays_one(store):
    make(store, "sft")
    (store.root / "sft/0001-a").rename(store.root / "sft/0001-best")
    assert store.resolve("sft/best").ref == "sft/0001-best" and store.verify() == []


def test_a_file_is_no_store(tmp_path):
    (tmp_path / "file").write_text("x")
    for ask in (
        Store.entries,
        lambda store: store.resolve("sft"),
        lambda store: store.find("sft", parents={}, settings={}, data={}, seed=0),
    ):
        with pytest.raises(StoreError, match=r"file: a file, and no checkpoint store"):
            ask(Store(tmp_path / "file"))


def test_two_processes_do_not_share_a_work_folder(store):
    folder = store.work_folder("sft", "a" * 64)
    assert store.work_folder("sft", "a" * 64) == folder, "the same process may go on with its own"
    other = store.root / ".work" / f"sft-{'b' * 16}"
    with (
        held_by_another_process(other / ".holder", "lockf"),
        pytest.raises(StoreError, match="process 4711 is at the same run"),
    ):
        store.work_folder("sft", "b" * 64)
    assert store.work_folder("sft", "b" * 64) == other, "a process that ended holds nothing"


def test_a_run_that_saved_nothing_has_nothing_to_resume(store):
    store.work_folder("sft", "a" * 64)
    with pytest.raises(StoreError, match="--resume"):
        Store(store.root, resume_only=True).work_folder("sft", "a" * 64)
