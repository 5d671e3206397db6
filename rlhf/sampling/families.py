"""Language models described by their parts, so that decoder.cpp can run them by their bare weights.

A block attends and feeds forward, each between norms that it may or may not have before and after; queries and keys may
have norms of their own, be rotated, see a window only, share keys; the feed-forward layer may be gated. That is GPT-2,
Llama, Mistral, Qwen 2 and 3, SmolLM, OLMo 2, Phi 3, Gemma 1 to 3 and many others. A model is known by its parts, not by
its name, and by a trial (rlhf/sampling/decoder.py).
"""

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedConfig
from transformers.pytorch_utils import Conv1D

from rlhf.machine import decoding, kernels
from rlhf.models.trunk import trunk_of

STATIC_ROTATIONS = {"default", "linear", "llama3", "yarn", "proportional"}  # the same whatever the length
ACTIVATIONS = {
    decoding.SILU: F.silu,
    decoding.GELU_TANH: lambda x: F.gelu(x, approximate="tanh"),
    decoding.GELU: F.gelu,
    decoding.RELU: F.relu,
}


class Undescribed(Exception):
    """A part that decoder.cpp does not know."""


@dataclass
class Family:
    """A model's bare weights. The structure holds addresses of the tensors in `kept`, and of the model's own."""

    dtype: torch.dtype
    num_tokens: int  # rows of the embedding
    packed: bool  # weights of products in 8 bits, with a scale for every output
    structure: decoding.Model
    kept: list[Any]
    rotary: dict[str, Any]  # by kind of layer, from positions (P,) to cosines and sines (P, rotated)
    kinds: list[str]  # of the layers
    layers: Any

    def rotate_up_to(self, num_positions: int, first: int) -> None:
        """Give the layers cosines and sines of `num_positions` positions from `first` on."""
        positions = torch.arange(first, first + num_positions)
        tables = {kind: tables_of(positions) for kind, tables_of in self.rotary.items()}
        for layer, kind in zip(self.layers, self.kinds, strict=True):
            layer.cos, layer.sin = (table.data_ptr() for table in tables[kind])
        self.tables = tables  # kept as long as the addresses


def describe(model: Any, dtype: torch.dtype, packed: bool = False) -> Family:
    """The model's weights in `dtype`, of products in 8 bits where packed. Raises Undescribed."""
    bare = model.get_base_model() if hasattr(model, "get_base_model") else model
    trunk, head = trunk_of(bare), getattr(bare, "get_output_embeddings", lambda: None)()
    if trunk is bare or head is None:
        raise Undescribed("no trunk under a head")
    if any(parameter.is_meta for parameter in trunk.parameters()):
        raise Undescribed("weights that stay in their files (rlhf/models/offload.py)")
    parts = _Parts(bare.config, dtype, packed)
    try:
        if _names(trunk) == {"wte", "wpe", "drop", "h", "ln_f"}:
            return parts.gpt(trunk, head)
        if _names(trunk) == {"embed_tokens", "layers", "norm", "rotary_emb"}:
            return parts.llama_like(trunk, head)
    except (
        AttributeError,
        RuntimeError,
    ) as missing:  # experts, a norm without weights, layers of several sizes, …
        raise Undescribed(f"parts of other names: {missing}") from None
    raise Undescribed("unknown parts of the trunk")


