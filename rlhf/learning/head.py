"""Log-probabilities of tokens through a language-model head, without a float32 copy of many logits.

Logits are the largest tensor of a small model's training step: 4,096 tokens of a vocabulary of 262,144 take 4 GiB in
float32, and cross entropy, written plainly, makes a copy of them, then its log-softmax, then its gradient. Up to WHOLE
bytes they are made at once and kept, the gradient written where they were. Above, they are made for a block of words
at a time and made again for the gradient, so that no more than BLOCK of them are ever there.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from rlhf.learning.losses import entropy
from rlhf.machine import kernels

PLAIN = 2**24  # up to this many logits, 64 MiB in float32, torch's own operations are as fast or faster
WHOLE = 2**28  # bytes of logits that are kept for the gradient where the compiled loops take them
BLOCK = 2**24  # logits at once where they are more


def token_logprobs(hidden: Tensor, weight: Tensor, labels: Tensor, temperature: float = 1.0) -> Tensor:
    """log softmax(hidden · weightᵀ / temperature) at the labels: (N, C), (V, C), (N,) int64 → (N,) float32.

    The product is in the autocast format where autocast is on. A label of −100 gives 0.
    """
    dtype = product_format(hidden)
    if not _is_whole(hidden, weight, dtype):
        return _BlockwiseLogprobs.apply(hidden, weight, labels, temperature, dtype, False)[0]
    return logprobs_at(F.linear(hidden.to(dtype), weight.to(dtype)), labels, temperature)


def token_logprobs_and_entropies(
    hidden: Tensor, weight: Tensor, labels: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """`token_logprobs`, and the entropy in nats of each row's distribution, (N,) float32, without gradient."""
    dtype = product_format(hidden)
    if not _is_whole(hidden, weight, dtype):
        return _BlockwiseLogprobs.apply(hidden, weight, labels, temperature, dtype, True)
    logits = F.linear(hidden.to(dtype), weight.to(dtype))
    entropies = entropies_of(logits, temperature)  # before a backward pass overwrites them
    return logprobs_at(logits, labels, temperature), entropies


def product_format(hidden: Tensor) -> torch.dtype:
    """The format of the head's product: autocast's where that is on."""
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype


def _is_whole(hidden: Tensor, weight: Tensor, dtype: torch.dtype) -> bool:
    num_logits = len(hidden) * len(weight)
    return num_logits <= PLAIN or (num_logits * dtype.itemsize <= WHOLE and kernels.fits(hidden))


def logprobs_at(logits: Tensor, labels: Tensor, temperature: float = 1.0) -> Tensor:
    """log softmax(logits / temperature) at the labels: (N, V), (N,) int64 → (N,) float32. A label of −100 gives 0.

    The backward pass may write the gradient over the logits, so nothing else may read them after it.
    """
    if kernels.fits(logits):
        return kernels.token_logprobs(logits, labels.contiguous(), temperature)
    return -F.cross_entropy(scaled(logits, temperature), labels, reduction="none")


