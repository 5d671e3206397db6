"""What a run is by content: the state of another one must not be taken for its own."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from rlhf.data import fingerprint
from rlhf.errors import InputError
from rlhf.learning.prompts import EncodedPrompt
from rlhf.learning.reward_sources import RewardSource, columns_read
from rlhf.models.adapters import is_adapted, weights_hash
from rlhf.models.tokenizer import content_of
from stages.ppo.pretraining import Pretraining

LEARNING = ("policy", "value model")  # whose adapters the state brings back


def identity_of(models: Mapping[str, Any], rewards: Sequence[RewardSource]) -> dict[str, Any]:
    """The models that were given, by the hash of their weights, and the rewards in their order, which their weights go by.

    A reward model is known by its weights and its tokenizer, a function by its source.
    """
    found: dict[str, Any] = {
        name: _hash_of(model, with_adapters=name not in LEARNING)
        for name, model in models.items()
        if model is not None
    }
    for reward in rewards:
        name = f"reward {reward.name}"
        found[name] = _hash_of(reward.source) if reward.is_model else source_of(reward.source)
        if reward.is_model and reward.tokenizer is not None:
            found[f"tokenizer of {name}"] = fingerprint(content_of(reward.tokenizer))
    return found | {"order of rewards": [reward.name for reward in rewards]}


def prompts_hash(prompts: Sequence[EncodedPrompt], rewards: Sequence[RewardSource]) -> str | None:
    """Of prompts as tokens, with the columns that reward functions read beside them; None where there are no prompts.

    Raises InputError for a function that cannot be called with them.
    """
    if not prompts:
        return None
    of_each = columns_read(rewards, [row.columns for row in prompts]).values()
    read = {name: values for columns in of_each for name, values in columns.items()}
    return fingerprint([*(row.tokens for row in prompts), read])


def text_hash(pretraining: Pretraining | None) -> str | None:
    """Of the text of PPO-ptx as tokens, where there is any."""
    return weights_hash({"tokens": pretraining.tokens}) if pretraining else None


def adapters_of(*models: Any) -> list[Any]:
    """What kind of adapters each of the models has, in words that are the same in every process."""
    configs = [getattr(model, "peft_config", None) or {} for model in models]
    return [{name: _spelled(config.to_dict()) for name, config in each.items()} for each in configs]


def _spelled(config: Mapping[str, Any]) -> dict[str, Any]:
    left_out = ("base_model_name_or_path", "peft_version")  # the model is known by its weights
    return {
        name: sorted(value) if isinstance(value, set) else f"{value}"
        for name, value in config.items()
        if name not in left_out
    }


def check_same_run(place: Any, was: Any, now: Mapping[str, Any]) -> None:
    """Raises InputError for a state in `place` of another run, by what differs between the two, or of no run of PPO."""
    if not isinstance(was, Mapping):
        raise InputError(f"{place}: not the state of a run of PPO; choose another output_dir")
    if others := [name for name in {**now, **was} if now.get(name) != was.get(name)]:
        raise InputError(
            f"{place}: the state of a run with another {' and '.join(others)}; choose another output_dir"
        )


def _hash_of(model: nn.Module, with_adapters: bool = True) -> str:
    weights = model.state_dict()
    if not with_adapters and is_adapted(model):
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
