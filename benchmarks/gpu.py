"""What a GPU makes of the path from sampling to update: a JSON file that grows by a phase at a time; needs no network.

    PYTHONPATH=. python benchmarks/gpu.py --out gpu.json              # at most 8 minutes on one H100
    PYTHONPATH=. python benchmarks/gpu.py --out dry.json --dry-run    # the same phases on tiny shapes, here

Weights are random: only shapes matter. A phase that fails is written with its error, and the next one begins.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import iterations
import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from rlhf.learning.passes import text_logprobs
from rlhf.machine.devices import autocast, best_device
from rlhf.models.gpt import GPT
from rlhf.sampling.generate import SamplingSettings, generate
from stages.ppo.learner import new_learner
from stages.settings import PPOConfig

LIMIT_S = 480
SHAPES = {  # hidden, intermediate, layers, heads, key-value heads, vocabulary, tied
    "SmolLM2-135M": (576, 1536, 30, 9, 3, 49152, True),
    "Qwen2.5-0.5B": (896, 4864, 24, 14, 2, 151936, True),
    "1.2B": (2048, 8192, 16, 32, 8, 128256, True),
    "tiny": (64, 128, 2, 4, 2, 512, True),
}


def llama(shape: str, scalar: bool = False) -> Any:
    """A Llama of that shape with random weights, on the device."""
    hidden, inner, layers, heads, kv, vocab, tied = SHAPES[shape]
    config = LlamaConfig(
        hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv,
        vocab_size=vocab, tie_word_embeddings=tied, max_position_embeddings=2048, num_labels=1, pad_token_id=0,
    )  # fmt: skip
    kind = LlamaForSequenceClassification if scalar else LlamaForCausalLM
    with torch.device(best_device()):
        return kind(config).eval()


def gpt2(dry: bool) -> Any:
    from transformers import GPT2Config

    sizes = {"n_embd": 64, "n_layer": 2, "n_head": 2, "vocab_size": 512} if dry else {}
    with torch.device(best_device()):
        return GPT(GPT2Config(**sizes)).eval()


def seconds(work: Callable[[], Any], repeats: int = 3) -> float:
    """The least of a few runs after one that is not counted."""
    found = []
    for _ in range(repeats + 1):
        wait()
        began = time.perf_counter()
        work()
        wait()
        found.append(time.perf_counter() - began)
    return min(found[1:])


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def ceilings(dry: bool) -> dict[str, float]:
    """What the device can do at most: bfloat16 products in TFLOP/s, copies in GB/s, both directions counted."""
    n, device = 256 if dry else 8192, best_device()
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    x = torch.empty(n * n * 4, device=device)
    return {
        "product_tflops": 2 * n**3 / seconds(lambda: a @ b) / 1e12,
        "copy_gb_s": 2 * x.numel() * 4 / seconds(x.clone) / 1e9,
    }


def sampling(dry: bool) -> dict[str, Any]:
    """Tokens a second of `rlhf.sampling.generate` and of transformers' generate, and the largest gap to a forward pass."""
    rows, prompt, new = (4, 8, 8) if dry else (256, 64, 256)
    found = {}
    for name in ("GPT-2", *(("tiny",) if dry else ("SmolLM2-135M", "Qwen2.5-0.5B"))):
        model = gpt2(dry) if name == "GPT-2" else llama(name)
        tokens = torch.randint(2, model.config.vocab_size, (rows, prompt), device=best_device())
        prompts, settings = tokens.tolist(), SamplingSettings(max_new_tokens=new)

        def ours(model: Any = model, prompts: Any = prompts, settings: Any = settings) -> Any:
            with autocast(best_device()):
                return generate(model, prompts, settings, stop_ids=frozenset(), seed=0, batch_size=rows)

        samples = ours()
        found[name] = {"tokens_s": rows * new / seconds(ours, 1), "gap": gap(model, prompts, samples)}
        if name != "GPT-2":
            mask = torch.ones_like(tokens)

            def theirs(model: Any = model, tokens: Any = tokens, mask: Any = mask) -> Any:
                with torch.no_grad(), autocast(best_device()):
                    return model.generate(
                        tokens, attention_mask=mask, do_sample=True, max_new_tokens=new, min_new_tokens=new
                    )

            found[name]["transformers_tokens_s"] = rows * new / seconds(theirs, 1)
    return found


