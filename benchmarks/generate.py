"""Sampled tokens per second: rlhf/sampling/generate.py against transformers' generate, and how near the machine's bound.

python benchmarks/generate.py [--sizes tiny small gpt2 | --model FOLDER] [--rounds 3]

64 prompts of 64 random tokens, 64 new tokens each at temperature 1 without early end; random weights, or a folder's. Every side runs in
a process of its own, in turn; transformers in float32 and in bfloat16 weights, ours with its own choice of format.
"""

from pathlib import Path
from typing import Any

import torch
from machine import Machine, Model, command_line, in_turn, middle, model_named, now

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
                pad_id=0, seed=0, batch_size=ROWS,
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


def measure(side: str, name: str, repeats: int = 2) -> dict[str, float]:
    """Tokens per second of one side, the better of two calls after a short one."""
    torch.manual_seed(0)
    size = model_named(name)
    run = ours(size) if side == "ours" else theirs(size, getattr(torch, side))
    prompts = torch.randint(1, size.vocab, (ROWS, PROMPT))
    run(prompts, 4)
    best = 0.0
    for _ in range(repeats):
        started = now()
        num_tokens = run(prompts, NEW)
        best = max(best, num_tokens / (now() - started))
    return {"tokens_per_s": round(best, 1), "peak_mib": round(peak_mib())}


def bound(size: Model, machine: Machine) -> float:
    """Tokens per second if every step took only its products at peak, or only its reading: whichever is longer.

    A step multiplies ROWS tokens with all weights and with the keys and values so far, and reads both once in bfloat16;
    before the first, the prompts go through the blocks.
    """
    prompt_s = 2 * ROWS * PROMPT * size.block_weights / machine.products["bfloat16"]
    steps_s = 0.0
    for width in range(PROMPT, PROMPT + NEW):
        attention = 2 * size.layers * ROWS * width * size.width
        compute_s = 2 * (ROWS * size.weights + attention) / machine.products["bfloat16"]
        steps_s += max(compute_s, 2 * (size.weights + ROWS * width * size.cached) / machine.reading)
    return ROWS * NEW / (prompt_s + steps_s)


def main() -> None:
    arguments = command_line(__doc__, measure)
    machine = Machine.measured()
    print(f"{machine}\n")
    print(
        "| model | transformers float32 | bfloat16 | ours | ours / better | bound | share | MiB theirs, ours |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name in arguments.models:
        sides = [[side, name] for side in ("float32", "bfloat16", "ours")]
        results = in_turn(__file__, sides, arguments.rounds, "tokens_per_s")
        single, half, own = (middle(result, "tokens_per_s") for result in results)
        most = bound(model_named(name), machine)
        memory = ", ".join(f"{middle(result, 'peak_mib'):.0f}" for result in results)
        print(
            f"| {Path(name).name} | {single:,.0f} | {half:,.0f} | {own:,.0f} | {own / max(single, half):.2f} | {most:,.0f} | "
            f"{own / most:.2f} | {memory} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
