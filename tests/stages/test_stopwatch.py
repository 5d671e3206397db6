"""The seconds of a stage are those of all its parts, whether it was stopped or killed in between."""

import os
import signal
import subprocess
import sys
import time

import pytest

from rlhf.store import Store, StoreError
from stages import stopwatch
from stages.stopwatch import Stopwatch


def test_it_goes_on_from_what_a_stopped_run_had_counted(tmp_path):
    with pytest.raises(KeyboardInterrupt), Stopwatch(tmp_path) as first:
        first.started -= 100  # as if it had been at work so long
        raise KeyboardInterrupt
    with Stopwatch(tmp_path) as second:
        assert 100 <= second.seconds < 105


def test_a_killed_run_loses_no_more_than_one_interval(tmp_path):
    program = (
        "import time; from pathlib import Path; from stages import stopwatch\n"
        "stopwatch.KEEP_EVERY_S = 0.05\n"
        f"watch = stopwatch.Stopwatch(Path({str(tmp_path)!r})); watch.started -= 50\n"
        "with watch: time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", program])
    until = time.monotonic() + 60
    while not (tmp_path / stopwatch.FILE).exists() and time.monotonic() < until:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert Stopwatch(tmp_path).seconds >= 50


def test_what_cannot_be_read_counts_from_nothing(tmp_path):
    (tmp_path / stopwatch.FILE).write_text("1,5 minutes")
    assert Stopwatch(tmp_path).seconds < 5


def test_seconds_alone_are_nothing_to_resume(tmp_path):
    with Stopwatch(Store(tmp_path).work_folder("sft", "abc")):
        pass
    with pytest.raises(StoreError, match="--resume"):
        Store(tmp_path, resume_only=True).work_folder("sft", "abc")
