"""Frozen models in less memory: weights that every pass would make bfloat16 for its products are held so."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from rlhf.errors import InputError
from rlhf.machine.devices import autocast
from rlhf.models.trunk import blocks_of, frozen_linear_layers, trunk_states, unwrapped


@torch.no_grad()
def hold_products_in_bfloat16(model: Any, learning: Iterable[Any | None] = ()) -> int:
    """Hold the weights of the products of a model's blocks in bfloat16, in place; returns how many bytes that saves.

    For models that run in an autocast region, where each of these weights would be made bfloat16 at each pass: what the
    model computes there stays the same to the last bit. A pass before and one after prove it; where they differ, or no
    list of blocks is known, all stays as it was and the number is 0. learning: models whose weights, where `model`
    shares them, stay as they are.
    """
    bare = unwrapped(model)
    if hasattr(bare, "get_base_model"):
        return 0  # soft prompts: the wrapper computes, and not as its trunk does
    kept = {id(p) for other in learning if other is not None for p in other.parameters()}
    weights = [p for p in _weights_of_products(bare) if id(p) not in kept]
    if not weights:
        return 0
    before, whole = _states(bare), [p.data for p in weights]
    for parameter in weights:
        parameter.data = parameter.data.bfloat16()
    if torch.equal(before, _states(bare)):
        return sum(2 * p.numel() for p in weights)
    for parameter, data in zip(weights, whole, strict=True):
        parameter.data = data
    return 0


def _weights_of_products(model: Any) -> list[nn.Parameter]:
    """Frozen float32 weights of the blocks' linear layers, each once."""
    try:
        blocks = blocks_of(model)
    except InputError:
        return []
    found = {
        id(p): p
        for layer in frozen_linear_layers(blocks)
        for p in layer.parameters(recurse=False)
        if p.dtype == torch.float32 and not p.requires_grad
    }
    return list(found.values())


def _states(model: Any) -> Tensor:
    tokens = torch.arange(32, device=model.device).view(2, 16) % model.config.vocab_size
    with autocast(model.device, "on"):
        return trunk_states(model, tokens, torch.ones_like(tokens))
