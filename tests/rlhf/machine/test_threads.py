"""Threads: the number in use follows the environment, and stalled steps make it be measured anew."""

import time
from types import SimpleNamespace

import pytest
import torch

from rlhf.machine import threads


@pytest.fixture(autouse=True)
def threads_put_back():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_environment_decides(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads.fastest_threads() == torch.get_num_threads() == 3


def test_without_it_one_or_all_cores_are_used(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert threads.fastest_threads() == torch.get_num_threads()
    assert torch.get_num_threads() in (1, threads.num_cores())


@pytest.mark.skipif(threads.num_cores() == 1, reason="one core has nothing to choose")
def test_stalled_steps_are_measured_anew_and_one_slow_step_is_not(monkeypatch):
    now = 0.0
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(
        threads, "time", SimpleNamespace(monotonic=lambda: now, perf_counter=time.perf_counter)
    )
    watch = threads.ThreadWatch()
    torch.set_num_threads(5)  # a number that no measurement gives
    for took in (9.0, 0.1, 0.1, 1.9, 0.1, 0.1, 1.5):
        now += took
        watch.step()
    assert torch.get_num_threads() == 5
    now += 1.5
    watch.step()
    assert torch.get_num_threads() in (1, threads.num_cores())


@pytest.mark.skipif(threads.num_cores() == 1, reason="one core has nothing to choose")
def test_an_unused_core_is_asked_for_again_after_a_while(monkeypatch):
    now = 0.0
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(
        threads, "time", SimpleNamespace(monotonic=lambda: now, perf_counter=time.perf_counter)
    )
    monkeypatch.setattr(threads, "_matmul_s", lambda num_threads: 1.0 / num_threads)
    watch = threads.ThreadWatch()
    torch.set_num_threads(1)
    for _ in range(59):
        now += 1.0
        watch.step()
    assert torch.get_num_threads() == 1
    for _ in range(3):
        now += 1.0
        watch.step()
    assert torch.get_num_threads() == threads.num_cores()
