"""Sampled tokens per second: rlhf/sampling/generate.py against transformers' generate and vLLM, and how near the bound.

python benchmarks/generate.py [--sizes tiny small gpt2 | --model FOLDER] [--rounds 3]

64 prompts of 64 random tokens, 64 new tokens each at temperature 1 without early end; random weights, or a folder's. Every side runs in
a process of its own, in turn; transformers in float32 and in bfloat16 weights, ours with its own choice of format.

RLHF_VLLM=PROGRAM adds vLLM, for a --model folder: a server in bfloat16, started for each turn, that is given all 64 prompts
in one request to /v1/completions. RLHF_VLLM_OPTIONS has more of its options, and its own variables apply (VLLM_CPU_…).
"""

import atexit
import contextlib
import os
import shlex
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import torch
from machine import Machine, Model, command_line, in_turn, middle, model_named, now
from servers import served

from rlhf.machine.memory import peak_mib

ROWS, PROMPT, NEW = 64, 64, 64


def ours(size: Model) -> Any:
    from rlhf.machine.devices import autocast, set_threads
    from rlhf.sampling.generate import SamplingSettings, generate

    set_threads(0)  # as every command does: OMP_NUM_THREADS decides, freed memory is kept
    model = size.our_causal_lm().eval()

    def run(prompts: torch.Tensor, num_new: int) -> int:
        with autocast(torch.device("cpu")):
            samples = generate(
                model, prompts.tolist(), SamplingSettings(max_new_tokens=num_new), stop_ids=frozenset(),
                seed=0, batch_size=ROWS,
            )  # fmt: skip
        return sum(len(sample.tokens) for sample in samples)

    return run


def theirs(size: Model, dtype: torch.dtype) -> Any:
    model = size.causal_lm().to(dtype).eval()
    model.generation_config.eos_token_id = None

    def run(prompts: torch.Tensor, num_new: int) -> int:
        mask = torch.ones_like(prompts)
        with torch.inference_mode():
            rows = model.generate(
                prompts, attention_mask=mask, do_sample=True, top_k=0, max_new_tokens=num_new, pad_token_id=0
            )
        return rows[:, prompts.shape[1] :].numel()

    return run


def vllm(folder: str) -> Any:
    """vLLM's server of a folder, up to the end of this process."""
    command = [
        os.environ["RLHF_VLLM"], "serve", folder, "--host", "127.0.0.1", "--served-model-name", "policy", "--dtype", "bfloat16",
        "--max-model-len", str(2 * (PROMPT + NEW)), "--max-num-seqs", str(ROWS), "--no-enable-prefix-caching",
        *shlex.split(os.environ.get("RLHF_VLLM_OPTIONS", "")),
    ]  # fmt: skip
    until_the_end = contextlib.ExitStack()
    atexit.register(until_the_end.close)
    log = Path(until_the_end.enter_context(tempfile.TemporaryDirectory())) / "log"
    server = until_the_end.enter_context(served("vLLM", "policy", command, log))

    def run(prompts: torch.Tensor, num_new: int) -> int:
        asked = {
            "model": "policy", "prompt": prompts.tolist(), "max_tokens": num_new, "temperature": 1.0, "ignore_eos": True,
        }  # fmt: skip
        answer = httpx.post(f"{server.url}/v1/completions", json=asked, timeout=900).raise_for_status()
        return int(answer.json()["usage"]["completion_tokens"])

    return run


def measure(side: str, name: str, repeats: int = 2) -> dict[str, float]:
    """Tokens per second of one side, the better of two calls after a short one."""
    torch.manual_seed(0)
    size = model_named(name)
    if side == "ours":
        run = ours(size)
    else:
        run = vllm(name) if side == "vLLM" else theirs(size, getattr(torch, side))
    prompts = torch.randint(1, size.vocab, (ROWS, PROMPT))
    run(prompts, 4)
    best = 0.0
    clock = time.perf_counter if side == "vLLM" else now  # a server's time is not this process's
    for _ in range(repeats):
        started = clock()
        num_tokens = run(prompts, NEW)
        best = max(best, num_tokens / (clock() - started))
    return {"tokens_per_s": round(best, 1), "peak_mib": round(peak_mib())}


def bound(size: Model, machine: Machine) -> float:
    """Tokens per second if every step took only its products at peak, or only its reading: whichever is longer.

    A step multiplies ROWS tokens with all weights and with the keys and values so far, and reads both once; before the
    first, the prompts go through the blocks. In the format that is faster here.
    """
    return max(
        _bound(size, machine, name, num_bytes) for name, num_bytes in (("float32", 4), ("bfloat16", 2))
    )


def _bound(size: Model, machine: Machine, name: str, num_bytes: int) -> float:
    per_second = machine.products[name]
    prompt_s = 2 * ROWS * PROMPT * size.block_weights / per_second
    steps_s = 0.0
    for width in range(PROMPT, PROMPT + NEW):
        attention = 2 * size.layers * ROWS * width * size.width
        compute_s = 2 * (ROWS * size.weights + attention) / per_second
        steps_s += max(compute_s, num_bytes * (size.weights + ROWS * width * size.cached) / machine.reading)
    return ROWS * NEW / (prompt_s + steps_s)


def main() -> None:
    arguments = command_line(__doc__, measure)
    machine = Machine.measured()
    print(f"{machine}\n")
    with_vllm = "RLHF_VLLM" in os.environ and bool(arguments.model)
    if not with_vllm:
        print("vLLM is not among them: RLHF_VLLM=PROGRAM and --model FOLDER add it\n")
    peers = [
        "float32",
        *(["bfloat16"] if machine.is_fast_in("bfloat16") else []),
        *(["vLLM"] if with_vllm else []),
    ]
    print(f"| model | {' | '.join(peers)} | ours | ours / better | bound | share | MiB theirs, ours |")
    print("|---" * (len(peers) + 6) + "|")
    for name in arguments.models:
        results = in_turn(
            __file__, [[side, name] for side in [*peers, "ours"]], arguments.rounds, "tokens_per_s"
        )
        *others, own = (middle(result, "tokens_per_s") for result in results)
        most = bound(model_named(name), machine)
        memory = ", ".join(
            f"{middle(result, 'peak_mib'):.0f}"
            for side, result in zip([*peers, "ours"], results, strict=True)
            if side != "vLLM"
        )
        cells = " | ".join(f"{each:,.0f}" for each in [*others, own])
        print(
            f"| {Path(name).name} | {cells} | {own / max(others):.2f} | {most:,.0f} | {own / most:.2f} | {memory} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
