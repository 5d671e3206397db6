"""Attention by two batched products against PyTorch's fused kernel, forward and backward, on this CPU.

python benchmarks/attention.py
"""

import time

import torch
from torch.nn import functional as F

SHAPES = ((64, 4, 64, 32), (64, 4, 128, 32), (8, 6, 128, 32), (8, 12, 256, 64), (2, 12, 1024, 64))
REPEATS = 12


def plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return (q @ k.transpose(-1, -2) + mask).softmax(-1) @ v


def fused(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0)


def seconds(attention, shape: tuple[int, ...], dtype: torch.dtype) -> float:
    """Best of REPEATS forward and backward passes."""
    B, H, T, D = shape
    q, k, v = (torch.randn(B, H, T, D, dtype=dtype, requires_grad=True) for _ in range(3))
    mask = torch.full((T, T), torch.finfo(dtype).min, dtype=dtype).triu(1)
    best = float("inf")
    for _ in range(REPEATS):
        started = time.perf_counter()
        attention(q, k, v, mask).sum().backward()
        best = min(best, time.perf_counter() - started)
    return best


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    print(
        "| batch × heads × tokens × width | format | plain, ms | fused, ms | fused / plain |\n|---|---|---|---|---|"
    )
    for shape in SHAPES:
        for dtype in (torch.float32, torch.bfloat16):
            ours, theirs = (seconds(attention, shape, dtype) * 1000 for attention in (plain, fused))
            name = str(dtype).removeprefix("torch.")
            print(
                f"| {' × '.join(map(str, shape))} | {name} | {ours:.2f} | {theirs:.2f} | {theirs / ours:.2f} |"
            )


if __name__ == "__main__":
    main()
