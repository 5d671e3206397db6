"""What the benchmarks share: the three model sizes, what this machine can do at most, and sides in turn."""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from rlhf.threads import fastest_threads

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Size:
    """A GPT-2 of `layers` blocks, `width` channels, `heads` heads and a vocabulary of `vocab`."""

    layers: int
    width: int
    heads: int
    vocab: int

    @property
    def weights(self) -> int:
        """Weights that every token is multiplied with, the tied head among them."""
        return 12 * self.layers * self.width**2 + self.vocab * self.width


SIZES = {"tiny": Size(4, 128, 4, 1024), "small": Size(6, 384, 6, 8192), "gpt2": Size(12, 768, 12, 50257)}


def gpt2_config(size: Size) -> Any:
    """The size as transformers knows it; no dropout, 1024 positions."""
    from transformers import GPT2Config

    return GPT2Config(
        n_layer=size.layers, n_embd=size.width, n_head=size.heads, vocab_size=size.vocab, n_positions=1024,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip


def best_s(work: Any, repeats: int = 8) -> float:
    """Seconds of the fastest of several calls."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


@dataclass(frozen=True)
class Machine:
    """What this machine reaches now: products in operations per second by format, reading in bytes per second."""

    products: dict[str, float]
    reading: float
    threads: int

    @classmethod
    def measured(cls) -> "Machine":
        """Also sets the number of threads, for this process and the sides it starts, to what is fastest now."""
        threads = fastest_threads()
        side, products = 1536, {}
        for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
            a, b = torch.randn(side, side, dtype=dtype), torch.randn(side, side, dtype=dtype)
            products[name] = 2 * side**3 / best_s(lambda a=a, b=b: a @ b)
        many = torch.zeros(2**27)  # 512 MiB, far more than any cache holds
        return cls(products, 4 * many.numel() / best_s(many.sum, 4), threads)

    def __str__(self) -> str:
        return (
            f"{processor()}, {self.threads} threads, torch {torch.__version__}: products "
            f"{self.products['float32'] / 1e12:.2f} TFLOP/s in float32, {self.products['bfloat16'] / 1e12:.2f} in "
            f"bfloat16, reading {self.reading / 1e9:.0f} GB/s"
        )


def processor() -> str:
    """The processor's name, where the system tells it."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1] for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0].strip() if names else platform.machine()


def peak_mib() -> float:
    """The most memory this process has held; getrusage would count what its parent held before it."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def measured(script: str, side: list[str], python: str = sys.executable) -> dict[str, Any]:
    """The JSON that `script --side …` prints last, run by `python` in a process of its own."""
    threads = {
        "OMP_NUM_THREADS": str(torch.get_num_threads())
    }  # the same for all sides, set by `Machine.measured`
    environment = {
        **os.environ,
        **threads,
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "TQDM_DISABLE": "1",
    }
    command = [python, script, "--side", *side]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def command_line(description: str, measure: Callable[[str, str], dict[str, Any]]) -> argparse.Namespace:
    """The sizes and rounds that are wanted; where this process is one side of a size, it prints its result and ends."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=SIZES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(measure(*arguments.side)))
        raise SystemExit
    return arguments


def in_turn(
    script: str, sides: list[list[str]], rounds: int, key: str, python: Any = None
) -> list[list[dict[str, Any]]]:
    """Results of every side, taken in turn, so that a slower minute of the machine meets all of them.

    The last side is ours. The first round tries the settings of the other; the `rounds` − 1 after it take the best of
    them by `key`, and ours.
    """
    results: list[list[dict[str, Any]]] = [[] for _ in sides]
    best = -1
    for _ in range(rounds):
        for at, (side, found) in enumerate(zip(sides, results, strict=True)):
            if best in (-1, at) or at == len(sides) - 1:
                found.append(measured(script, side, python(side) if python else sys.executable))
                print(f"  {' '.join(side)}: {found[-1]}", file=sys.stderr, flush=True)
        best = max(range(len(sides) - 1), key=lambda at: results[at][0][key])
    return results


def middle(results: list[dict[str, Any]], key: str) -> float:
    """The median of one number over the rounds."""
    return median(result[key] for result in results)
