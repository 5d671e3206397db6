"""Every target of the Makefile can be read and names commands."""

import re
import subprocess
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
