"""Caches of transformers whose rows join and leave: keys and values by place, and states that hold no places.

Shapes: B rows, W places, the first of which are padding in shorter rows.
"""

import inspect
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig, cache_utils
from transformers.cache_utils import (
    CacheLayerMixin,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
    LinearAttentionLayer,
)

from rlhf.models.gpt import CACHE

CACHE_NAMES = ("cache", "cache_params", "past_key_values")  # of forward passes: today's first, from 5.24 on

# Layers that choose among places (DynamicIndexedLayer) would choose padding, too, once there are more than they choose.
KNOWN = {DynamicLayer, LinearAttentionLayer, LinearAttentionAndFullAttentionLayer}
if hasattr(cache_utils, "DummyLayer"):  # holds nothing; transformers 5.17 knows no such layer
    KNOWN |= {cache_utils.DummyLayer}
KEYS = ("keys", "values")  # (B, heads, W, …)
STATES = ("conv_states", "recurrent_states")  # by number, without places


def cache_name(model: Any) -> str:
    """The argument by which the model's forward pass is given a cache."""
    bare = model.get_base_model() if hasattr(model, "get_base_model") else model
    names = inspect.signature(bare.forward).parameters
    return next((name for name in CACHE_NAMES if name in names), CACHE)


class UnknownLayer(Exception):
    """A cache that holds more than is known of here."""


def new_cache(config: PreTrainedConfig) -> DynamicCache:
    """An empty cache. Layers with a sliding window keep all, so that rows can join; the model's own mask hides the rest.

    Raises UnknownLayer.
    """
    cache = DynamicCache(config=config)
    cache.layers = [_keeping_all(layer) for layer in cache.layers]
    if unknown := [type(layer).__name__ for layer in cache.layers if type(layer) not in KNOWN]:
        raise UnknownLayer(unknown[0])
    return cache


def _keeping_all(layer: Any) -> Any:
    if type(layer) is DynamicSlidingWindowLayer:
        return DynamicLayer()
    if type(layer) is LinearAttentionAndSlidingWindowAttentionLayer:
        return LinearAttentionAndFullAttentionLayer(layer.number_of_states)
    return layer


def has_keys(cache: DynamicCache) -> bool:
    """Whether any layer attends to places: a cache without knows no mask of what is behind."""
    return not cache.layers or any(isinstance(layer, CacheLayerMixin) for layer in cache.layers)


def join(cache: DynamicCache, other: DynamicCache, mine: int, its: int) -> None:
    """Take another's rows in below a cache's own, of `its` and `mine` places."""
    width = max(mine, its)
    for layer, its_layer in zip(cache.layers, other.layers, strict=True):
        held = tensors(its_layer)
        for name, tensor in tensors(layer).items():
            parts = _wider(name, tensor, width - mine), _wider(name, held[name], width - its)
            _put(layer, name, torch.cat(parts))


def select(cache: DynamicCache, rows: Tensor, first: int) -> None:
    """Keep some rows (B,), and the places from `first` on."""
    for layer in cache.layers:
        for name, tensor in tensors(layer).items():
            tensor = tensor[rows.to(tensor.device)]
            _put(layer, name, tensor[:, :, first:] if name[0] in KEYS else tensor)


def tensors(layer: Any) -> dict[tuple[str, int | None], Tensor]:
    """All that a layer holds, by name and number."""
    found: dict[tuple[str, int | None], Tensor] = {
        (name, None): getattr(layer, name) for name in KEYS if getattr(layer, name, None) is not None
    }
    for name in STATES:
        states = getattr(layer, name, {})
        found |= {(name, number): state for number, state in states.items() if state is not None}
    return found


def _put(layer: Any, name: tuple[str, int | None], tensor: Tensor) -> None:
    if name[1] is None:
        setattr(layer, name[0], tensor)
    else:
        getattr(layer, name[0])[name[1]] = tensor


def _wider(name: tuple[str, int | None], tensor: Tensor, places: int) -> Tensor:
    """With so many empty places in front."""
    return F.pad(tensor, (0, 0, places, 0)) if name[0] in KEYS else tensor
