"""Two hosts, each a network namespace, joined by a cable: they give one host's numbers, and a pulled cable a clear end."""

import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager, suppress

import pytest

from tests.stages.ppo.test_ppo_sharding import ROOT, check_same, children, launched

ADDRESSES = ("10.77.24.1", "10.77.24.2")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.geteuid() != 0 or not shutil.which("ip"), reason="makes network namespaces, as root"
    ),
]


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def hosts():
    """The names of two namespaces and of the ends of the cable between them."""
    mark = os.getpid() % 100_000
    names, ends = [f"rlhf{mark}{x}" for x in "ab"], [f"rl{mark}{x}" for x in "ab"]
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
        for name, end, address in zip(names, ends, ADDRESSES, strict=True):
            ip("link", "set", end, "netns", name)
            ip("-n", name, "addr", "add", f"{address}/24", "dev", end)
            for device in (end, "lo"):
                ip("-n", name, "link", "set", device, "up")
    except subprocess.CalledProcessError as problem:
        pytest.skip(f"no network namespaces here: {problem.stderr.decode().strip()}")
    yield list(zip(names, ends, ADDRESSES, strict=True))
    for name in names:
        with suppress(subprocess.CalledProcessError):
            ip("netns", "del", name)


@contextmanager
def running(hosts, folder, port, *arguments, **environment):
    """torchrun on both hosts, a process each, and the files of what they say; nothing of it is left afterwards."""
    runs, logs = [], [folder / f"log-{port}-{number}" for number in range(2)]
    for number, (name, end, address) in enumerate(hosts):
        command = [
            "ip", "netns", "exec", name, sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1",
            "--rdzv-backend", "c10d", "--rdzv-endpoint", f"{ADDRESSES[0]}:{port}", "--rdzv-id", f"run{port}",
            "--rdzv-conf", f"is_host={int(number == 0)}", "--local-addr", address, "-m", "tests.sharded_ppo", *map(str, arguments),
        ]  # fmt: skip
        surroundings = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": end, **environment}
        with open(logs[number], "w") as file:
            runs.append(subprocess.Popen(command, cwd=ROOT, env=surroundings, stdout=file, stderr=file))
    try:
        yield runs, logs
    finally:
        for run in runs:
            for pid in [*descendants(run.pid), run.pid]:
                with suppress(ProcessLookupError):
                    os.kill(pid, 9)
            run.wait()


def descendants(pid):
    found = []
    with suppress(FileNotFoundError, ProcessLookupError):
        for child in children(pid):
            found += [*descendants(child), child]
    return found


def finished(hosts, folder, port, *arguments, **environment):
    with running(hosts, folder, port, *arguments, **environment) as (runs, logs):
        for run, log in zip(runs, logs, strict=True):
            assert run.wait(600) == 0, log.read_text()[-5000:]


def test_two_hosts_give_the_numbers_of_one(hosts, tmp_path):
    cases = ["gpt-all", "sft-llama-all", "reward-gpt-lora"]
    launched(1, tmp_path / "one.pt", "off", *cases)
    finished(hosts, tmp_path, 24501, tmp_path / "two.pt", "on", *cases)
    check_same(tmp_path / "one.pt", tmp_path / "two.pt")


def test_a_pulled_cable_ends_both_with_the_reason_and_the_run_goes_on(hosts, tmp_path):
    settings = {"SETTINGS": '{"episodes": 480, "inner_epochs": 1}', "WORK": str(tmp_path / "work")}
    with running(hosts, tmp_path, 24502, tmp_path / "two.pt", "on", "gpt-all", **settings) as (runs, logs):
        deadline = time.monotonic() + 300
        while not (tmp_path / "work/state.pt").exists() and time.monotonic() < deadline:
            assert all(run.poll() is None for run in runs), [log.read_text()[-3000:] for log in logs]
            time.sleep(0.1)
        name, end, _ = hosts[1]
        ip("-n", name, "link", "set", end, "down")
        pulled = time.monotonic()
        while not all(
            "error: " in log.read_text() for log in logs
        ):  # a minute, more on a machine that is busy
            assert time.monotonic() - pulled < 120, "\n\n".join(log.read_text()[-3000:] for log in logs)
            time.sleep(0.2)
    assert "has given no sign of life" in logs[0].read_text()
    assert "goes on from the last saved state" in logs[1].read_text()
    assert not (tmp_path / "two.pt").exists()
    ip("-n", name, "link", "set", end, "up")
    finished(hosts, tmp_path, 24503, tmp_path / "two.pt", "on", "gpt-all", **settings)
    launched(1, tmp_path / "one.pt", "off", "gpt-all", SETTINGS=settings["SETTINGS"])
    check_same(tmp_path / "one.pt", tmp_path / "two.pt", episodes=480)
