"""kill -9 during PPO at random moments, then the same command again: the end must be that of an undisturbed run."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

from rlhf.models.checkpoints import load_policy
from stages import reward, sft
from stages.settings import RewardSettings, SFTSettings

NUM_KILLS = 5


def one_core():
    """Runs in processes of their own measure the machine by themselves; on one core they all find one thread."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def ppo(store, name):
    settings = [
        "episodes=320",
        "batch_size=16",
        "minibatch_size=8",
        "max_new_tokens=12",
        "save_every=1",
        f"name={name}",
    ]
    command = [sys.executable, "-m", "stages.cli", "ppo", "--store", str(store.root)]
    arguments = [part for setting in settings for part in ("--set", setting)]
    return subprocess.Popen(
        [*command, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=one_core
    )


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_a_run_killed_five_times_ends_bit_for_bit_like_an_undisturbed_one(base_store, tmp_path):
    sft.run(SFTSettings(num_demonstrations=40, epochs=1.0, name="kill"), base_store, lambda line: None)
    ranked = {"completions": ["Red.", "No.", "Blue"], "ranks": [0, 2, 1]}
    rows = [json.dumps({"prompt": f"q{i}", **ranked}) for i in range(12)]
    (tmp_path / "r.jsonl").write_text("\n".join(rows))
    settings = RewardSettings(data=str(tmp_path / "r.jsonl"), prompts_per_batch=4, name="kill")
    reward.run(settings, base_store, say=lambda line: None)
    assert ppo(base_store, "whole").wait() == 0
    rng, kills = random.Random(3), 0
    while kills < NUM_KILLS:
        process = ppo(base_store, "killed")
        saved = len(list(base_store.root.glob(".work/ppo-*/state.pt")))
        started = time.monotonic()
        while process.poll() is None and time.monotonic() - started < 60:
            if len(list(base_store.root.glob(".work/ppo-*/state.pt"))) > saved or (
                saved and time.monotonic() - started > 4
            ):
                break
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 1.0))
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    assert kills > 0
    assert ppo(base_store, "killed").wait() == 0
    one, other = (
        load_policy(base_store.resolve(f"ppo/{name}").path).state_dict() for name in ("whole", "killed")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert base_store.verify() == []
