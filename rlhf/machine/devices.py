"""Where tensors live and in which number format they are multiplied."""

import time
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch

from rlhf.machine.memory import keep_freed_memory
from rlhf.machine.threads import fastest_threads

BF16_FLAGS = {"amx_bf16": "AMX", "avx512_bf16": "AVX-512-BF16"}


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices in hardware (AMX, AVX-512-BF16, Ampere and later)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and bool(bf16_units())


@cache
def bf16_units() -> tuple[str, ...] | None:
    """What this CPU multiplies bfloat16 matrices with, by name; None where the system does not tell."""
    try:
        with open("/proc/cpuinfo") as info:
            flags = next((line for line in info if line.startswith("flags")), "")
    except OSError:
        return None
    return tuple(name for flag, name in BF16_FLAGS.items() if flag in flags)


def best_device() -> torch.device:
    """CUDA where there is one, else the CPU; not Apple's MPS, which has no float64, in which completions are drawn."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def is_autocast(device: torch.device, bf16: str = "auto") -> bool:
    """Whether products are of bfloat16: `bf16` is on, off or auto (where the hardware multiplies it)."""
    return bf16 == "on" or (bf16 == "auto" and has_fast_bf16(device))


def autocast(device: torch.device, bf16: str = "auto") -> AbstractContextManager[Any]:
    """A region whose products are of bfloat16, where `is_autocast` says so."""
    if is_autocast(device, bf16):
        # The cache of cast weights pays off only within one forward pass and is cleared at the region's end.
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


def flops_of_a_product(device: torch.device, repeats: int = 3) -> float:
    """Floating-point operations a second of a product of 512 rows with 1,024 × 4,096 weights, as stages multiply."""
    rows, weights = torch.ones(512, 1024, device=device), torch.ones(1024, 4096, device=device)
    with autocast(device):
        float((rows @ weights)[0, 0])
        started = time.perf_counter()
        for _ in range(repeats):
            product = rows @ weights
        float(product[0, 0])  # waits for a GPU
    return repeats * 2 * rows.numel() * weights.shape[1] / (time.perf_counter() - started)


def set_threads(num_threads: int) -> int:
    """Use `num_threads` CPU threads, or as many as are fastest now for 0; returns the number in use.

    Also lets the process keep the memory it frees, which every step asks for again.
    """
    keep_freed_memory()
    if not num_threads:
        return fastest_threads()
    torch.set_num_threads(num_threads)
    return num_threads