@torch.no_grad()
def entropies_of(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Entropy of each row of logits (N, V) → (N,) float32, BLOCK of them in float32 at a time."""
    parts = logits.split(max(1, BLOCK // logits.shape[1]))
    return torch.cat([entropy(scaled(part, temperature)) for part in parts])


def scaled(rows: Tensor, temperature: float) -> Tensor:
    """Logits in float32, divided by the temperature."""
    return rows.float() if temperature == 1 else rows.float() / temperature


class _BlockwiseLogprobs(torch.autograd.Function):
    """Log-softmax at the labels, and entropies, summed up over blocks of words as each is made."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        labels: Tensor,
        temperature: float,
        dtype: torch.dtype,
        with_entropy: bool,
    ) -> tuple[Tensor, Tensor]:
        rows, N = hidden.to(dtype), len(hidden)
        sums = hidden.new_full((N,), -torch.inf, dtype=torch.float32)  # log Σ exp of the words so far
        entropies, at_label = torch.zeros_like(sums), torch.zeros_like(sums)
        # A frozen head's gradient needs no second pass: its words' mean by softmax is summed up in this one.
        pulls = ctx.needs_input_grad[0] and not ctx.needs_input_grad[1]
        mean_word = hidden.new_zeros(hidden.shape if pulls else (0,), dtype=torch.float32)
        for block, places in _blocks(weight, labels, dtype, N):
            logits = F.linear(rows, block)  # (N, v)
            chosen = places >= 0
            at_label[chosen] = scaled(logits[chosen, places[chosen]], temperature)
            of_block = _log_sums(logits, temperature)
            together = torch.logaddexp(sums, of_block)
            old, new = (sums - together).exp(), (of_block - together).exp()
            if with_entropy:
                mixed = torch.special.entr(old) + torch.special.entr(new)
                entropies = old * entropies + new * _entropy(logits, of_block, temperature) + mixed
            if pulls:
                softmax = _slopes(
                    logits,
                    torch.full_like(places, -1),
                    of_block,
                    -temperature * torch.ones_like(sums),
                    temperature,
                )
                mean_word.mul_(old[:, None]).add_((softmax @ block) * new[:, None])
            sums = together
        if pulls:
            mean_word = weight[labels.clamp(min=0)].to(dtype) - mean_word
        ctx.save_for_backward(hidden, weight, labels, sums, mean_word)
        ctx.temperature, ctx.dtype, ctx.pulls = temperature, dtype, pulls
        ctx.mark_non_differentiable(entropies)
        return torch.where(labels >= 0, at_label - sums, 0.0), entropies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, labels, sums, pull = ctx.saved_tensors
        upstream = torch.where(labels >= 0, upstream, 0.0)  # (N,)
        nothing = (None,) * 4
        if ctx.pulls:
            return ((upstream / ctx.temperature)[:, None] * pull).to(hidden.dtype), None, *nothing
        rows, grad_hidden = hidden.to(ctx.dtype), torch.zeros_like(hidden, dtype=torch.float32)
        grad_weight, start = torch.empty_like(weight), 0
        for block, places in _blocks(weight, labels, ctx.dtype, len(hidden)):
            slopes = _slopes(F.linear(rows, block), places, sums, upstream, ctx.temperature)
            grad_hidden += slopes @ block
            grad_weight[start : start + len(block)] = slopes.T @ rows
            start += len(block)
        return grad_hidden.to(hidden.dtype), grad_weight, *nothing


def _blocks(
    weight: Tensor, labels: Tensor, dtype: torch.dtype, num_rows: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """(v, C) of the head's words in `dtype`, and each label's place among them (N,), −1 where it is none of them."""
    size = max(1, BLOCK // max(num_rows, 1))
    for start in range(0, len(weight), size):
        block = weight[start : start + size].to(dtype)
        inside = (labels >= start) & (labels < start + len(block))
        yield block, torch.where(inside, labels - start, -1)


def _log_sums(logits: Tensor, temperature: float) -> Tensor:
    """log Σ exp(logits / temperature) of each row: (N, v) → (N,) float32."""
    if kernels.fits(logits):
        return kernels.log_sums(logits, temperature)
    return scaled(logits, temperature).logsumexp(1)


def _entropy(logits: Tensor, sums: Tensor, temperature: float) -> Tensor:
    """Entropy of softmax(logits / temperature), whose log Σ exp is `sums`: (N, v), (N,) → (N,) float32."""
    logprobs = scaled(logits, temperature) - sums[:, None]
    return -(logprobs * logprobs.exp()).sum(1)


def _slopes(logits: Tensor, places: Tensor, sums: Tensor, upstream: Tensor, temperature: float) -> Tensor:
    """d Σ upstream · log p(label) / d logits, upstream · (1 at `places` − exp(logits / temperature − sums)) / temperature.

    It takes the logits' place. places: −1 for a row whose label is not among these words.
    """
    if not kernels.fits(logits):
        p = (scaled(logits, temperature) - sums[:, None]).exp_()
        slopes = p.mul_(-upstream[:, None] / temperature)
        chosen = (places >= 0).nonzero()[:, 0]
        slopes[chosen, places[chosen]] += upstream[chosen] / temperature
        return slopes.to(logits.dtype)
    first = scaled(logits[:, 0].clone(), temperature)
    slopes = kernels.token_slopes(logits, places.clamp(min=0), sums, upstream.contiguous(), temperature)
    # The loop puts a label into every row; where there is none it stands at the first word.
    without = -upstream / temperature * (first - sums).exp()
    slopes[:, 0] = torch.where(places < 0, without.to(slopes.dtype), slopes[:, 0])
    return slopes
