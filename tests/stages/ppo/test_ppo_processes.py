"""Two real processes train as one: the same numbers and weights as one process at the same batch size."""

import json
import os
import subprocess
import sys

import pytest
import torch

from rlhf.models.checkpoints import load_policy, load_scalar
from tests import forked
from tests.tiny_ppo import PROMPTS, TEXTS, close_histories, ppo_command, tiny_store

SETTINGS = {  # odd sizes, so that shares differ, one minibatch has a single row, and the last iteration is partial
    "episodes": 18, "batch_size": 7, "minibatch_size": 3, "micro_batch_size": 2, "inner_epochs": 2, "ema_decay": 0.9,
    "whiten_rewards": True, "normalize_scores": True, "adaptive_kl": True, "ptx_coef": 0.5, "ptx_examples": 1, "save_every": 1,
}  # fmt: skip
LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"],
    "accelerate": [
        "accelerate.commands.launch",
        "--multi_gpu",  # without it there is one process on a machine without GPUs
        "--num_processes",
        "2",
        "--main_process_port",
        "0",  # a free one
        "-m",
    ],
}


def run(*arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The store with a run of one process, and its arguments."""
    folder = tmp_path_factory.mktemp("processes")
    store = tiny_store(folder / "store")
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": p}) + "\n" for p in PROMPTS))
    (folder / "text.txt").write_text("\n\n".join(TEXTS))
    more = {"prompts": folder / "prompts.jsonl", "ptx_data": folder / "text.txt", **SETTINGS}
    forked.run([sys.executable, "-m", "stages.cli", *ppo_command(store, name="one", **more)], check=True)
    return store, more


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_give_the_numbers_of_one(made, launcher):
    store, more = made
    done = run("-m", *LAUNCHERS[launcher], "stages.cli", *ppo_command(store, name=launcher, **more))
    assert done.stdout.split() == [store.resolve(f"ppo/{launcher}").ref]  # one of them talks
    one, two = store.resolve("ppo/one").path, store.resolve(f"ppo/{launcher}").path
    close_histories(*(json.loads((path / "history.json").read_text()) for path in (one, two)), 1e-4)
    for load, folder in ((load_policy, "."), (load_policy, "ema"), (load_scalar, "value")):
        for a, b in zip(load(one / folder).parameters(), load(two / folder).parameters(), strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    assert store.verify() == [] and not list(store.root.glob(".work/*"))
