"""Models from checkpoints: ours where it can represent them, else what transformers gives; a scalar model from a policy."""

import copy
import math
from collections.abc import Sequence
from functools import cache, wraps
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GgufConfig,
    GPT2Config,
    PreTrainedModel,
)
from transformers.modeling_layers import GenericForSequenceClassification

from rlhf.errors import InputError, first_line
from rlhf.models.gpt import GPT, ScalarGPT
from rlhf.models.sources import fetch_weights, find_source, reading
from rlhf.models.trunk import trunk_of

# What a checkpoint should be, and what to do where it is not.
WHOLE_MODEL = ("whole language model", "give one whose files are all there and belong together")
REWARD_MODEL = ("reward model", "train one with rlhf reward --init, and name that")
NOT_LOADED = "no model could be loaded"


def load_policy(source: str | Path, dtype: torch.dtype | str | None = None) -> PreTrainedModel:
    """A causal language model in evaluation mode: our GPT for GPT-2 checkpoints, else what transformers gives.

    source: a folder, a GGUF file or a hub id. dtype: float32 unless given; "auto" is the checkpoint's own.
    Raises InputError where there is no model, and where a weight of it is not in its files.
    """
    return _load(source, GPT, AutoModelForCausalLM, WHOLE_MODEL, dtype=dtype or torch.float32)


def context_length(config: Any) -> int | None:
    """The most tokens that a model of this config reads; None where it names no limit."""
    length = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
    return length if length and length > 0 else None  # XLNet says -1


def num_tokens_of(model: Any) -> int:
    """How many tokens the model has an embedding for; what its config says where that is no plain table."""
    table = model.get_input_embeddings()
    return getattr(table, "num_embeddings", None) or model.config.get_text_config(decoder=True).vocab_size


def check_fits(tokenizer: Any, model: Any, name: object) -> None:
    """Raises InputError where a text, the chat format or padding gives a token that the model has not.

    tokenizer: one of rlhf/models/tokenizer.py. Rows of such tokens would be read from beyond the embedding.
    """
    wanted, there = tokenizer.largest_id + 1, num_tokens_of(model)
    if wanted > there:
        raise InputError(
            f"{name}: its tokenizer has {wanted} tokens, the model's embedding {there}; resize it "
            "(resize_token_embeddings), or give the tokenizer that the model was trained with"
        )


def check_known(tokens: Sequence[int], num_tokens: int, name: str) -> None:
    """Raises InputError for a token that a model of so many has not."""
    for token in (min(tokens, default=0), max(tokens, default=0)):
        if not 0 <= token < num_tokens:
            raise InputError(
                f"{name} has token {token}; the model has tokens 0 to {num_tokens - 1}", param=name
            )


def context_of(source: str | Path) -> int | None:
    """`context_length` of a folder, a GGUF file or a hub id, without loading the model."""
    with reading(source, NOT_LOADED):
        return context_length(AutoConfig.from_pretrained(**find_source(source).arguments))


def load_scalar(source: str | Path) -> PreTrainedModel:
    """A float32 model with one label in evaluation mode: ScalarGPT for GPT-2 checkpoints, else what transformers gives.

    source: a folder or a hub id. Raises InputError where there is no model, and for a language model, whose head would
    be one of chance: GGUF files hold nothing else.
    """
    if find_source(source).gguf:
        raise InputError(
            f"{source}: a GGUF file holds a language model, not a reward model; train one with --init"
        )
    return _load(
        source, ScalarGPT, AutoModelForSequenceClassification, REWARD_MODEL, dtype=torch.float32, settings={"num_labels": 1}
    )  # fmt: skip


def is_ours(config: Any) -> bool:
    """Whether our GPT can represent the checkpoint of this config."""
    return isinstance(config, GPT2Config) and not (
        config.add_cross_attention or config.reorder_and_upcast_attn
    )


