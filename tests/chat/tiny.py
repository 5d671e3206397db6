"""A store of small random models, and the real server over it in a process of its own."""

import contextlib
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import GPT2Config

from rlhf.models.gpt import GPT, ScalarGPT
from rlhf.models.tokenizer import train_tokenizer
from rlhf.store import Store
from tests import forked

TEXTS = ["The red kite is in the park. Tom has a blue boat. Where is the dog? The dog barks."] * 5
TOKENIZER = train_tokenizer(TEXTS, 300)
ROLES = {"sft": {"base": "base"}, "reward": {"init": "sft"}, "ppo": {"policy": "sft", "reward": "reward"}}


def tiny_store(folder, base_context=4096):
    """base, SFT, reward and PPO checkpoints that know their parents; random weights, so answers are babble.

    The base model never ends an answer by itself.
    """
    store, entries = Store(folder), {}
    for seed, stage in enumerate(("base", "sft", "reward", "ppo")):
        torch.manual_seed(seed)
        ends = {"eos_token_id": TOKENIZER.eos_id, "bos_token_id": TOKENIZER.document_end_id}
        config = GPT2Config(
            n_layer=2,
            n_head=2,
            n_embd=32,
            n_positions=512,
            initializer_range=0.3,
            vocab_size=TOKENIZER.vocab_size,
            **ends,
        )
        if stage == "base":
            config.n_positions = base_context
        model = (ScalarGPT if stage == "reward" else GPT)(config)
        if stage == "base":
            with torch.no_grad():
                model.transformer.ln_f.bias.fill_(1.0)
                model.transformer.wte.weight[sorted(TOKENIZER.stop_ids)] = -9.0
        parents = {role: entries[parent] for role, parent in ROLES.get(stage, {}).items()}
        with store.new(stage, "tiny", parents, {}, {"starter words": "0"}, seed) as writer:
            model.save_pretrained(writer.path)
            TOKENIZER.save(writer.path)
        entries[stage] = writer.entry
    return store


@dataclass(frozen=True)
class Serving:
    url: str
    port: int
    process: subprocess.Popen

    def engine_pids(self):
        """Its child processes but multiprocessing's own tracker."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [
            pid for pid in map(int, children) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]


@contextlib.contextmanager
def serving(store, labels, *command, start=forked.Popen):
    """`rlhf COMMAND` over the store until the block ends. start: what its process is made by."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = ["--store", str(store.root), "--labels", str(labels), *command, "--port", str(port)]
    process = start([sys.executable, "-m", "stages.cli", *arguments], stderr=subprocess.PIPE, text=True)
    lines = []
    try:
        for line in process.stderr:
            lines.append(line)
            if f":{port}/" in line:
                break
        else:
            raise AssertionError("".join(lines))
        # a pipe that nobody reads would stop the server some day
        threading.Thread(target=lambda: lines.extend(process.stderr), daemon=True).start()
        yield Serving(f"http://127.0.0.1:{port}", port, process)
    finally:
        process.terminate()
        process.wait(30)
