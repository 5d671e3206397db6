"""SFT and reward models by launchers and the command line: one entry, one voice, and what one process learns.

tests/stages/ppo/test_ppo_sharding.py compares every way of training number by number.
"""

import json
import os
import subprocess
import sys

import pytest
import torch

from rlhf.errors import InputError
from rlhf.machine import processes
from rlhf.models.checkpoints import load_policy
from rlhf.store import Store
from tests.tiny_ppo import tiny_store

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
LAUNCHERS = {
    "sft": ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
    "reward": [
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes",
        "2",
        "--main_process_port",
        "0",
    ],
}
SMALL = {
    "sft": ["base=sft/tiny", "validation_data={store}/../check.jsonl", "batch_size=4", "epochs=2", "lr=1e-3"],
    "reward": [
        "init={store}/sft/0001-tiny",
        "prompts_per_batch=4",
        "epochs=2",
        "lr=1e-3",
        "validation_fraction=0",
    ],
}


def run(*arguments, status=0):
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=ENVIRONMENT, timeout=900,
    )  # fmt: skip
    assert done.returncode == status, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A store, demonstrations, and rankings by one, two or three labelers, so that processes see unequal numbers."""
    folder = tmp_path_factory.mktemp("trainers")
    tiny_store(folder / "store")
    said = ["Tom has a blue boat.", "one", "The red kite", "no"]
    demonstrations = [{"prompt": f"Say {i}", "completion": said[i % 3]} for i in range(40)]
    check, demonstrations = demonstrations[:4], demonstrations[4:]  # whole batches are left to learn from
    rankings = [
        {"prompt": f"Say {'four' * i}", "completions": said[: 2 + i % 3], "ranks": [0, *(1 + (i + j) % 3 for j in range(1 + i % 3))]}
        for i in range(8) for _ in range(1 + i % 3)
    ]  # fmt: skip
    # In bfloat16 the rounding depends on how the rows are shared out.
    (folder / "float32.py").write_text(
        "import rlhf.machine.devices\nrlhf.machine.devices.has_fast_bf16 = lambda device: False\n"
        "from stages.cli import main\nraise SystemExit(main())\n"
    )
    for name, rows in (("sft", demonstrations), ("check", check), ("reward", rankings)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def every_weight(entry):
    """The trunk's weights in one row: single ones may differ, since Adam makes a step of a gradient that is only rounding."""
    return torch.cat([p.detach().flatten() for p in load_policy(entry.path).base_model.parameters()])


@pytest.mark.slow
@pytest.mark.parametrize("stage", SMALL)
def test_two_processes_end_where_one_ends(place, stage):
    def command(name):
        settings = [*SMALL[stage], f"name={name}", f"data={place / stage}.jsonl"]
        return [
            str(place / "float32.py"),
            stage,
            "--store",
            str(place / "store"),
            *(p for s in settings for p in ("--set", s.format(store=place / "store"))),
        ]

    run(*command("one"))
    said = run(*LAUNCHERS[stage], *command("two"), "--shard", "on")
    store = Store(place / "store")
    assert said.stdout.split() == [store.resolve(f"{stage}/two").ref]  # one of them talks
    one, two = store.resolve(f"{stage}/one"), store.resolve(f"{stage}/two")
    start, a, b = (every_weight(entry) for entry in (store.resolve("sft/tiny"), one, two))

    assert (a - b).norm() < 1e-3 * (a - start).norm()
    losses = [json.loads((entry.path / "history.json").read_text())[-1]["train_loss"] for entry in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert store.verify() == [] and not list(store.root.glob(".work/*"))


def test_accelerate_that_starts_one_process_for_several_is_not_obeyed_in_silence(monkeypatch):
    for name in (
        "MASTER_ADDR",
        "ACCELERATE_DYNAMO_USE_FULLGRAPH",
    ):  # as it leaves them on a machine without GPUs
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(InputError, match="--multi_gpu"):
        processes.join_process_group()
