"""Through the trunk of a transformers model: its blocks, without a head."""

import inspect
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from rlhf.errors import InputError
from rlhf.models.gpt import Trunk, tokens_at


def trunk_states(model: Any, tokens: Tensor, attention_mask: Tensor, wanted: Tensor | None = None) -> Tensor:
    """Hidden states (B, S, C), or (N, C) at wanted (N,) places in B·S; at padding they mean nothing.

    tokens (B, S) int64 padded on the right, attention_mask (B, S), nonzero on real tokens. No position ids: padding
    on the right moves no real token. A causal model's real tokens do not see it either, and where no mask is given
    attention takes a kernel that never computes the future (FlashAttention-2, Dao 2023, section 3.1).
    """
    mask = None if is_causal(model) else attention_mask.long()
    trunk = trunk_of(model)
    chooses = isinstance(trunk, Trunk)  # before its last block, which is then less work
    more = {"wanted": wanted} if chooses else {}
    output = trunk(**accepted(trunk, input_ids=tokens, attention_mask=mask, use_cache=False), **more)
    return output.last_hidden_state if chooses else tokens_at(output.last_hidden_state, wanted)


def trunk_of(model: Any) -> Any:
    """What a transformers model runs below its head; the model itself where it has none.

    `base_model` goes by a name that some families, Llama 4 among them, give to no part of theirs.
    """
    trunk = getattr(model, "base_model", model)
    has_head = getattr(model, "get_output_embeddings", lambda: None)() is not None
    if trunk is not model or not has_head:
        return trunk
    parts = [part for part in model.children() if isinstance(part, PreTrainedModel)]
    return parts[0] if len(parts) == 1 else trunk


def accepted(model: Any, **arguments: Any) -> dict[str, Any]:
    """Those of the arguments that the model's forward pass names: families without positions, say, have no such."""
    bare = unwrapped(model)
    names = inspect.signature(bare.forward).parameters
    passes_on = hasattr(bare, "get_base_model") or "input_ids" not in names  # a wrapper, of soft prompts say
    return {name: value for name, value in arguments.items() if passes_on or name in names}


def is_causal(model: Any) -> bool:
    """Whether every attention of the trunk says that it hides later tokens; False where none says anything."""
    flags = [
        module.is_causal
        for module in trunk_of(model).modules()
        if isinstance(getattr(module, "is_causal", None), bool)
    ]
    return bool(flags) and all(flags)


def blocks_of(model: Any) -> nn.ModuleList:
    """The list of a transformers model's blocks. Raises InputError where it keeps none."""
    num_blocks = getattr(model.config, "num_hidden_layers", None)
    for module in trunk_of(model).modules():
        if isinstance(module, nn.ModuleList) and len(module) == num_blocks:
            return module
    raise InputError(
        f"{type(model).__name__} has no list of blocks, so neither last_blocks nor gradient_checkpointing can be set; "
        "train all of it, or adapters"
    )


def frozen_linear_layers(module: nn.Module) -> list[nn.Linear | Conv1D]:
    """Linear layers (Conv1D too) below a module whose weight does not learn: autocast makes it small at each pass anew."""
    return [
        layer
        for layer in module.modules()
        if isinstance(layer, nn.Linear | Conv1D) and not layer.weight.requires_grad
    ]


def unwrapped(model: Any) -> Any:
    """The transformers model inside peft's wrapper, adapters included; any other model itself.

    Soft prompts and prefixes live in the wrapper, which then stays.
    """
    if not hasattr(model, "get_base_model") or model.active_peft_config.is_prompt_learning:
        return model
    return model.get_base_model()


def has_scalar_head(bare: Any) -> bool:
    """Whether the model is a trunk with a linear head `score` on its hidden states."""
    return isinstance(getattr(bare, "score", None), nn.Module) and trunk_of(bare) is not bare
