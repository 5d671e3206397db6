"""GPT-2 from scratch (Radford et al. 2019), and the same trunk with a scalar head.

GPT         embeddings → n_layer × Block(Attention, MLP) → layer norm → LM head tied to the token embedding
ScalarGPT   the same trunk → one number at the last real token: reward and value models

Checkpoints are plain GPT-2 checkpoints, in tensor names, layouts and config.json. Shapes: B batch, T tokens, W keys
seen, C channels, H heads, D = C / H, V vocabulary.
"""

import copy
import math
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache, GenerationMixin, GPT2Config, PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.loss.loss_utils import ForCausalLMLoss
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    CausalLMOutputWithPast,
    SequenceClassifierOutput,
)
from transformers.pytorch_utils import Conv1D  # x @ weight (in, out) + bias; peft knows this class

from rlhf.errors import InputError
from rlhf.machine import kernels

# What a model's output calls its cache.
CACHE = "cache" if "cache" in BaseModelOutputWithPast.__dataclass_fields__ else "past_key_values"


class Dropout(nn.Dropout):
    """nn.Dropout that costs nothing at rate 0."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.p) if self.training and self.p else x


# Up to this many keys plain products beat the fused kernel on CPUs in bfloat16, two to five times; further on their
# quadratic memory loses (benchmarks/attention.py, docs/benchmarks.md).
PLAIN_WIDTH = 512


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017); what may be seen is an argument, so encoders use it too."""

    def __init__(self, config: GPT2Config, layer: int) -> None:
        super().__init__()
        self.layer, self.num_heads = layer, config.n_head
        self.scale = (config.n_embd // config.n_head) ** -0.5 if config.scale_attn_weights else 1.0
        if config.scale_attn_by_inverse_layer_idx:
            self.scale /= layer + 1
        self.c_attn = Conv1D(3 * config.n_embd, config.n_embd)
        self.c_proj = Conv1D(config.n_embd, config.n_embd)
        self.attn_dropout = Dropout(config.attn_pdrop)
        self.resid_dropout = Dropout(config.resid_pdrop)

    def forward(
        self, x: Tensor, mask: Tensor | None, is_causal: bool, cache: Any = None, wanted: Tensor | None = None
    ) -> Tensor:
        """x (B, T, C) → (B, T, C), or (N, C) of the wanted tokens; see Trunk.forward.

        mask: added to the scores, broadcasts to (B, H, T, W); is_causal: no query sees a later key; mask is None then.
        """
        B, T, C = x.shape
        heads = self.c_attn(x).view(B, T, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = heads.contiguous()  # (B, H, T, D)
        if cache is not None:
            k, v = cache.update(k, v, self.layer)
        if x.device.type == "cpu" and k.shape[2] <= PLAIN_WIDTH:
            out = self.attn_dropout(self.weights(q, k.transpose(-1, -2), mask, is_causal)) @ v
        else:
            dropout = self.attn_dropout.p if self.training else 0.0
            out = F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal, scale=self.scale)
        return self.resid_dropout(self.c_proj(tokens_at(out.transpose(1, 2).reshape(B, T, C), wanted)))

    def weights(self, q: Tensor, keys: Tensor, mask: Tensor | None, is_causal: bool) -> Tensor:
        """How much of each value every query (B, H, T, D) takes, (B, H, T, W); keys (B, H, D, W)."""
        if is_causal and kernels.fits(q):
            return kernels.causal_softmax(q @ keys, self.scale)
        scores = (q * self.scale) @ keys
        if is_causal:
            mask = causal_bias(scores.shape[-1], scores.dtype, scores.device)
        return (scores if mask is None else scores + mask).softmax(-1)


class MLP(nn.Module):
    """Two layers with GELU between (Radford et al. 2019, 2.3)."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        inner = config.n_inner or 4 * config.n_embd
        self.c_fc = Conv1D(inner, config.n_embd)
        self.c_proj = Conv1D(config.n_embd, inner)
        self.fused = config.activation_function in ("gelu_new", "gelu_pytorch_tanh")
        self.act = ACT2FN[config.activation_function]
        self.dropout = Dropout(config.resid_pdrop)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.c_proj(self.activate(self.c_fc(x))))

    def activate(self, x: Tensor) -> Tensor:
        """gelu_new is GELU's tanh approximation written as eight small operations."""
        if not self.fused:
            return self.act(x)
        return kernels.gelu(x) if kernels.fits(x) else F.gelu(x, approximate="tanh")


class LayerNorm(nn.LayerNorm):
    """nn.LayerNorm whose result has the format in which the product after it computes."""

    def forward(self, x: Tensor) -> Tensor:
        dtype = compute_dtype(x)
        if x.dtype == torch.float32 and kernels.fits(x, self.weight):
            return kernels.norm(x, self.weight, self.bias, self.eps, dtype)
        return super().forward(x).to(dtype)


class Block(GradientCheckpointingLayer):
    """Attention, then the MLP, each after a norm and added to the stream (Radford et al. 2019, 2.3)."""

    def __init__(self, config: GPT2Config, layer: int) -> None:
        super().__init__()
        self.ln_1 = LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.attn = Attention(config, layer)
        self.ln_2 = LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.mlp = MLP(config)

    def forward(
        self, x: Tensor, mask: Tensor | None, is_causal: bool, cache: Any = None, wanted: Tensor | None = None
    ) -> Tensor:
        x = tokens_at(x, wanted) + self.attn(self.ln_1(x), mask, is_causal, cache, wanted)
        return x + self.mlp(self.ln_2(x))


class GPTPreTrained(PreTrainedModel):
    """What trunk, GPT and ScalarGPT share with transformers: initialisation, saving, loading."""

    config_class = GPT2Config
    base_model_prefix = "transformer"
    supports_gradient_checkpointing = True
    _no_split_modules = ("Block",)
    _keys_to_ignore_on_load_unexpected = (r"attn\.bias$", r"attn\.masked_bias$")  # masks in published files
    architecture = "GPT2Model"

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Radford et al. 2019, 2.3: what writes to the residual stream shrinks with the number of layers."""
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, Conv1D):
            init.normal_(module.weight, std=std)
            init.zeros_(module.bias)
        if isinstance(module, (Attention, MLP)):
            init.normal_(module.c_proj.weight, std=std / math.sqrt(2 * self.config.n_layer))

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        super().save_pretrained(save_directory, *args, **kwargs)
        # transformers wrote the name of our class; every other reader knows the architecture by its usual name.
        self.config.architectures = [self.architecture]
        if kwargs.get("is_main_process", True):
            self.config.save_pretrained(save_directory)


class Trunk(GPTPreTrained):
    """Everything but the head: token ids (B, T) → hidden states (B, T, C). causal=False makes an encoder."""

    def __init__(self, config: GPT2Config, causal: bool = True) -> None:
        super().__init__(config)
        if config.add_cross_attention or config.reorder_and_upcast_attn:
            raise InputError(
                "rlhf's GPT has neither add_cross_attention nor reorder_and_upcast_attn; switch them off"
            )
        self.causal = causal
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.drop = Dropout(config.embd_pdrop)
        self.h = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.wte

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.wte = value

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Any = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        wanted: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Hidden states (B, T, C) after the final norm, or (N, C) of the wanted tokens.

        attention_mask: (B, T) or, with tokens in a cache, (B, W), true on real tokens; hidden states of padding mean
            nothing. A mask of four dimensions is taken as it is: bool (true: may be seen) or added to the scores.
        position_ids: (B, T), by default counted over the real tokens, so that padding moves nothing. Without
            attention_mask and cache a restart begins a new sequence, and no token sees another sequence (packing).
        cache: a transformers Cache.
        wanted: (N,) places in B·T; the last block makes nothing but keys and values of the other tokens.
        """
        x = self.wte(input_ids) if inputs_embeds is None else inputs_embeds
        if use_cache and cache is None:
            cache = DynamicCache(config=self.config)
        positions, visible = self.positions_and_mask(x, attention_mask, position_ids, cache)
        mask, is_causal = self.attention_bias(x, visible)
        x = self.drop(x + self.wpe(positions))
        *blocks, last = self.h
        for block in blocks:
            x = block(x, mask, is_causal, cache)
        x = last(x, mask, is_causal, cache, wanted)
        return BaseModelOutputWithPast(last_hidden_state=self.ln_f(x), **{CACHE: cache})

    def positions_and_mask(
        self, x: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None, cache: Any
    ) -> tuple[Tensor, Tensor | None]:
        """Positions (1 or B, T), and what each token may see, (1 or B, 1, T, W) bool, or None for the usual."""
        T = x.shape[1]
        if attention_mask is not None and attention_mask.dim() == 4:
            positions = torch.arange(T, device=x.device)[None] if position_ids is None else position_ids
            return positions, attention_mask
        if cache is not None:
            return self.positions_and_mask_of_cache(T, attention_mask, position_ids, cache)
        positions = torch.arange(T, device=x.device)[None]
        if attention_mask is None:
            if position_ids is None:
                return positions, None
            return position_ids, self.packed_sequence_mask(position_ids)
        real = attention_mask.bool()
        # Right padding needs no mask: a causal token never looks to its right.
        if real.all() or (self.causal and not (real[:, 1:] > real[:, :-1]).any()):
            return (positions if position_ids is None else position_ids), None
        if position_ids is None:
            position_ids = (real.cumsum(1) - 1).clamp(min=0)
        visible = real[:, None, None]
        return position_ids, visible & causal_mask(T, T, 0, x.device) if self.causal else visible

    def positions_and_mask_of_cache(
        self, T: int, attention_mask: Tensor | None, position_ids: Tensor | None, cache: Any
    ) -> tuple[Tensor, Tensor]:
        """`positions_and_mask` over a transformers Cache of any kind."""
        past, (width, _) = cache.get_seq_length(), cache.get_mask_sizes(T, 0)
        device = self.wte.weight.device
        visible = causal_mask(T, width, past, device)[None, None]
        if attention_mask is not None:
            real = attention_mask.bool()
            if position_ids is None:
                position_ids = (real.cumsum(1) - 1).clamp(min=0)[:, -T:]
            real = F.pad(real, (0, width - real.shape[1]))  # a static cache is wider than what it holds
            visible = visible & real[:, None, None]
        elif position_ids is None:
            position_ids = torch.arange(T, device=device)[None] + past
        return position_ids, visible

    def packed_sequence_mask(self, position_ids: Tensor) -> Tensor | None:
        """Packed rows: positions (B, T) that do not go up by one start another sequence; None where none do."""
        starts = position_ids[:, 1:] != position_ids[:, :-1] + 1
        if not starts.any():
            return None
        sequence = F.pad(starts.cumsum(1), (1, 0))
        visible = (sequence[:, :, None] == sequence[:, None])[:, None]
        T = position_ids.shape[1]
        return visible & causal_mask(T, T, 0, position_ids.device) if self.causal else visible

    def attention_bias(self, x: Tensor, visible: Tensor | None) -> tuple[Tensor | None, bool]:
        """What to add to the scores in the dtype they will have, or None; and whether the kernel hides the future."""
        if visible is None:
            return None, self.causal
        return (visible if visible.is_floating_point() else additive_mask(visible, compute_dtype(x))), False


def tokens_at(x: Tensor, wanted: Tensor | None) -> Tensor:
    """x (B, T, C) itself, or (N, C) at wanted (N,) places in B·T."""
    return x if wanted is None else x.flatten(0, 1).index_select(0, wanted)


def causal_mask(num_queries: int, num_keys: int, offset: Any, device: Any) -> Tensor:
    """(T, W) bool: query t, at place offset + t, sees the keys up to its own place."""
    queries = torch.arange(num_queries, device=device) + offset
    return torch.arange(num_keys, device=device) <= queries[:, None]


@lru_cache(maxsize=8)
def causal_bias(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """What to add to scores (…, T, T) so that no query sees a later key."""
    with torch.inference_mode(False):  # an inference tensor could not be used in training later
        return additive_mask(causal_mask(size, size, 0, device), dtype)


def compute_dtype(x: Tensor) -> torch.dtype:
    """The format of products of x: autocast's where it is on."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def additive_mask(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where visible, else the lowest finite number: a row that sees nothing must not become NaN."""
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(
        ~visible, torch.finfo(dtype).min
    )


class GPT(GPTPreTrained, GenerationMixin):
    """A causal language model; `.transformer` is the trunk, `.lm_head` shares the token embedding."""

    _tied_weights_keys = {"lm_head.weight": "transformer.wte.weight"}  # noqa: RUF012
    architecture = "GPT2LMHeadModel"

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.transformer = Trunk(config)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.post_init()
        if config.tie_word_embeddings:
            self._keys_to_ignore_on_save = {
                "lm_head.weight"
            }  # so trainers do not report the shared weight missing

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits (B, T, V), or of the last `logits_to_keep` positions (an int, or their indices); see Trunk.forward.

        labels (B, T), -100 where nothing is to be learned, are shifted here; the loss is their mean, or their sum
        over `num_items_in_batch` if that is given. past_key_values: the cache, by the name that transformers gave it
        before 5.24.
        """
        cache = past_key_values if cache is None else cache
        trunk = self.transformer(input_ids, attention_mask, position_ids, cache, inputs_embeds, use_cache)
        hidden = trunk.last_hidden_state
        if isinstance(logits_to_keep, Tensor):
            hidden = hidden[:, logits_to_keep]
        elif logits_to_keep:
            hidden = hidden[:, -logits_to_keep:]
        logits = self.lm_head(hidden)
        loss = None if labels is None else ForCausalLMLoss(logits, labels, self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(loss=loss, logits=logits, **{CACHE: getattr(trunk, CACHE)})


class ScalarGPT(GPTPreTrained):
    """One number per sequence, read at its last real token: a reward or value model."""

    architecture = "GPT2ForSequenceClassification"

    def __init__(self, config: GPT2Config) -> None:
        if config.num_labels != 1:
            config = copy.deepcopy(config)
            config.num_labels = 1
        super().__init__(config)
        self.transformer = Trunk(config)
        self.score = nn.Linear(config.n_embd, 1, bias=False)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """Logits (B, 1). The last real token is the last one of attention_mask; token ids are never looked at."""
        hidden = self.transformer(
            input_ids, attention_mask, position_ids, inputs_embeds=inputs_embeds
        ).last_hidden_state
        if attention_mask is None:
            last = hidden[:, -1]
        else:
            places = torch.arange(hidden.shape[1], device=hidden.device)
            rows = torch.arange(len(hidden), device=hidden.device)
            last = hidden[rows, (attention_mask.bool() * places).argmax(1)]  # (B, C)
        return SequenceClassifierOutput(logits=self.score(last))
