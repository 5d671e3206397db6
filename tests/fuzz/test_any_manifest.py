"""Whatever stands in a manifest: the store says what is wrong with which entry, and others are there as before."""

import contextlib
import json
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.errors import StoreError
from rlhf.store import Store
from tests.fuzz.examples import ANYTHING, changed, examples


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store of an SFT entry and of a PPO entry made from it, and the latter's manifest."""
    store = Store(tmp_path_factory.mktemp("store"))
    parents = {}
    for stage in ("sft", "ppo"):
        with store.new(stage, "a", parents, {"lr": 1.0}, {"rows": "x"}, 0) as writer:
            (writer.path / "config.json").write_text("{}")
            writer.metrics = {"loss": 1.0}
        parents = {"policy": writer.entry}
    return store, (writer.entry.path / "manifest.json").read_text()


def check(store, content):
    """Every verb of the store with this as the manifest of the PPO entry."""
    path = store.root / "ppo" / "0001-a" / "manifest.json"
    path.write_bytes(content)
    for verb in (
        store.entries, lambda: store.resolve("ppo"), lambda: store.resolve("ppo/a"), lambda: store.find("ppo", parents={}, settings={}, data={}, seed=0),
        lambda: store.remove("sft"),
    ):  # fmt: skip
        with contextlib.suppress(StoreError):
            verb()
            if not (store.root / "sft" / "0001-a").exists():  # its child no longer names it
                shutil.copytree(store.root / "kept", store.root / "sft" / "0001-a")
    assert store.resolve("sft").ref == store.resolve("sft/0001-a").ref == "sft/0001-a"
    assert any(line.startswith("ppo/0001-a: ") for line in store.verify())


@pytest.fixture(scope="module", autouse=True)
def kept(made):
    shutil.copytree(made[0].root / "sft" / "0001-a", made[0].root / "kept")


@examples(200)
@given(st.data())
def test_any_manifest_is_read_or_refused_and_never_passes_for_the_true_one(made, data):
    store, true = made
    new = data.draw(changed(json.loads(true)))
    if new != json.loads(true):
        check(store, json.dumps(new).encode("utf-8", "surrogatepass"))


@examples(60)
@given(st.binary(max_size=40) | ANYTHING.map(lambda value: json.dumps(value).encode()))
def test_what_is_no_manifest_at_all_is_refused(made, content):
    check(made[0], content)
