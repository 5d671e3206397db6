"""Training tokens per second: our GPT's training step against a bare loop over transformers' GPT-2.

python benchmarks/train.py [--sizes tiny small gpt2] [--rounds 3]

Next-token loss on random tokens, AdamW, no dropout, gradient clipping on both sides. Every side runs in a process of its
own, in turn; transformers in float32 and under bfloat16 autocast, each with both of its attention implementations.
"""

import time
from contextlib import nullcontext
from typing import Any

import torch
from machine import SIZES, Machine, Size, command_line, in_turn, middle

from rlhf.machine.memory import peak_mib

SHAPES = {"tiny": (16, 128), "small": (16, 128), "gpt2": (8, 128)}  # sequences and tokens of a step


def ours(size: Size) -> Any:
    from rlhf.learning.head import token_logprobs
    from rlhf.learning.optimizers import adamw
    from rlhf.machine.devices import autocast, set_threads

    set_threads(0)
    model = size.our_causal_lm().train()
    optimizer = adamw(model.parameters(), 1e-4)

    def step(rows: torch.Tensor) -> None:
        with autocast(torch.device("cpu")):
            hidden = model.transformer(rows[:, :-1]).last_hidden_state.flatten(0, 1)
            loss = -token_logprobs(hidden, model.lm_head.weight, rows[:, 1:].flatten()).mean()
        loss.backward()
        optimizer.step(max_grad_norm=1.0)

    return step


def theirs(size: Size, numbers: str, attention: str) -> Any:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(size.config, attn_implementation=attention).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step(rows: torch.Tensor) -> None:
        cast = torch.autocast("cpu", torch.bfloat16) if numbers == "bfloat16" else nullcontext()
        with cast:
            loss = model(input_ids=rows, labels=rows, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def measure(side: str, name: str, seconds: float = 4.0) -> dict[str, float]:
    """Tokens per second by the middle step of about `seconds`, after two to warm up."""
    torch.manual_seed(0)
    size, (rows, length) = SIZES[name], SHAPES[name]
    step = ours(size) if side == "ours" else theirs(size, *side.split("/"))
    tokens = torch.randint(1, size.vocab, (rows, length + 1))
    times: list[float] = []
    while len(times) < 6 or sum(times) < seconds:
        started = time.perf_counter()
        step(tokens)
        times.append(time.perf_counter() - started)
    middle_s = sorted(times[2:])[len(times[2:]) // 2]
    return {"tokens_per_s": round(rows * length / middle_s, 1), "peak_mib": round(peak_mib())}


def bound(size: Size, length: int, machine: Machine) -> float:
    """Tokens per second if only the products took time, at peak: 6 operations per weight, 12 per key and channel."""
    per_token = 6 * size.weights + 12 * size.layers * length * size.width
    return max(machine.products.values()) / per_token


def main() -> None:
    arguments = command_line(__doc__, measure, folders=False)
    machine = Machine.measured()
    print(f"{machine}\n")
    names = [
        f"{numbers}/{attention}" for numbers in ("float32", "bfloat16") for attention in ("sdpa", "eager")
    ]
    print(f"| size | {' | '.join(names)} | ours | ours / best | bound | share | MiB theirs, ours |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name in arguments.models:
        results = in_turn(
            __file__, [[side, name] for side in (*names, "ours")], arguments.rounds, "tokens_per_s"
        )
        *others, own = (middle(result, "tokens_per_s") for result in results)
        most = bound(SIZES[name], SHAPES[name][1], machine)
        best = others.index(max(others))
        print(
            f"| {name} | {' | '.join(f'{speed:,.0f}' for speed in others)} | {own:,.0f} | {own / max(others):.2f} | "
            f"{most:,.0f} | {own / most:.2f} | {middle(results[best], 'peak_mib'):.0f}, "
            f"{middle(results[-1], 'peak_mib'):.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
