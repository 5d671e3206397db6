"""The benchmarks that call the inside of the program run: our side of each, at its smallest."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def said(script, *arguments):
    """What a script prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2"}
    command = [sys.executable, f"benchmarks/{script}.py", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("script", ["ppo", "generate", "train"])
def test_our_side_of_a_comparison_is_measured(script):
    found = json.loads(said(script, "--side", "ours", "tiny").strip().splitlines()[-1])
    assert all(value > 0 for name, value in found.items() if name != "shares")
    if script == "ppo":
        assert set(found["shares"]) == {"sample", "judge", "update"} and sum(found["shares"].values()) > 0.9


@pytest.mark.slow
def test_the_gpu_benchmark_runs_dry_on_a_cpu(tmp_path):
    said("gpu", "--out", str(tmp_path / "dry.json"), "--dry-run")
    found = json.loads((tmp_path / "dry.json").read_text())
    assert not [phase for phase in found.values() if "error" in str(phase) or "left out" in str(phase)]
