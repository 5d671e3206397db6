"""Models from checkpoints: ours where it can represent them, else what transformers gives; a scalar model from a policy."""

import copy
import math
import re
from collections.abc import Iterable, Sequence
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
from rlhf.models.sources import Source, check_index, fetch_weights, file_of, find_source, reading
from rlhf.models.trunk import trunk_of

# What a checkpoint should be, and what to do where it is not.
WHOLE_MODEL = ("whole language model", "give one whose files are all there and belong together")
REWARD_MODEL = ("reward model", "train one with rlhf reward --init, and name that")
NOT_LOADED = "no model could be loaded"
# In files though no model takes them: what older versions stored and newer ones compute, scales of activations, heads that
# draft, and trl's value head beside a whole policy.
NOT_MISSED = re.compile(
    r"(attn|attention)\.(masked_)?bias$|causal_mask$|inv_freq$|(cos|sin)_cached$|position_ids$|^rope_freqs\.weight$"
    r"|(input|activation|q|k|v|kv)_scale$|(^|\.)mtp\w*\.|^v_head\."
)
LANGUAGE_HEAD = re.compile(r"^(lm_head|embed_out)\.")
LAYER = re.compile(r"\blayers\.(\d+)\.")
ADAPTER = "adapter_config.json"


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
    model = _load(
        source, ScalarGPT, AutoModelForSequenceClassification, REWARD_MODEL, dtype=torch.float32, settings={"num_labels": 1}
    )  # fmt: skip
    check_offset(getattr(model.config, "reward_offset", 0.0), source)
    return model  # type: ignore[no-any-return]


def check_offset(offset: Any, place: object) -> None:
    """Raises InputError for what cannot be added to scores."""
    if not isinstance(offset, int | float) or not abs(offset) <= torch.finfo(torch.float32).max:
        raise InputError(f"{place}: reward_offset is {offset!r}; it is the finite number added to each score")


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
    check_no_adapter(source, name)
    if source.path.is_dir() and not (source.path / "config.json").is_file():
        raise InputError(f"{name}: there is no config.json, so this is not a model's folder")
    if not source.path.exists():
        fetch_weights(source.place)
    check_index(source.path)
    with reading(name, NOT_LOADED):
        config = AutoConfig.from_pretrained(**source.arguments, **settings or {})
        _check_whole(config, name)
        _ask_for_floats(config)
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
    check_all_taken(name, left_over(model, config, loading["unexpected_keys"]), *wanted)
    forget_quantisation(model)
    note_own_head(model)
    return model.eval()


def _ask_for_floats(config: Any) -> None:
    """Let weights of FP8 and MXFP4 become floats with a GPU that computes with them, too, as they do without."""
    how = getattr(config, "quantization_config", None)
    if isinstance(how, dict) and how.get("quant_method") in ("fp8", "mxfp4"):
        how["dequantize"] = True


def forget_quantisation(model: Any) -> None:
    """Let a model whose weights became floats be saved as it is.

    transformers would quantise them again, into files of which config.json does not say so: read anew they are noise.
    """
    made = (
        step
        for way in getattr(model, "_weight_conversions", None) or ()
        for step in getattr(way, "operations", ())
    )
    if any("Dequantize" in type(step).__name__ for step in made):
        model._weight_conversions = None  # the names and shapes are then those that the family has by itself


def check_no_adapter(source: Source, name: str | Path) -> None:
    """Raises InputError for an adapter, be it alone or beside a model, over which transformers would put it without a word."""
    if file_of(source, ADAPTER):
        raise InputError(
            f"{name}: {ADAPTER} is an adapter, over the base that it names; merge it into that (merge_and_unload) and give "
            "the folder so made, or move the adapter's files away to take the model beside it"
        )


def note_own_head(model: Any) -> None:
    """Let the config say so where the head is no longer the embedding: saved and loaded, it would become that."""
    head = getattr(model.get_output_embeddings(), "weight", None)
    if not model._tied_weights_keys or head is None or head is model.get_input_embeddings().weight:
        return
    for config in (model.config, model.config.get_text_config(decoder=True)):
        config.tie_word_embeddings = False
    model._keys_to_ignore_on_save = None


def left_over(model: Any, config: Any, names: Iterable[str]) -> list[str]:
    """Those stored weights of `names`, which the model did not take, that it would have needed to be what was trained.

    config: that of the folder, of which the model may be a part.
    """
    its, drafts = model.config.get_text_config(decoder=True), "num_nextn_predict_layers"
    ignored = re.compile("|".join(model._keys_to_ignore_on_load_unexpected or ()) or "$^")
    found = [name for name in names if not NOT_MISSED.search(name) and not ignored.search(name)]
    if model.get_output_embeddings() is None:  # a scalar model does without
        found = [name for name in found if not LANGUAGE_HEAD.search(name)]
    if getattr(its, drafts, 0):
        found = [name for name in found if _layer_of(name) < its.num_hidden_layers]
    if type(model.config) is not type(config):  # the text part of a model that also sees
        modules = dict(model.named_modules())
        above = ("", next(name for name, module in modules.items() if module is trunk_of(model)))
        found = [name for name in found if _owner(name, modules) not in above]
    return sorted(found)


def _layer_of(name: str) -> int:
    found = LAYER.search(name)
    return int(found[1]) if found else -1


def _owner(name: str, modules: dict[str, Any]) -> str:
    """The nearest module above a weight of that name."""
    while name not in modules:
        name = name.rpartition(".")[0]
    return name


def check_all_taken(name: str | Path, left: Sequence[str], kind: str, way_out: str) -> None:
    """Raises InputError where weights of the files are in no place of the model: it is another than that was trained."""
    if left:
        which = f"{left[0]} and {len(left) - 1} more weights have" if len(left) > 1 else f"{left[0]} has"
        raise InputError(f"{name}: not a {kind}, {which} no place in the model of its config.json; {way_out}")


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
        norm = scalar_model.transformer.ln_f
        # A new parameter, because the old one may be another model's, too.
        norm.bias = nn.Parameter(norm.bias + shift.float(), requires_grad=norm.bias.requires_grad)


def reward_offset(model: PreTrainedModel) -> float:
    """What to add to the model's logits to get the reward; 0.0 unless `fold_bias` could not fold it in."""
    return float(getattr(model.config, "reward_offset", 0.0))
