"""Log-probabilities of tokens through a language-model head, without a float32 copy of many logits.

Logits are the largest tensor of a small model's training step. Cross entropy, written plainly, makes a float32 copy of
them, then its log-softmax, then its gradient, then that one's cast. Above PLAIN logits they stay in the format that the
product gave, one copy; what needs float32 is done a few rows at a time, and the gradient is written where they were.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rlhf.machine import kernels

PLAIN = 2**24  # up to this many logits, 64 MiB in float32, the plain way is as fast or faster
CHUNK = 2**18  # logits in float32 at once, 1 MiB: they stay in the processor's cache


def token_logprobs(hidden: Tensor, weight: Tensor, labels: Tensor, temperature: float = 1.0) -> Tensor:
    """log softmax(hidden · weightᵀ / temperature) at the labels: (N, C), (V, C), (N,) int64 → (N,) float32.

    The product is in the autocast format where autocast is on. A label of −100 gives 0.
    """
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
    if kernels.fits(hidden) or len(hidden) * len(weight) <= PLAIN:
        return logprobs_at(F.linear(hidden, weight), labels, temperature)
    return _TokenLogprobs.apply(hidden, weight, labels, temperature)


def logprobs_at(logits: Tensor, labels: Tensor, temperature: float = 1.0) -> Tensor:
    """The same of a head's fresh logits (N, V), which the backward pass may overwrite: read them before it or not at all."""
    if kernels.fits(logits):
        return kernels.token_logprobs(logits, labels.contiguous(), temperature)
    return -F.cross_entropy(scaled(logits, temperature), labels, reduction="none")


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, temperature: float) -> Tensor:
        logits = F.linear(hidden, weight)  # (N, V)
        known = labels.clamp(min=0)
        at_labels = []
        for rows, label in zip(*(_chunks(x, logits.shape[1]) for x in (logits, known)), strict=True):
            at_labels.append(scaled(rows, temperature).log_softmax(-1).gather(1, label[:, None])[:, 0])
        logprobs = torch.cat(at_labels)
        ctx.save_for_backward(hidden, weight, labels, logits, logprobs)
        ctx.temperature = temperature
        return torch.where(labels >= 0, logprobs, 0.0)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, labels, logits, logprobs = ctx.saved_tensors
        factors = torch.where(labels >= 0, upstream, 0.0) / ctx.temperature  # (N,)
        at_labels = (factors * -logprobs.expm1()).to(logits.dtype)
        # d log p(label) / d logits = (one at the label − softmax) / temperature. It takes the logits' place; a second
        # backward pass would find them changed, and autograd refuses it.
        for rows, factor in zip(*(_chunks(x, logits.shape[1]) for x in (logits, factors)), strict=True):
            scaled = rows if ctx.temperature == 1 else rows / ctx.temperature
            torch.mul(scaled.softmax(-1), -factor[:, None].to(rows.dtype), out=rows)
        logits.scatter_(1, labels.clamp(min=0)[:, None], at_labels[:, None])
        grad_hidden = logits @ weight if ctx.needs_input_grad[0] else None
        grad_weight = logits.T @ hidden if ctx.needs_input_grad[1] else None
        return grad_hidden, grad_weight, None, None


def scaled(rows: Tensor, temperature: float) -> Tensor:
    """Logits in float32, divided by the temperature."""
    return rows.float() if temperature == 1 else rows.float() / temperature


def _chunks(x: Tensor, num_logits: int) -> tuple[Tensor, ...]:
    """x (N, …) in parts of as many rows as have CHUNK logits."""
    return x.split(max(1, CHUNK // num_logits))
