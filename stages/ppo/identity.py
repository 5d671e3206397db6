"""What a PPO run in memory learns from, by content: a state of another run must not be taken for its own."""

import hashlib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from rlhf.learning.reward_sources import RewardSource
from rlhf.models.adapters import is_adapted


def identity_of(models: Mapping[str, Any], rewards: Sequence[RewardSource]) -> dict[str, str]:
    """The hash of each model that was given, and of each reward: a model by its weights, a function by its source."""
    found = {name: weights_hash(model) for name, model in models.items() if model is not None}
    for reward in rewards:
        found[f"reward {reward.name}"] = (
            weights_hash(reward.source) if reward.is_model else source_of(reward.source)
        )
    return found


def weights_hash(model: nn.Module) -> str:
    """sha256 over names, formats and values of the weights; adapters are left out, which the state brings back itself."""
    digest = hashlib.sha256()
    adapted = is_adapted(model)
    for name, weight in model.state_dict().items():
        if adapted and "lora_" in name:
            continue
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}\n".encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def source_of(function: Any) -> str:
    """The source of a function, or of the class of an object that is called; its name where Python cannot find that.

    What it calls, and what it remembers, is not seen.
    """
    coded = function if inspect.isroutine(function) else type(function)
    try:
        return inspect.getsource(coded)
    except (OSError, TypeError):
        return f"{getattr(coded, '__module__', '')}.{getattr(coded, '__qualname__', coded)}"