def _load(
    name: str | Path,
    ours: Any,
    auto: Any,
    wanted: tuple[str, str],
    *,
    dtype: torch.dtype | str,
    settings: Any = None,
) -> Any:
    """What `from_pretrained` gives of our class where that can represent the checkpoint, else of `auto`; nothing of chance."""
    source = find_source(name)
    if source.path.is_dir() and not (source.path / "config.json").is_file():
        raise InputError(f"{name}: there is no config.json, so this is not a model's folder")
    if not source.path.exists():
        fetch_weights(source.place)
    with reading(name, NOT_LOADED):
        config = AutoConfig.from_pretrained(**source.arguments, **settings or {})
        _check_whole(config, name)
        if auto is AutoModelForSequenceClassification:
            register_scalar_class(config)
        made = auto._model_mapping.get(type(config), PreTrainedModel)
        _keep_loaded_embeddings(next(each for each in made.__mro__ if "_init_weights" in vars(each)))
        unpacked = {"quantization_config": GgufConfig(dequantize=True)} if source.gguf else {}
        model, loading = (ours if is_ours(config) else auto).from_pretrained(
            **source.arguments, **unpacked, config=config, dtype=dtype, **attention_for(config),
            output_loading_info=True, ignore_mismatched_sizes=True,  # which are told by name
        )  # fmt: skip
    _check_loaded(name, loading, *wanted)
    return model.eval()


def _check_loaded(name: str | Path, loading: dict[str, Any], kind: str, way_out: str) -> None:
    """Raises InputError where transformers drew a weight at random, since the files have none or one of another shape."""
    for weight in sorted(loading["missing_keys"]):
        raise InputError(f"{name}: not a {kind}, {weight} is not in it; {way_out}")
    for weight, stored, expected in sorted(loading["mismatched_keys"]):
        shapes = f"{tuple(stored)} in it, and {tuple(expected)} in the model of its config.json"
        raise InputError(f"{name}: not a {kind}, {weight} is {shapes}; {way_out}")


def _check_whole(config: Any, name: str | Path) -> None:
    """Raises InputError for what writes no text by itself: of which a part is a language model, or that needs another."""
    if config.model_type.endswith("_assistant"):
        raise InputError(
            f"{name}: {config.model_type} drafts for another model, whose states it reads; name that one"
        )
    language_model = AutoModelForCausalLM._model_mapping.get(type(config), None)
    wanted = getattr(language_model, "config_class", None)
    for part, kind in type(config).sub_configs.items():
        if kind is wanted and part != "text_config":  # that one AutoModel takes out itself
            raise InputError(
                f"{name}: {config.model_type} is no language model of plain text: {language_model.__name__} is its {part} alone"
            )


@cache
def _keep_loaded_embeddings(family: Any) -> None:
    """Let the family's own initialization leave the padding token's row alone where it was loaded.

    Youtu's sets it to zeros then, too, and it is a row of the tied head.
    """
    if family is PreTrainedModel:  # which does so already
        return
    initialize = family._init_weights

    @wraps(initialize)
    def careful(self: Any, module: Any) -> None:
        is_loaded = isinstance(module, nn.Embedding) and getattr(module.weight, "_is_hf_initialized", False)
        place = module.padding_idx if is_loaded else None
        row = None if place is None else module.weight.data[place].clone()
        initialize(self, module)  # of buffers that are in no file, such as Gemma's scale of its embeddings
        if row is not None:
            module.weight.data[place] = row

    family._init_weights = careful


def attention_for(config: Any) -> dict[str, str]:
    """The argument of a new model whose attention caps its logits (Gemma 2): transformers 5.17 lets sdpa leave the caps out."""
    return {"attn_implementation": "eager"} if getattr(config, "attn_logit_softcapping", None) else {}


def new_scalar_model(config: Any, **more: Any) -> PreTrainedModel:
    """A model of one label over the trunk of a language model's config. Raises InputError where none can be made."""
    register_scalar_class(config)
    try:
        model = AutoModelForSequenceClassification.from_config(config, **more)
    except (
        AttributeError,
        ValueError,
    ) as problem:  # a config of several parts, or one that AutoModel does not know
        raise InputError(
            f"{config.model_type}: no sequence classifier can be made of it ({first_line(problem)}); it can be a policy, but not "
            "be made a reward or value model"
        ) from None
    if getattr(model, "score", None) is None:
        raise InputError(
            f"{type(model).__name__} has no head `score` on hidden states; a model of the type {config.model_type} can be a "
            "policy, but not be made a reward or value model"
        )
    return model


