"""What `PPOTrainer` is given in Python, refused by name where it would be trained on in silence, or said and converted.

And what it is by content: a state of another run must not be taken for its own.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from rlhf.errors import InputError
from rlhf.learning.reward_sources import RewardSource
from rlhf.models.adapters import is_adapted, weights_hash
from rlhf.models.checkpoints import check_fits
from rlhf.models.trunk import unwrapped

TOO_COARSE = (torch.bfloat16, torch.float16)


def check_given(
    tokenizer: Any, policy: Any, reference: Any, value_model: Any, rewards: Sequence[RewardSource]
) -> None:
    """Raises InputError, saying what to pass instead, for what is not what PPO needs."""
    if not hasattr(tokenizer, "encode_prompt"):
        raise InputError(
            f"processing_class is a {_kind(tokenizer)}; pass a tokenizer, such as AutoTokenizer.from_pretrained(…)"
        )
    for name, model in (("model", policy), ("ref_model", reference)):
        if model is not None or name == "model":
            _check_language_model(name, model)
    for reward in rewards:
        _check_reward(reward)
    if value_model is not None:
        if not isinstance(value_model, nn.Module):
            raise InputError(f"value_model is a {_kind(value_model)}; pass a model with one label")
        _check_labels("value_model", value_model)
    read_by = {
        "model": (policy, tokenizer),
        "ref_model": (reference, tokenizer),
        "value_model": (value_model, tokenizer),
    }
    read_by |= {
        reward.name: (reward.source, reward.tokenizer or tokenizer) for reward in rewards if reward.is_model
    }
    for name, (model, its_tokenizer) in read_by.items():
        if model is not None:
            check_fits(its_tokenizer, model, name)


def _check_language_model(name: str, model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise InputError(
            f"{name} is a {_kind(model)}; pass a model, such as AutoModelForCausalLM.from_pretrained(…)"
        )
    if unwrapped(model).get_output_embeddings() is None:
        raise InputError(
            f"{name} is a {_kind(model)}, which predicts no tokens; pass a causal language model"
        )


def _check_reward(reward: RewardSource) -> None:
    source = reward.source
    if not reward.is_model:
        if not callable(source):
            raise InputError(
                f"reward_model is a {_kind(source)}; pass a function (prompts, completions) → floats, or a model "
                "such as AutoModelForSequenceClassification.from_pretrained(…, num_labels=1)"
            )
        return
    _check_labels("reward_model", source)


def _check_labels(name: str, model: Any) -> None:
    bare = unwrapped(model)
    head = getattr(bare, "score", None)
    if head is None and bare.get_output_embeddings() is not None:
        raise InputError(
            f"{name} is a {_kind(bare)}, a language model without scores; pass one with one label"
        )
    weights = [weight for weight in head.parameters() if weight.ndim == 2] if head is not None else []
    num_labels = len(weights[-1]) if weights else bare.config.num_labels
    if num_labels != 1:
        raise InputError(
            f"{name} is a {_kind(bare)} of {num_labels} labels, of which only the first would count; pass a model with "
            "num_labels=1, or a function that makes one score of them"
        )


def in_float32(model: nn.Module, name: str, say: Callable[[str], None]) -> None:
    """Convert in place what learns of a half-precision model: a step of Adam is smaller than its numbers can move.

    Without adapters the whole model, since its layers hand on one format. Says so.
    """
    learning = [weight for weight in model.parameters() if weight.requires_grad]
    coarse = sorted(
        {str(weight.dtype).removeprefix("torch.") for weight in learning if weight.dtype in TOO_COARSE}
    )
    if not coarse:
        return
    say(f"ppo: {name} is in {coarse[0]}, which loses small steps; it learns in float32")
    if is_adapted(model):
        for weight in learning:
            weight.data = weight.data.float()
    else:
        model.float()


def check_tied_head(policy: Any) -> None:
    """Raises InputError for adapters on a head or embedding that are one weight: merged, they would be another model's."""
    if not is_adapted(policy) or not getattr(policy.config, "tie_word_embeddings", False):
        return
    bare = unwrapped(policy)
    for layer in (bare.get_output_embeddings(), bare.get_input_embeddings()):
        if any("lora_" in name or "modules_to_save" in name for name, _ in layer.named_parameters()):
            raise InputError(
                "the adapters change the head or the embedding, which this model keeps as one weight: saved it would be "
                "another model; leave lm_head and embeddings out of target_modules and modules_to_save"
            )


def _kind(value: Any) -> str:
    return "text" if isinstance(value, str) else type(value).__name__


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
