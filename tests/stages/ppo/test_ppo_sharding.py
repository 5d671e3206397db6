"""Two and four real processes, each with its part of the weights, learn what one process learns."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from rlhf.errors import InputError
from rlhf.machine import kernels
from rlhf.sharding import is_wanted
from tests import sharded_trainers
from tests.forked import run_together
from tests.sharded_ppo import CASES, SIZES
from tests.tiny_ppo import close_histories, config, trainer

ROOT = Path(__file__).parents[3]
CORE = ["gpt-ptx", "llama-lora", "sft-gpt-all", "sft-llama-lora", "reward-llama-all", "reward-gpt-last"]


RUNS = ["-m", "tests.sharded_ppo"]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def launched(number, *arguments, **environment):
    """tests/sharded_ppo.py in `number` processes."""
    run_together(number, [sys.executable, *RUNS, *map(str, arguments)], **environment)


def check_same(one, several, episodes=SIZES["episodes"]):
    """Two files of results tell the same within rounding."""
    one, several = (torch.load(file, weights_only=False) for file in (one, several))
    assert one.keys() == several.keys()
    for case in one:
        (history, weights), (other_history, other_weights) = one[case], several[case]
        if case.endswith(
            "lora"
        ):  # one process that splits a minibatch otherwise moves this norm by up to 3e-4
            norms = [
                [row.pop(name) for row in rows for name in ("policy/grad_norm", "grad_norm") if name in row]
                for rows in (history, other_history)
            ]
            assert norms[0] == pytest.approx(norms[1], rel=1e-3)
        close_histories(history, other_history, 2e-5)
        assert history[-1].get("episodes", episodes) == episodes
        # Muon makes steps of a gradient's smallest directions, rounding among them: 1e-4 at a learning rate of 0.01.
        check_weights(weights, other_weights, 1e-3 if case.endswith("muon") else 1e-5)


def check_weights(weights, others, atol=1e-5):
    """Weights of the folders that two runs left, by folder."""
    assert weights.keys() == others.keys()
    for folder in weights:
        assert weights[folder].keys() == others[folder].keys()
        for name, value in weights[folder].items():
            torch.testing.assert_close(value, others[folder][name], atol=atol, rtol=1e-4)


def check(number, cases, folder):
    launched(1, folder / "one.pt", "off", *cases)
    launched(number, folder / "several.pt", "on", *cases)
    check_same(folder / "one.pt", folder / "several.pt")


def test_two_processes_with_half_of_the_weights_each_learn_what_one_learns(tmp_path):
    check(2, CORE, tmp_path)


def test_two_processes_share_models_whose_frozen_weights_are_in_bfloat16(tmp_path):
    one, two = tmp_path / "one.pt", tmp_path / "two.pt"
    for number, out, shard in ((1, one, "off"), (2, two, "on")):
        launched(number, out, shard, "llama-all", SETTINGS='{"bf16": "on"}')
    histories = [torch.load(out, weights_only=False)["llama-all"][0] for out in (one, two)]
    close_histories(*histories, 1e-3)  # of bfloat16, which rounds other parts of a minibatch otherwise


@pytest.mark.slow
@pytest.mark.parametrize("number", [2, 4])
def test_every_way_of_training_is_equal_by_any_number_of_processes(number, tmp_path):
    check(number, CASES + sharded_trainers.CASES, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("others", [1, 3])
def test_a_run_of_two_processes_is_gone_on_with_by_another_number(others, tmp_path):
    case = "gpt-ema"
    launched(1, tmp_path / "one.pt", "off", case)
    launched(2, tmp_path / "none.pt", "on", case, WORK=str(tmp_path / "work"), STOP_AT="1")
    launched(others, tmp_path / "rest.pt", "off" if others == 1 else "on", case, WORK=str(tmp_path / "work"))
    check_same(tmp_path / "one.pt", tmp_path / "rest.pt")
    assert not (tmp_path / "none.pt").exists()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs POSIX signals")
def test_who_waits_for_a_process_that_gives_no_sign_ends_with_the_reason(tmp_path):
    """A stopped process keeps its connections, as one behind a cut cable does."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DEAD_AFTER_S": "6", "WORK": str(tmp_path / "work")}
    log = tmp_path / "log"
    with open(log, "w") as file:
        run = subprocess.Popen(
            [sys.executable, *TORCHRUN, *RUNS, tmp_path / "out.pt", "on", *["gpt-all"] * 4],
            cwd=ROOT,
            env=environment,
            stdout=file,
            stderr=file,
        )
        try:
            deadline = time.monotonic() + 120
            while not (tmp_path / "work/state.pt").exists() and time.monotonic() < deadline:
                time.sleep(0.2)
            stopped = max(children(run.pid))
            os.kill(stopped, signal.SIGSTOP)
            began = time.monotonic()
            while "no sign of life" not in log.read_text() and time.monotonic() - began < 60:
                time.sleep(0.2)
            assert "process 1 has given no sign of life for 6 s" in log.read_text()
            os.kill(stopped, signal.SIGCONT)
            assert run.wait(60) != 0
        finally:
            run.kill()


def children(pid):
    """The processes that a launcher started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_one_process_has_nobody_to_share_with():
    with pytest.raises(InputError, match="shard = on"):
        trainer(config(shard="on"))
    assert not is_wanted("auto", 2**60) and not is_wanted("off", 2**60)


@pytest.mark.parametrize("engine", ["FSDP", "DEEPSPEED"])
def test_a_launchers_sharding_that_ppo_would_not_obey_is_refused(engine, monkeypatch):
    monkeypatch.setenv(f"ACCELERATE_USE_{engine}", "true")
    with pytest.raises(InputError, match="divides the weights by itself"):
        trainer()


def test_the_loops_take_plain_tensors_with_memory_only():
    class Other(torch.Tensor):
        pass

    freed = torch.ones(4, 4)
    assert kernels.fits(freed, torch.nn.Parameter(torch.ones(2)), torch.empty(0, 3))
    assert not kernels.fits(torch.ones(4).as_subclass(Other))
    freed.untyped_storage().resize_(0)
    assert not kernels.fits(freed)
