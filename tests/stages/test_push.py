"""A checkpoint goes to the hub in one commit with its card, over the hub's protocol, and opens from there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from rlhf.model_card import model_card
from rlhf.store import Store
from stages.push import _files
from tests.hub_server import serve

ROOT = Path(__file__).parents[2]


@pytest.fixture
def pushed(base_store, tmp_path):
    """push(*arguments, token=…): the command in a process that knows our server as the hub."""
    with serve(tmp_path / "hub") as url:

        def push(*arguments, token="secret", code=None):
            environment = os.environ | {
                "HF_ENDPOINT": url, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": token, "HF_HOME": str(tmp_path / "home"),
                "HF_HUB_OFFLINE": "0", "PYTHONPATH": str(ROOT),
            }  # fmt: skip
            command = ["-c", code] if code else ["-m", "stages.cli", "push", *arguments, "--store", str(base_store.root)]  # fmt: skip
            return subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True)

        push.folder = tmp_path / "hub/models"
        yield push


def test_a_checkpoint_is_pushed_whole_and_opens_from_there(base_store, pushed):
    done = pushed("base", "ann/tiny")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("/ann/tiny/commit/0123456789abcdef0123456789abcdef01234567")
    entry = base_store.resolve("base")
    there = {f"{p.relative_to(pushed.folder / 'ann/tiny')}" for p in (pushed.folder / "ann/tiny").rglob("*") if p.is_file()}  # fmt: skip
    assert there == set(entry.manifest["files"]) and "manifest.json" not in there
    for name in there:
        assert (pushed.folder / "ann/tiny" / name).read_bytes() == (entry.path / name).read_bytes()
    code = "from transformers import AutoModelForCausalLM as M; print(M.from_pretrained('ann/tiny').config.n_layer)"
    opened = pushed(code=code)
    assert opened.stdout.strip() == "2", opened.stderr


def test_what_an_earlier_push_left_goes_and_what_people_put_there_stays(tmp_path, base_store, pushed):
    folder = pushed.folder / "ann/tiny"
    (folder / "adapter").mkdir(parents=True)
    stale = (
        "model.safetensors.index.json",
        "pytorch_model.bin",
        "template_kwargs.json",
        "adapter/trunk.json",
    )
    own = (".gitattributes", "LICENSE", "figure.png", "small.gguf")
    for name in (*stale, *own, "config.json"):
        (folder / name).write_text("old")
    done = pushed("base", "ann/tiny")
    assert done.returncode == 0, done.stderr
    there = {f"{path.relative_to(folder)}" for path in folder.rglob("*") if path.is_file()}
    assert there == set(base_store.resolve("base").manifest["files"]) | set(own)
    assert all(name in done.stderr for name in stale) and (folder / "config.json").read_text() != "old"


def test_a_public_repository_is_not_taken_for_a_private_one(pushed):
    (pushed.folder / "ann/open").mkdir(parents=True)
    refused = pushed("base", "ann/open", "--private")
    assert refused.returncode == 2 and "ann/open: it is there and public" in refused.stderr
    assert not list((pushed.folder / "ann/open").iterdir())


def test_what_people_wrote_stays_here(tmp_path):
    with Store(tmp_path).new("sft", "mine", {}, {}, {}, 0) as writer:
        for name in ("config.json", "demonstrations.json", "samples.jsonl", "state/state.pt"):
            (writer.path / name).parent.mkdir(exist_ok=True)
            (writer.path / name).write_text("[]")
    assert [name for name, _ in _files(writer.entry)] == ["README.md", "config.json"]


def test_without_a_network_one_line_says_so(base_store):
    for where, said in (
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE forbids the network"),
        ({"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}, "the hub cannot be reached"),
    ):
        environment = os.environ | {"HF_TOKEN": "secret", "PYTHONPATH": str(ROOT)} | where
        command = [
            sys.executable,
            "-m",
            "stages.cli",
            "push",
            "base",
            "ann/tiny",
            "--store",
            str(base_store.root),
        ]
        refused = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert refused.returncode == 2 and refused.stderr.count("\n") == 1, refused.stderr
        assert f"ann/tiny: {said}" in refused.stderr and "auth login" not in refused.stderr


def test_without_a_token_that_the_hub_takes_one_line_says_so(pushed):
    refused = pushed("base", "ann/tiny", token="wrong")
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
    assert "ann/tiny: the hub refused" in refused.stderr and not (pushed.folder / "ann").exists()
    named = pushed("base", "not a name")
    assert named.returncode == 2 and named.stderr.count("\n") == 1


def test_every_entry_has_a_card_that_the_hub_reads(base_store):
    card = ModelCard.load(base_store.resolve("base").path / "README.md")
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "text-generation")
    assert card.data.tags == ["rlhf", "base"] and "validation_loss" in card.text
    assert base_store.verify("base") == []


def test_a_card_names_hub_models_and_sets_and_no_folder_of_this_machine(tmp_path):
    settings = {
        "base": "google/gemma-3-270m",
        "data": "HuggingFaceH4/no_robots:train, /home/ann/secret/own.jsonl",
        "prompts": "/home/ann/a.jsonl,/home/ann/b.jsonl",
    }
    data = {"/home/ann/secret/own.jsonl": "ab12", "train/x.jsonl": "cd34", "test/x.jsonl": "ef56"}
    store = Store(tmp_path)
    with store.new("sft", "mine", {}, settings, data, 3) as writer:
        (writer.path / "config.json").write_text("{}")
        writer.metrics = {"loss": 1.5, "train_s": 99.0, "note": "a | b `c`\nd"}
    text = (writer.entry.path / "README.md").read_text()
    card = ModelCard(text)
    assert card.data.base_model == "google/gemma-3-270m" and card.data.datasets == ["HuggingFaceH4/no_robots"]
    assert "/home/ann" not in text and "train_s" not in text and "`a / b 'c' d`" in text
    assert "`a.jsonl,b.jsonl`" in text and "`HuggingFaceH4/no_robots:train,own.jsonl`" in text
    assert all(f"| `x.jsonl` | `{found}` |" in text for found in ("cd34", "ef56"))
    assert model_card(json.loads((writer.entry.path / "manifest.json").read_text())) == text