@dataclass
class _Parts:
    """From modules to structures, keeping every tensor whose address it gives away."""

    config: Any
    dtype: torch.dtype
    packed: bool
    kept: list[Any] = field(default_factory=list)

    def gpt(self, trunk: Any, head: Any) -> Family:
        layers = [self.gpt_layer(block) for block in trunk.h]
        kinds = {_activation(getattr(block.mlp, "activate", block.mlp.act)) for block in trunk.h}
        positions = self.keep(trunk.wpe.weight.detach().float().contiguous())
        return self.family(
            layers, kinds, trunk.wte, head, trunk.ln_f, positions=positions.data_ptr(), embedding_scale=1.0
        )

    def gpt_layer(self, block: Any) -> decoding.Layer:
        if not {"ln_1", "attn", "ln_2", "mlp"} >= _names(block) or not hasattr(block.attn, "scale"):
            raise Undescribed("unknown parts of a block")
        names = ("q", "k", "v")
        thirds = zip(names, self.matrices(block.attn.c_attn, *[self.config.hidden_size] * 3), strict=True)
        [o], [up], [down] = map(self.matrices, (block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj))
        return decoding.Layer(
            before_attention=self.norm(block.ln_1), before_mlp=self.norm(block.ln_2),
            o=o, up=up, down=down, scale=block.attn.scale, **dict(thirds),
        )  # fmt: skip

    def llama_like(self, trunk: Any, head: Any) -> Family:
        cache = DynamicCache(config=self.config)
        windows = [layer.sliding_window if layer.is_sliding else 0 for layer in cache.layers]
        if len(windows) != len(trunk.layers):
            raise Undescribed("layers that keep no keys")
        layers = [self.layer(block, window) for block, window in zip(trunk.layers, windows, strict=True)]
        family = self.family(
            layers,
            {_activation(getattr(block.mlp, "act_fn", getattr(block.mlp, "activation_fn", None))) for block in trunk.layers},
            trunk.embed_tokens,
            head,
            trunk.norm,
            embedding_scale=float(getattr(trunk.embed_tokens, "embed_scale", 1.0)),
            attention_cap=getattr(self.config, "attn_logit_softcapping", None) or 0.0,
            logit_cap=getattr(self.config, "final_logit_softcapping", None) or 0.0,
        )  # fmt: skip
        family.kinds = [getattr(block.self_attn, "layer_type", "") or "" for block in trunk.layers]
        family.rotary = {kind: _rotation(trunk, kind) for kind in set(family.kinds)}
        family.structure.rotated = next(iter(family.rotary.values()))(torch.zeros(1))[0].shape[1]
        return family

    def layer(self, block: Any, window: int) -> decoding.Layer:
        attn, mlp = block.self_attn, block.mlp
        if not hasattr(attn, "scaling"):
            raise Undescribed("attention without a scale")
        size, H, K = _head_sizes(self.config)
        [o], [down] = self.matrices(attn.o_proj), self.matrices(mlp.down_proj)
        fields = dict(self.block_norms(block), o=o, down=down, window=window, scale=attn.scaling)
        if hasattr(attn, "qkv_proj"):
            fields |= zip("qkv", self.matrices(attn.qkv_proj, H * size, K * size, K * size), strict=True)
        else:
            fields |= {name: self.matrices(getattr(attn, f"{name}_proj"))[0] for name in "qkv"}
        if hasattr(mlp, "gate_up_proj"):
            half = mlp.gate_up_proj.out_features // 2
            fields |= zip(("gate", "up"), self.matrices(mlp.gate_up_proj, half, half), strict=True)
        else:
            fields |= {name: self.matrices(getattr(mlp, f"{name}_proj"))[0] for name in ("gate", "up")}
        for name, module in (("queries", "q_norm"), ("keys", "k_norm")):
            if hasattr(attn, module):
                fields[name] = self.norm(getattr(attn, module))
        known = {"q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj", "q_norm", "k_norm"}
        if not known >= _names(attn):
            raise Undescribed("unknown parts of attention")
        return decoding.Layer(**fields)

    def block_norms(self, block: Any) -> dict[str, decoding.Norm]:
        """Which norm stands where is told by which there are: before, after, or on both sides of each half."""
        names = _names(block) - {"self_attn", "mlp", "resid_attn_dropout", "resid_mlp_dropout"}
        ordered = [name for name, _ in block.named_children() if name in names]
        places: tuple[str, ...] = ()
        if names == {"input_layernorm", "post_attention_layernorm"}:
            places = ("before_attention", "before_mlp")
        elif names == {"post_attention_layernorm", "post_feedforward_layernorm"}:
            places = ("after_attention", "after_mlp")
        elif names == {
            "input_layernorm",
            "post_attention_layernorm",
            "pre_feedforward_layernorm",
            "post_feedforward_layernorm",
        }:
            places = ("before_attention", "after_attention", "before_mlp", "after_mlp")
        else:
            raise Undescribed("unknown norms of a block")
        return {place: self.norm(getattr(block, name)) for place, name in zip(places, ordered, strict=True)}

    def family(
        self, layers: list[Any], activations: set[int], embedding: Any, head: Any, last: Any, **more: Any
    ) -> Family:
        size, H, K = _head_sizes(self.config)
        if size % decoding.LANES or H % K or len(activations) != 1:
            raise Undescribed("heads or activations of another size or kind")
        array = (decoding.Layer * len(layers))(*layers)
        table, [words] = embedding.weight.detach().contiguous(), self.matrices(head)
        structure = decoding.Model(
            num_layers=len(layers), channels=table.shape[1], heads=H, key_heads=K, head_size=size,
            inner=layers[0].up.outputs, activation=activations.pop(), embedding=self.keep(table).data_ptr(),
            embedding_is_float=table.dtype == torch.float32, layers=array, last=self.norm(last), head=words, **more,
        )  # fmt: skip
        return Family(self.dtype, len(table), self.packed, structure, self.kept, {}, [], array)

    def keep(self, tensor: Tensor) -> Tensor:
        bare = type(tensor) is Tensor and tensor.untyped_storage().size() > 0  # not of a model in shards
        if not bare or not (kernels.fits(tensor) or tensor.dtype == torch.int8):
            raise Undescribed("weights elsewhere, or in another format")
        self.kept.append(tensor)
        return tensor

    def matrices(self, layer: Any, *outputs: int) -> list[decoding.Matrix]:
        """The rows of a layer's weights in order: all, or as many as `outputs` says for each."""
        weights, bias = _plain(layer)
        scales = None
        if self.packed:
            scales = self.keep((weights.float().abs().amax(1) / 127).clamp(min=1e-12))
            weights = self.keep((weights.float() / scales[:, None]).round().to(torch.int8).contiguous())
        else:
            weights = self.keep(weights.to(self.dtype).contiguous())
        bias = None if bias is None else self.keep(bias.float().contiguous())
        sizes, found, first = outputs or (len(weights),), [], 0
        for size in sizes:
            rows = slice(first, first := first + size)
            addresses = (None if x is None else x[rows].data_ptr() for x in (weights, scales, bias))
            found.append(decoding.Matrix(*addresses, size, weights.shape[1]))
        return found

    def norm(self, module: Any) -> decoding.Norm:
        weight = module.weight.detach().float()
        if isinstance(module, nn.LayerNorm):
            bias = None if module.bias is None else self.keep(module.bias.detach().float().contiguous())
            gain = self.keep(weight.contiguous()).data_ptr()
            return decoding.Norm(gain, None if bias is None else bias.data_ptr(), len(weight), 1, module.eps)
        eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
        if eps is None:
            raise Undescribed("an unknown norm")
        said = module(torch.ones_like(weight)).float()  # Gemma's gains are kept as their distance from one
        for gain in (weight, 1 + weight):
            if torch.allclose(said, gain, rtol=1e-2, atol=1e-2):
                return decoding.Norm(self.keep(gain.contiguous()).data_ptr(), None, len(gain), 0, eps)
        raise Undescribed("an unknown norm")


