"""What a PPO run in memory learns from, by content: a state of another run must not be taken for its own."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from rlhf.learning.reward_sources import RewardSource
from rlhf.models.adapters import is_adapted, weights_hash


def identity_of(models: Mapping[str, Any], rewards: Sequence[RewardSource]) -> dict[str, str]:
    """The hash of each model that was given, and of each reward: a model by its weights, a function by its source."""
    found = {name: _hash_of(model) for name, model in models.items() if model is not None}
    for reward in rewards:
        found[f"reward {reward.name}"] = (
            _hash_of(reward.source) if reward.is_model else source_of(reward.source)
        )
    return found


def _hash_of(model: nn.Module) -> str:
    """Of all weights but those of adapters, which the state brings back itself."""
    weights = model.state_dict()
    if is_adapted(model):
        weights = {name: weight for name, weight in weights.items() if "lora_" not in name}
    return weights_hash(weights)


def source_of(function: Any) -> str:
    """The source of a function, or of the class of an object that is called; its name where Python cannot find that.

    What it calls, and what it remembers, is not seen.
    """
    coded = function if inspect.isroutine(function) else type(function)
    try:
        return inspect.getsource(coded)
    except (OSError, TypeError):
        return f"{getattr(coded, '__module__', '')}.{getattr(coded, '__qualname__', coded)}"
