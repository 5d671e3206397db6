"""What the benchmarks share: the models, what this machine can do at most, and sides in turn."""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import torch

from rlhf.machine.threads import fastest_threads

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
        return self.block_weights + self.vocab * self.width

    @property
    def block_weights(self) -> int:
        """The same without the head."""
        return 12 * self.layers * self.width**2

    @property
    def cached(self) -> int:
        """Numbers that every token leaves in a KV cache."""
        return 2 * self.layers * self.width

    @property
    def config(self) -> Any:
        """The size as transformers knows it; no dropout, 1024 positions."""
        from transformers import GPT2Config

        return GPT2Config(
            n_layer=self.layers, n_embd=self.width, n_head=self.heads, vocab_size=self.vocab, n_positions=1024,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0, pad_token_id=0,
        )  # fmt: skip

    def causal_lm(self) -> Any:
        """transformers' model of this size, random weights, float32."""
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_config(self.config)

    def scorer(self) -> Any:
        """transformers' classifier of this size with one label, random weights, float32."""
        from transformers import AutoModelForSequenceClassification

        config = self.config
        config.num_labels = 1
        return AutoModelForSequenceClassification.from_config(config)

    def our_causal_lm(self) -> Any:
        """Our model of this size, random weights, float32."""
        from rlhf.models.gpt import GPT

        return GPT(self.config)


@dataclass(frozen=True)
class Folder:
    """A model in a folder, with its own weights; counted as `Size` counts, for blocks without gaps in their queries."""

    path: str

    @cached_property
    def config(self) -> Any:
        from transformers import AutoConfig

        return AutoConfig.from_pretrained(self.path)

    @property
    def vocab(self) -> int:
        return self.config.vocab_size

    @property
    def layers(self) -> int:
        return self.config.num_hidden_layers

    @property
    def width(self) -> int:
        return self.config.hidden_size

    @property
    def cached(self) -> int:
        grouped = self.width // self.config.num_attention_heads * self.config.num_key_value_heads
        return 2 * self.layers * grouped

    @property
    def weights(self) -> int:
        return self.block_weights + self.vocab * self.width

    @cached_property
    def block_weights(self) -> int:
        from transformers import AutoModel

        with torch.device("meta"):
            trunk = AutoModel.from_config(self.config)
        all_matrices = sum(each.numel() for each in trunk.parameters() if each.ndim == 2)
        return all_matrices - self.vocab * self.width  # the embedding, which is looked up

    def causal_lm(self) -> Any:
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(self.path, dtype=torch.float32)

    def scorer(self) -> Any:
        """The trunk under a head of one label, which is random."""
        from transformers import AutoModelForSequenceClassification

        return AutoModelForSequenceClassification.from_pretrained(
            self.path, num_labels=1, dtype=torch.float32
        )

    def our_causal_lm(self) -> Any:
        """What our commands load."""
        from rlhf.models.checkpoints import load_policy

        return load_policy(self.path)


SIZES = {"tiny": Size(4, 128, 4, 1024), "small": Size(6, 384, 6, 8192), "gpt2": Size(12, 768, 12, 50257)}


Model = Size | Folder


def model_named(name: str) -> Model:
    """One of the sizes, or the model in a folder."""
    return SIZES[name] if name in SIZES else Folder(name)


def now() -> float:
    """Seconds to take differences of: with one thread those of the processor, which other programs do not lengthen."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def best_s(work: Any, repeats: int = 8) -> float:
    """Seconds of the fastest of several calls."""
    times = []
    for _ in range(repeats):
        started = now()
        work()
        times.append(now() - started)
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

    def is_fast_in(self, name: str) -> bool:
        """Whether a format is worth trying: without units for it products take some fifty times as long."""
        return self.products[name] > self.products["float32"] / 2

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


def command_line(
    description: str, measure: Callable[[str, str], dict[str, Any]], folders: bool = True
) -> argparse.Namespace:
    """The models and rounds that are wanted; where this process is one side of a model, it prints its result and ends.

    folders: whether a model's folder may be named in place of the sizes.
    """
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=SIZES)
    if folders:
        parser.add_argument("--model", help="a model's folder, in place of the sizes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(measure(*arguments.side)))
        raise SystemExit
    named = getattr(arguments, "model", None)
    arguments.models = [named] if named else arguments.sizes
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
