"""A store of small random models, and the real server over it in a process of its own."""

import contextlib
import re
import subprocess
import sys
import threading

import pytest
import torch
from transformers import GPT2Config

from rlhf.model import GPT, ScalarGPT
from rlhf.store import Store
from rlhf.tokenizer import train_tokenizer

TEXTS = ["The red kite is in the park. Tom has a blue boat. Where is the dog? The dog barks."] * 5


@pytest.fixture(scope="session")
def chat_tokenizer():
    return train_tokenizer(TEXTS, 300)


@pytest.fixture(scope="session")
def chat_store(tmp_path_factory, chat_tokenizer):
    """base, SFT, reward and PPO checkpoints that know their parents; random weights, so answers are babble."""
    store = Store(tmp_path_factory.mktemp("chat") / "store")
    parents = {}
    roles = {"sft": {"base": "base"}, "reward": {"init": "sft"}, "ppo": {"policy": "sft", "reward": "reward"}}
    for seed, stage in enumerate(("base", "sft", "reward", "ppo")):
        torch.manual_seed(seed)
        config = GPT2Config(
            n_layer=2,
            n_head=2,
            n_embd=32,
            n_positions=512,
            initializer_range=0.3,
            vocab_size=chat_tokenizer.vocab_size,
        )
        model = (ScalarGPT if stage == "reward" else GPT)(config)
        mine = {role: parents[parent] for role, parent in roles.get(stage, {}).items()}
        with store.new(stage, "tiny", mine, {}, {"starter words": "0"}, seed) as writer:
            model.save_pretrained(writer.path)
            chat_tokenizer.save(writer.path)
        parents[stage] = writer.entry
    return store


@contextlib.contextmanager
def serving(store, labels, *command):
    """`rlhf COMMAND` over the store until the block ends; yields its address. What it says is in `.lines`."""
    arguments = [
        "-m",
        "stages.cli",
        "--store",
        str(store.root),
        "--labels",
        str(labels),
        *command,
        "--port",
        "0",
    ]
    process = subprocess.Popen([sys.executable, *arguments], stderr=subprocess.PIPE, text=True)
    lines = []
    try:
        for line in process.stderr:
            lines.append(line)
            if found := re.search(r"(http://\S+?)/ ", line):
                break
        else:
            raise AssertionError("".join(lines))
        # a pipe that nobody reads would stop the server some day
        threading.Thread(target=lambda: lines.extend(process.stderr), daemon=True).start()
        yield found.group(1)
    finally:
        process.terminate()
        process.wait(30)