def gap(model: Any, prompts: list[list[int]], samples: Any) -> float:
    """Mean |log π of a forward pass − the sampler's| of a few rows, nats a token."""
    rows = torch.tensor([p + s.tokens for p, s in zip(prompts[:8], samples[:8], strict=True)])
    with torch.no_grad(), autocast(best_device()):
        logprobs = text_logprobs(model, rows.to(best_device()))[:, len(prompts[0]) - 1 :]
    drawn = torch.tensor([s.logprobs for s in samples[:8]], device=logprobs.device)
    return float((logprobs - drawn).abs().mean())


def training(dry: bool) -> dict[str, Any]:
    """Tokens a second and share of the bfloat16 ceiling of a step of SFT (6 · parameters a token)."""
    found, peak = {}, ceilings(dry)["product_tflops"]
    rows, width = (2, 32) if dry else (4, 1024)
    for shape in ("tiny",) if dry else ("SmolLM2-135M", "1.2B"):
        model = llama(shape)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
        tokens = torch.randint(2, model.config.vocab_size, (rows, width), device=best_device())
        num_parameters = sum(p.numel() for p in model.parameters())

        def step(model: Any = model, optimizer: Any = optimizer, tokens: Any = tokens) -> None:
            with autocast(best_device()):
                loss = -text_logprobs(model, tokens).mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        each_s = seconds(step)
        flops = 6 * num_parameters * rows * width / each_s / 1e12
        found[shape] = {"tokens_s": rows * width / each_s, "tflops": flops, "mfu": flops / peak}
        del model, optimizer
    return found


def ppo(dry: bool) -> dict[str, Any]:
    """Seconds of an iteration's sampling, scoring and update, and the update's ten costliest operations."""
    shape, rows, new = ("tiny", 8, 8) if dry else ("SmolLM2-135M", 256, 128)
    policy, value, reference, scores = (
        llama(shape), llama(shape, scalar=True), llama(shape).requires_grad_(False), llama(shape, scalar=True),
    )  # fmt: skip
    settings = PPOConfig(
        episodes=2 * rows, batch_size=rows, minibatch_size=rows // 4, micro_batch_size=rows // 8, max_new_tokens=new, lr=1e-6,
        value_lr=1e-6, save_every=0,
    )  # fmt: skip
    took: dict[str, float] = {}
    profiler: Any = torch.profiler.profile()

    def timed(phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **more: Any) -> Any:
            wait()
            began = time.perf_counter()
            result = function(*args, **more)
            wait()
            took[f"{phase}_s"] = time.perf_counter() - began  # the last iteration's stays
            return result

        return run

    prompts = torch.randint(2, policy.config.vocab_size, (rows, 64)).tolist()
    iterations.run(settings, new_learner(settings, policy, value), reference, scores, prompts, timed)
    tokens = torch.randint(2, policy.config.vocab_size, (rows // 8, 64 + new), device=best_device())
    with profiler:
        with autocast(best_device()):
            loss = -text_logprobs(policy, tokens).mean()
        loss.backward()
    costly = sorted(
        profiler.key_averages(), key=lambda event: -event.self_device_time_total - event.self_cpu_time_total
    )
    took_us = {event.key: event.self_device_time_total or event.self_cpu_time_total for event in costly[:10]}
    return {**took, "sampling_share": took["sample_s"] / sum(took.values()), "update_operations_us": took_us}


PHASES = {"ceilings": ceilings, "sampling": sampling, "training": training, "ppo": ppo}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args()
    began = time.monotonic()
    device = best_device()
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "dry_run": options.dry_run,
    }
    for name, phase in PHASES.items():
        if time.monotonic() - began > LIMIT_S * 0.8:
            found[name] = "left out: no time"
            continue
        start = time.monotonic()
        try:
            found[name] = phase(options.dry_run)
        except Exception as problem:  # what later phases show is still wanted
            found[name] = {"error": f"{type(problem).__name__}: {problem}"[:500]}
        found[name]["phase_s"] = time.monotonic() - start
        options.out.write_text(json.dumps(found, indent=1))
        print(name, json.dumps(found[name]), flush=True)


if __name__ == "__main__":
    main()
