"""One new token for every row of a KV cache, by our GPT's bare weights.

The model's own forward pass is written for training: with one token per row much of its time would go into modules,
masks and autocast. Here the weights are cast once for many steps, and what is left is the products. Shapes as in rlhf/models/gpt.py.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlhf.machine import kernels
from rlhf.models.cache import KVCache
from rlhf.models.gpt import GPT, Conv1D, additive_mask

Weights = tuple[Tensor, Tensor]  # (in, out) and (out,)


class Decoder:
    """A GPT's next-token step in the number format of a cache; the weights are those at the time of making it."""

    def __init__(self, model: GPT, dtype: torch.dtype) -> None:
        trunk, self.dtype = model.transformer, dtype
        self.wte, self.wpe, self.ln_f = trunk.wte.weight, trunk.wpe.weight, trunk.ln_f
        self.blocks: list[Any] = list(trunk.h)
        self.weights: list[list[Weights]] = [
            [_weights(layer, dtype) for layer in _products(block)] for block in self.blocks
        ]
        self.head = model.lm_head.weight.to(dtype)

    def step(self, tokens: Tensor, cache: KVCache) -> Tensor:
        """Logits (B, V), in the decoder's format, of the token after tokens (B,), which enter the cache."""
        slots = cache.advance(1, None)[:, 0]  # (B,)
        x = self.wte[tokens] + self.wpe[slots]  # (B, C)
        if self.fits(x, cache):
            return self.step_in_loops(x, slots, cache)
        visible = torch.arange(cache.keys.shape[3], device=x.device) <= slots[:, None]
        bias = additive_mask(visible, self.dtype)[:, None, None]  # (B, 1, 1, L)
        for layer, (block, weights) in enumerate(zip(self.blocks, self.weights, strict=True)):
            qkv = _product(block.ln_1(x), weights[0])
            x = x + _product(_attention(qkv, block.attn.scale, bias, slots, cache, layer), weights[1])
            x = x + _product(block.mlp.activate(_product(block.ln_2(x), weights[2])), weights[3])
        return F.linear(self.ln_f(x).to(self.dtype), self.head)

    def fits(self, x: Tensor, cache: KVCache) -> bool:
        """Whether the compiled loops take these residuals (B, C), this cache and this size of heads."""
        D = cache.keys.shape[4]
        return x.dtype == torch.float32 and D % 16 == 0 and D <= 128 and kernels.fits(x, cache.keys[0])

    def step_in_loops(self, x: Tensor, slots: Tensor, cache: KVCache) -> Tensor:
        """`step` with each norm and the addition before it in one loop, and the attention in one over the filled slots."""
        norms = [norm for block in self.blocks for norm in (block.ln_1, block.ln_2)] + [self.ln_f]
        following = iter((norm.weight, norm.bias, norm.eps) for norm in norms)
        y = kernels.norm(x, *next(following), self.dtype)
        for layer, (block, weights) in enumerate(zip(self.blocks, self.weights, strict=True)):
            qkv = _product(y, weights[0])
            heads = kernels.attend(qkv, cache.keys[layer], cache.values[layer], slots, block.attn.scale)
            y = kernels.add_norm(x, _product(heads, weights[1]), *next(following))
            up = block.mlp.activate(_product(y, weights[2]))
            y = kernels.add_norm(x, _product(up, weights[3]), *next(following))
        return F.linear(y, self.head)


def _attention(qkv: Tensor, scale: float, bias: Tensor, slots: Tensor, cache: KVCache, layer: int) -> Tensor:
    """qkv (B, 3·C) → (B, C)."""
    B, H = len(qkv), cache.keys.shape[2]
    q, k, v = qkv.view(B, 3, H, -1).unbind(1)  # (B, H, D)
    keys, values = cache.put(k, v, slots, layer)  # (B·H, L, D)
    scores = torch.bmm((q * scale).reshape(B * H, 1, -1), keys.mT).view(B, H, 1, -1)
    attention = scores.add_(bias).softmax(-1).view(B * H, 1, -1)
    return torch.bmm(attention, values).view(B, -1)


def decoder(model: Any, cache: Any) -> Decoder | None:
    """A decoder of the model for such a cache, or None where only the model's own forward pass will do.

    That is so for any other architecture, and where a layer is not the plain product it was built as (adapters).
    """
    if not isinstance(model, GPT) or not isinstance(cache, KVCache):
        return None
    products = [layer for block in model.transformer.h for layer in _products(block)]
    if any(type(layer) is not Conv1D for layer in products) or type(model.lm_head) is not nn.Linear:
        return None
    return Decoder(model, cache.keys.dtype)


@contextmanager
def frozen_weights_cast(model: Any) -> Iterator[None]:
    """Under autocast, hold frozen linear layers' weights in its format; the results are the same bit for bit.

    autocast keeps the cast of weights that learn for later steps, but casts frozen ones, such as those beneath
    adapters, at every step anew. Not for our GPT, which has a Decoder.
    """
    device = model.device.type
    frozen = [
        layer
        for layer in model.modules()
        if isinstance(layer, (nn.Linear, Conv1D)) and not layer.weight.requires_grad
    ]
    if not torch.is_autocast_enabled(device) or isinstance(model, GPT):
        frozen = []
    weights = [layer.weight for layer in frozen]
    try:
        for layer in frozen:
            low = layer.weight.detach().to(torch.get_autocast_dtype(device))
            layer.weight = nn.Parameter(low, requires_grad=False)
        yield
    finally:
        for layer, weight in zip(frozen, weights, strict=True):
            layer.weight = weight


def _products(block: Any) -> tuple[nn.Module, ...]:
    return block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj


def _weights(layer: Any, dtype: torch.dtype) -> Weights:
    return layer.weight.detach().to(dtype), layer.bias.detach().to(dtype)


def _product(x: Tensor, weights: Weights) -> Tensor:
    weight, bias = weights
    return torch.addmm(bias, x.to(weight.dtype), weight)
