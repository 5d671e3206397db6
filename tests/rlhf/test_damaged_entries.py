"""An entry whose manifest is damaged: it is named, and others are found as before."""

import json

import pytest

from annotate.chat.checkpoints import Checkpoints
from rlhf.errors import StoreError
from rlhf.store import Store
from stages.labeling.live import Sampler
from stages.talk.conversation import Models


@pytest.fixture
def store(tmp_path):
    made = Store(tmp_path / "store")
    for name in ("a", "b", "c"):
        with made.new("sft", name, {}, {}, {}, 0) as writer:
            (writer.path / "config.json").write_text("{}")
    return made


def damage(store, place, content):
    (store.root / "sft" / place / "manifest.json").write_text(content)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", "null", '{"files": 3}', "[" * 100_000, '{"hash": "x", "files": {}}']
)
def test_others_are_found_while_one_is_damaged(store, content):
    damage(store, "0002-b", content)
    assert [store.resolve(name).name for name in ("sft", "sft:latest", "sft/a", "sft/0003-c")] == [
        "c",
        "c",
        "a",
        "c",
    ]
    for name in ("sft/b", "sft/0002-b"):
        with pytest.raises(StoreError, match=r"0002-b.*missing or damaged; restore it or remove"):
            store.resolve(name)


def test_lists_of_what_can_be_talked_to_name_the_damaged_one_once_and_leave_it_out(store, capsys):
    damage(store, "0002-b", "{")
    said = []
    others = ["sft/0001-a", "sft/0003-c"]
    assert Models(store, "float32").names() == others
    assert "0002-b" in capsys.readouterr().err
    assert Sampler(store, "labels.db", said.append).checkpoints() == others[::-1]
    assert len(said) == 1 and "0002-b" in said[0]
    checkpoints = Checkpoints(store)
    for _ in range(2):
        assert [found.name for found in checkpoints.all()] == others[::-1]
    assert capsys.readouterr().err.count("left out") == 1
    assert checkpoints.named("sft/a").name == "sft/0001-a"
    with pytest.raises(StoreError, match="restore it or remove"):
        checkpoints.named("sft/b")


def test_the_latest_is_never_an_older_one_because_the_newest_is_damaged(store):
    damage(store, "0003-c", "{")
    with pytest.raises(StoreError, match="0003-c"):
        store.resolve("sft")


def test_verify_names_every_damaged_entry(store):
    damage(store, "0001-a", "{")
    manifest = json.loads((store.root / "sft" / "0003-c" / "manifest.json").read_text())
    damage(store, "0003-c", json.dumps(manifest | {"parents": {"base": "base/0001-x"}}))
    problems = store.verify()
    assert [line.split(": ")[0] for line in problems] == ["sft/0001-a", "sft/0003-c"]


def test_what_is_no_entry_is_not_counted_and_ten_thousand_come_after_nine(store):
    (store.root / "sft" / "1x-notes").mkdir()
    (store.root / "sft" / "0003-c").rename(store.root / "sft" / "9999-c")
    (store.root / "sft" / ".last-number").write_text("9999\n")
    with store.new("sft", "d", {}, {}, {}, 0) as writer:
        pass
    assert writer.entry.path.name == "10000-d" and store.resolve("sft").name == "d"
    assert [entry.name for entry in store.entries("sft")] == ["a", "b", "c", "d"]


def test_an_entry_that_is_removed_while_others_are_read_is_none(store, monkeypatch):
    gone = store.resolve("sft/b").path
    paths = store._paths
    monkeypatch.setattr(
        store, "_paths", lambda stage: [*paths(stage), gone] if stage == gone.parent.name else paths(stage)
    )
    store.remove("sft/b")
    said = []
    assert [entry.name for entry in store.entries(damaged=said.append)] == ["a", "c"] and not said
    assert store.find("sft", parents={}, settings={"x": 1}, data={}, seed=0) is None


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"\x00" * 4, b"", b"7.5", b"-1"])
def test_a_damaged_highest_number_loses_no_new_entry(store, content):
    (store.root / "sft" / ".last-number").write_bytes(content)
    with store.new("sft", "d", {}, {}, {}, 0) as writer:
        pass
    assert writer.entry.ref == "sft/0004-d"