def register_scalar_class(config: Any) -> None:
    """Let AutoModelForSequenceClassification know a class for this kind of config, one of ours where there is none."""
    kind: Any = type(config)
    if kind not in AutoModelForSequenceClassification._model_mapping:
        # Not by `register`, which in transformers 5.17 passes over configs of its own.
        AutoModelForSequenceClassification._model_mapping._extra_content[kind] = _made_class(kind)


@cache
def _made_class(kind: Any) -> type[PreTrainedModel]:
    """A sequence classifier of the family that a config belongs to, as transformers makes its own since version 5."""
    try:
        language_model = AutoModelForCausalLM._model_mapping[kind]
    except KeyError:
        raise InputError(f"{kind.__name__}: transformers has no language model of this kind") from None
    family = next(
        each
        for each in language_model.__mro__
        if each.__name__.endswith("PreTrainedModel") and each is not language_model
    )
    name = language_model.__name__.removesuffix("LMHeadModel").removesuffix("ForCausalLM")
    members = {
        "base_model_prefix": language_model.base_model_prefix,
        "config_class": kind,
        "__module__": language_model.__module__,  # whose source transformers reads for what the family can do
    }
    return type(f"{name}ForSequenceClassification", (GenericForSequenceClassification, family), members)


@torch.no_grad()
def scalar_from_policy(policy: PreTrainedModel) -> PreTrainedModel:
    """A scalar model with a copy of the policy's trunk and a new head, normal with std 1/√(C + 1).

    Stiennon et al. 2020, appendix B.1, for the head's scale. Raises InputError for a policy over whose trunk none can be made.
    """
    config = copy.deepcopy(policy.config)
    config.num_labels = 1
    if isinstance(policy, GPT):
        scalar: PreTrainedModel = ScalarGPT(config)
    else:
        scalar = new_scalar_model(config, dtype=policy.dtype)
    _give_trunk(policy, scalar)
    scalar.to(policy.device)
    head = scalar.score
    head.weight.normal_(std=1 / math.sqrt(head.weight.shape[1] + 1))
    return scalar.eval()


def _give_trunk(policy: PreTrainedModel, scalar: PreTrainedModel) -> None:
    try:
        trunk_of(scalar).load_state_dict(trunk_of(policy).state_dict())
    except RuntimeError:  # the decoder of a pair, or a model of several kinds of input
        mine, its = type(trunk_of(policy)).__name__, type(trunk_of(scalar)).__name__
        raise InputError(
            f"{type(policy).__name__} runs {mine}, and transformers has a sequence classifier over {its} only; it can be a "
            "policy, but not be made a reward or value model"
        ) from None


@torch.no_grad()
def fold_bias(scalar_model: PreTrainedModel, bias: float) -> None:
    """Raise every score of the model by `bias`, in a way that saving keeps.

    ScalarGPT: the smallest δ with score·δ = bias is added to the final norm's bias, so that every reader of the saved
    model gets the raised scores. Other models: added to `config.reward_offset`, which their users must add.
    Raises InputError for a head of zeros, which can carry no bias.
    """
    if not isinstance(scalar_model, ScalarGPT):
        scalar_model.config.reward_offset = reward_offset(scalar_model) + bias
        return
    weight = scalar_model.score.weight[0].double()
    if bias and not weight.any():
        raise InputError(
            "the score head is all zeros, so no bias can be folded into it; train the reward model first"
        )
    if bias:
        shift = bias * weight / weight.square().sum()
        scalar_model.transformer.ln_f.bias.add_(shift.float())


def reward_offset(model: PreTrainedModel) -> float:
    """What to add to the model's logits to get the reward; 0.0 unless `fold_bias` could not fold it in."""
    return float(getattr(model.config, "reward_offset", 0.0))
