"""Runs that are killed at random ten times, and gone on with by other numbers of processes, end where one run ends."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.stages.ppo.test_ppo_sharding import ROOT, RUNS, check_weights, children, launched

KILLS, NUMBERS = 10, (1, 2, 3)
LAUNCHER = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
# Many short iterations or epochs, a state after each; batches that one, two and three processes can share.
LONG = {
    "gpt-ema": ('{"episodes": 640, "batch_size": 8, "inner_epochs": 1}', "work/state.pt"),
    "sft-gpt-all": ('{"epochs": 50, "batch_size": 6}', "*/store/.work/*/checkpoint-*/trainer_state.json"),
}


def newest(folder, pattern):
    """When the newest training state was written; 0 where there is none."""
    times = [0.0]
    for path in folder.glob(pattern):
        try:
            times.append(path.stat().st_mtime)
        except FileNotFoundError:  # an old state makes room for a new one
            continue
    return max(times)


def kill_amid(run, folder, pattern, pause, log):
    """Kill a run and all its processes some time after it has saved a state; whether it was still running."""
    before, deadline = newest(folder, pattern), time.monotonic() + 300
    while newest(folder, pattern) <= before and run.poll() is None:
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.05)
    time.sleep(pause)
    if run.poll() is not None:
        return False
    for pid in [*children(run.pid), run.pid]:
        os.kill(pid, 9)
    run.wait()
    return True


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds a launcher's processes in /proc")
@pytest.mark.parametrize("case", LONG)
def test_ten_kills_and_other_numbers_of_processes_change_nothing(case, tmp_path):
    settings, pattern = LONG[case]
    chance = random.Random(24)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "SETTINGS": settings, "WORK": str(tmp_path / "work")}
    killed, used = 0, set()
    log = tmp_path / "log"
    for attempt in range(KILLS):
        number = NUMBERS[attempt % len(NUMBERS)]
        started = [*LAUNCHER, str(number), *RUNS] if number > 1 else RUNS
        command = [sys.executable, *started, str(tmp_path / "cut.pt"), "on" if number > 1 else "off", case]
        with open(log, "a") as file:
            run = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=file)
            killed += kill_amid(run, tmp_path, pattern, chance.uniform(0, 0.5), log)
        used.add(number)
    assert killed == KILLS and len(used) == 3, log.read_text()[-3000:]
    launched(2, tmp_path / "cut.pt", "on", case, SETTINGS=settings, WORK=str(tmp_path / "work"))
    (tmp_path / "whole").mkdir()
    launched(1, tmp_path / "whole/one.pt", "off", case, SETTINGS=settings)
    one, cut = (torch.load(tmp_path / name, weights_only=False)[case] for name in ("whole/one.pt", "cut.pt"))
    assert [row["step"] for row in one[0]] == [row["step"] for row in cut[0]]
    check_weights(one[1], cut[1])
