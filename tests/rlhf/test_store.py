"""Checkpoints: whole or not there, never overwritten, and honest about damage."""

import threading
from dataclasses import dataclass, field

import pytest

from rlhf.errors import StoreError
from rlhf.store import Store, inputs_hash


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
    assert store.find("sft", inputs_hash("sft", {"base": parent}, {"lr": 1}, {}, 0)).ref == child.ref
    assert store.find("sft", inputs_hash("sft", {"base": parent}, {"lr": 2}, {}, 0)) is None


def test_settings_that_decide_nothing_are_in_the_manifest_and_not_in_the_hash(store):
    @dataclass
    class Settings:
        lr: float = 1.0
        rows_at_once: int = field(default=8, metadata={"decides": False})

    with store.new("ppo", "a", parents={}, settings=Settings(), data={}, seed=0):
        pass
    found = store.find("ppo", inputs_hash("ppo", {}, Settings(rows_at_once=1), {}, 0))
    assert found.manifest["settings"] == {"lr": 1.0, "rows_at_once": 8}
    assert store.find("ppo", inputs_hash("ppo", {}, Settings(lr=2.0), {}, 0)) is None


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


def test_writers_at_the_same_time_get_numbers_of_their_own(store):
    threads = [threading.Thread(target=make, args=(store,), kwargs={"name": f"t{i}"}) for i in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    numbers = [entry.path.name.split("-")[0] for entry in store.entries()]
    assert numbers == [f"{i:04d}" for i in range(1, 9)]
