"""Memory of this process: how much it held at the most, and that what is freed goes back to the system when asked."""

import sys

import numpy as np
import pytest

from rlhf.machine.memory import IN_PIECES, peak_of_a_long_run_mib
from tests import forked

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells and only glibc is told")


def held_by(program: str) -> list[float]:
    """What a process of its own prints, since freed memory of other tests would be in the way."""
    begin = "import torch\nfrom rlhf.machine.memory import *\n"
    now = "def now(): return int(STATUS.read_text().split('VmRSS:')[1].split()[0]) / 1024\n"
    shown = forked.run([sys.executable, "-c", begin + now + program], check=True)
    return [float(word) for word in shown.stdout.split()]


def test_kept_memory_is_given_back_when_asked():
    before, kept, given_back = held_by(
        "assert keep_freed_memory()\n"
        "before = now()\n"
        "small = [torch.ones(2**18) for _ in range(400)]\n"  # 400 MiB
        "del small\n"
        "kept = now()\n"
        "give_back_freed_memory()\n"
        "print(before, kept, now())\n"
    )
    assert kept > before + 300
    assert given_back < before + 100


STEP_AT_ONCE = (
    "from unittest import mock\n"
    "keep_freed_memory()\n"
    "before, started, freed = now(), time.monotonic(), FreedMemory()\n"
    "small = [torch.ones(2**18) for _ in range(400)]\n"  # 400 MiB
    "del small\n"
    "freed.step()\n"
    "at_once = now()\n"
)


def test_a_loop_gives_back_what_it_freed_once_a_minute():
    before, at_once, later = held_by(
        STEP_AT_ONCE + "with mock.patch('time.monotonic', lambda: started + 61):\n"
        "    freed.step()\n"
        "print(before, at_once, now())\n"
    )
    assert at_once > before + 300
    assert later < before + 100


def test_a_loop_whose_freed_memory_grows_gives_it_back_sooner():
    at_once, later, still = held_by(
        STEP_AT_ONCE + "with mock.patch('time.monotonic', lambda: started + 21):\n"
        "    freed.step()\n"
        "later, little = now(), [torch.ones(2**18) for _ in range(20)]\n"  # 20 MiB: less than a quarter more
        "del little\n"
        "with mock.patch('time.monotonic', lambda: started + 50):\n"
        "    freed.step()\n"
        "print(at_once - before, later - before, now() - later)\n"
    )
    assert at_once > 300 and later < 100
    assert still > 10


def test_a_peak_is_of_what_came_after_it_was_forgotten():
    at_once, forgotten, later = held_by(
        "large = torch.ones(2**27)\n"  # 512 MiB
        "at_once = peak_mib()\n"
        "del large\n"
        "give_back_freed_memory()\n"
        "reset_peak()\n"
        "forgotten = peak_mib()\n"
        "small = torch.ones(2**25)\n"  # 128 MiB
        "print(at_once, forgotten, peak_mib())\n"
    )
    assert forgotten < at_once - 400
    assert forgotten + 100 < later < at_once - 300


def test_a_long_run_holds_more_of_what_is_allocated_and_not_of_mapped_files(tmp_path):
    before = peak_of_a_long_run_mib(4000)
    assert 4000 < before < 4000 * (1 + IN_PIECES)
    path = tmp_path / "weights"
    path.write_bytes(bytes(100 * 2**20))
    mapped = np.memmap(path, mode="r")
    assert mapped.sum() == 0  # reads every page
    assert before - peak_of_a_long_run_mib(4000) == pytest.approx(IN_PIECES * 100, abs=10)