def _head_sizes(config: PreTrainedConfig) -> tuple[int, int, int]:
    """Numbers in a head, heads of queries, and heads of keys, which queries may share."""
    num_queries = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // num_queries
    return size, num_queries, getattr(config, "num_key_value_heads", None) or num_queries


def _names(module: nn.Module) -> set[str]:
    return {name for name, _ in module.named_children()}


def _plain(layer: Any) -> tuple[Tensor, Tensor | None]:
    """Weights (outputs, inputs) and bias of a linear layer, with the adapters (LoRA) over it merged into a copy."""
    if type(layer) is nn.Linear:
        return layer.weight.detach(), None if layer.bias is None else layer.bias.detach()
    if type(layer) is Conv1D:
        return layer.weight.detach().T, layer.bias.detach()
    if not hasattr(layer, "get_base_layer") or not hasattr(layer, "get_delta_weight"):
        raise Undescribed("a layer that is no plain product")
    weights, bias = _plain(layer.get_base_layer())
    if layer.disable_adapters or layer.merged:
        return weights, bias
    for name in layer.active_adapters:
        if name in layer.lora_A:
            if name in getattr(layer, "lora_variant", {}) or getattr(layer, "lora_bias", {}).get(name):
                raise Undescribed("adapters that are more than a product of two")
            delta = layer.get_delta_weight(name).detach()
            weights = weights + (delta.T if type(layer.get_base_layer()) is Conv1D else delta)
    return weights, bias


def _activation(function: Any) -> int:
    """The kind of an elementwise function, told by what it gives."""
    x = torch.linspace(-6, 6, 97)
    for kind, known in ACTIVATIONS.items():
        if function is not None and torch.allclose(function(x), known(x), atol=1e-5):
            return kind
    raise Undescribed("an unknown activation")


def _rotation(trunk: Any, kind: str) -> Any:
    rotary = trunk.rotary_emb
    kinds = rotary.rope_type if isinstance(rotary.rope_type, dict) else {kind: rotary.rope_type}
    if not set(kinds.values()) <= STATIC_ROTATIONS:
        raise Undescribed("a rotation that depends on the length")
    more = (kind,) if isinstance(rotary.rope_type, dict) else ()

    def tables(positions: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = rotary(torch.zeros(1, dtype=torch.float32), positions[None], *more)
        return cos[0].float().contiguous(), sin[0].float().contiguous()

    return tables
