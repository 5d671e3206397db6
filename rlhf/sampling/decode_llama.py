"""One new token for every row of a KV cache, by the bare weights of a model built as Llama is.

Pre-norm blocks with RMS norms, rotated queries that share keys and values, and a gated feed-forward layer: Llama,
Mistral, Qwen 2 and many others. A model is known by its parts, not by its name, and by a trial: what this file computes
must be what the model's own forward pass computes, near the start of the context and near its end. Shapes: B rows,
S tokens, C channels, H heads of queries, K of keys, D head size, V vocabulary.
"""

from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache

from rlhf.machine import kernels
from rlhf.models.cache import KVCache, head_sizes
from rlhf.models.gpt import PLAIN_WIDTH, compute_dtype

Heads = tuple[Tensor, Tensor, Tensor]  # queries (N, H·D), keys and values (N, K·D)

BLOCK = {"input_layernorm", "self_attn", "post_attention_layernorm", "mlp"}
ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
MLP = {"gate_proj", "up_proj", "down_proj", "act_fn"}
TRUNK = {"embed_tokens", "layers", "norm", "rotary_emb"}
PADDING = 1.2  # prompts are read together while padding adds no more than a fifth,
FEW_TOKENS = 256  # or they have fewer tokens than make products fast,
MANY_TOKENS = 1024  # and in no case more than the processor's caches hold


class LlamaDecoder:
    """Reading prompts and next tokens, in the number format of a cache; the weights are those at the time of making it."""

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        trunk, self.config, self.dtype = model.base_model, model.config, dtype
        self.wte, self.rotary = trunk.embed_tokens.weight, trunk.rotary_emb
        norms = [
            norm for block in trunk.layers for norm in (block.input_layernorm, block.post_attention_layernorm)
        ]
        self.norms = [(norm.weight, norm.variance_epsilon) for norm in [*norms, trunk.norm]]
        self.products = [[_weights(layer, dtype) for layer in _products(block)] for block in trunk.layers]
        self.scales = [block.self_attn.scaling for block in trunk.layers]
        self.head = _weights(model.get_output_embeddings(), dtype)

    def new_cache(self, num_rows: int, max_len: int) -> KVCache:
        """An empty cache for `num_rows` rows of up to `max_len` tokens."""
        return KVCache(self.config, num_rows, max_len, dtype=self.dtype, device=self.wte.device)

    def read(self, prompts: list[list[int]], cache: KVCache, offset: int = 0) -> Tensor:
        """Logits (B, V), in the decoder's format, of the tokens after B prompts, which enter the empty cache.

        Consecutive prompts of about equal length go together, padded on the right, where no real token sees it.
        A token's position is its slot plus `offset`.
        """
        device, states = self.wte.device, []
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        for first, part in _parts(prompts):
            width = max(map(len, part))
            tokens = torch.tensor([prompt + [0] * (width - len(prompt)) for prompt in part], device=device)
            rotation = self._rotation(torch.arange(width, device=device) + offset)

            def attend(layer: int, qkv: Heads, first: int = first, rotation: Any = rotation) -> Tensor:
                return self._attend_to_prompts(layer, qkv, rotation, cache, first)

            hidden = self._through_blocks(self.wte[tokens].flatten(0, 1), attend).unflatten(0, tokens.shape)
            rows = torch.arange(len(part), device=device)
            states.append(hidden[rows, lengths[first : first + len(part)] - 1])
        cache.hold(lengths)
        return F.linear(torch.cat(states), *self.head)

    def step(self, tokens: Tensor, cache: KVCache, offset: int = 0) -> Tensor:
        """Logits (B, V), in the decoder's format, of the token after tokens (B,), which enter the cache."""
        slots = cache.advance(1, None)[:, 0]  # (B,)
        rotation = self._rotation(slots + offset)

        def attend(layer: int, qkv: Heads) -> Tensor:
            keys, values = cache.keys[layer], cache.values[layer]
            return kernels.attend_rotated(qkv, rotation, keys, values, slots, self.scales[layer])

        return F.linear(self._through_blocks(self.wte[tokens], attend), *self.head)

    def _rotation(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines (N, D), float32, at positions (N,)."""
        cos, sin = self.rotary(self.wte[:1], positions[None])
        return cos[0].contiguous(), sin[0].contiguous()

    def _through_blocks(self, x: Tensor, attend: Callable[[int, Heads], Tensor]) -> Tensor:
        """Final states (N, C), in the decoder's format, of embeddings x (N, C), float32, which are overwritten.

        attend: from a layer and its queries, keys and values (N, …) to what the queries take (N, H·D).
        """
        following = iter(self.norms)
        y = kernels.add_rms_norm(x, None, *next(following), self.dtype)
        for layer, (q, k, v, o, gate, up, down) in enumerate(self.products):
            heads = attend(layer, (F.linear(y, *q), F.linear(y, *k), F.linear(y, *v)))
            y = kernels.add_rms_norm(x, F.linear(heads, *o), *next(following), self.dtype)
            inner = kernels.swiglu(F.linear(y, *gate), F.linear(y, *up))
            y = kernels.add_rms_norm(x, F.linear(inner, *down), *next(following), self.dtype)
        return y

    def _attend_to_prompts(
        self, layer: int, qkv: Heads, rotation: tuple[Tensor, Tensor], cache: KVCache, first: int
    ) -> Tensor:
        """Causal attention within prompts of S tokens, qkv (R·S, …), whose keys and values enter the cache's rows."""
        (S, D), K = rotation[0].shape, cache.keys.shape[2]
        q, k = (kernels.rotate(x, *rotation).view(-1, S, K, x.shape[1] // (K * D), D) for x in qkv[:2])
        k, v = k.transpose(1, 3)[:, 0], qkv[2].view(-1, S, K, D).transpose(1, 2)
        k, v = (x.contiguous() for x in (k, v))  # (R, K, S, D)
        cache.fill(first, layer, k, v)
        q = q.permute(0, 2, 3, 1, 4).flatten(2, 3)  # (R, K, H / K · S, D)
        if S > PLAIN_WIDTH:
            shared = q.shape[2] // S
            each_k, each_v = (x.repeat_interleave(shared, 1) for x in (k, v))
            queries = q.reshape(-1, K * shared, S, D)
            out = F.scaled_dot_product_attention(
                queries, each_k, each_v, is_causal=True, scale=self.scales[layer]
            )
        else:
            scores = (q @ k.mT).view(-1, S, S)
            out = kernels.causal_softmax(scores, self.scales[layer]).view(*q.shape[:3], S) @ v
        return out.view(len(k), -1, S, D).transpose(1, 2).reshape(len(k) * S, -1)


def llama_decoder(model: Any) -> LlamaDecoder | None:
    """A decoder of the model in the format its products now have, or None where only its own forward pass will do.

    That is so for another architecture, for adapters, for weights that are not float32, and without compiled loops.
    """
    if not _has_the_parts(model):
        return None
    if model not in _proven:
        _proven[model] = _gives_the_same(model)
    dtype = compute_dtype(model.get_output_embeddings().weight)
    return LlamaDecoder(model, dtype) if _proven[model] else None


_proven: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def _has_the_parts(model: Any) -> bool:
    trunk, head = getattr(model, "base_model", model), getattr(model, "get_output_embeddings", lambda: None)()
    if trunk is model or _names(trunk) != TRUNK or type(head) is not nn.Linear:
        return False
    if not all(map(_is_block, trunk.layers)) or not hasattr(trunk.norm, "variance_epsilon"):
        return False
    size, num_queries, num_keys = head_sizes(model.config)
    if size % 16 or size > 128 or num_queries % num_keys:
        return False
    return kernels.fits(trunk.embed_tokens.weight, trunk.norm.weight) and _is_float32(trunk)


def _is_block(block: Any) -> bool:
    if _names(block) != BLOCK or _names(block.self_attn) != ATTENTION or _names(block.mlp) != MLP:
        return False
    norms = (block.input_layernorm, block.post_attention_layernorm)
    return (
        hasattr(block.self_attn, "scaling")
        and all(type(layer) is nn.Linear for layer in _products(block))
        and all(hasattr(norm, "variance_epsilon") for norm in norms)
    )


def _is_float32(trunk: Any) -> bool:
    return trunk.embed_tokens.weight.dtype == trunk.norm.weight.dtype == torch.float32


def _names(module: nn.Module) -> set[str]:
    return {name for name, _ in module.named_children()}


def _products(block: Any) -> tuple[Any, ...]:
    attn, mlp = block.self_attn, block.mlp
    return attn.q_proj, attn.k_proj, attn.v_proj, attn.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj


def _weights(layer: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    return layer.weight.detach().to(dtype), None if layer.bias is None else layer.bias.detach().to(dtype)


@torch.no_grad()
def _gives_the_same(model: Any) -> bool:
    """Whether four tokens get the logits of the model's forward pass, at the start of the context and at its end."""
    if any(DynamicCache(config=model.config).is_sliding):
        return False
    device = model.device.type
    tokens = torch.arange(4, device=model.device)[None] % model.config.vocab_size
    with torch.autocast(device, enabled=False):
        trial = LlamaDecoder(model, torch.float32)
        for offset in (0, max(0, (getattr(model.config, "max_position_embeddings", 0) or 0) - 4)):
            positions = torch.arange(4, device=model.device)[None] + offset
            theirs = model(input_ids=tokens, position_ids=positions, use_cache=False).logits[0]
            cache = trial.new_cache(1, 4)
            ours = [
                trial.read([tokens[0, :3].tolist()], cache, offset),
                trial.step(tokens[0, 3:], cache, offset),
            ]
            if (torch.cat(ours) - theirs[2:]).abs().max() > 1e-4 * theirs.abs().max():
                return False
    return True


def _parts(prompts: list[list[int]]) -> Iterator[tuple[int, list[list[int]]]]:
    """Consecutive prompts to be padded to one length, with the place of the first."""
    first = 0
    while first < len(prompts):
        last, real, longest = first, 0, 0
        for prompt in prompts[first:]:
            longest_now, tokens = max(longest, len(prompt)), real + len(prompt)
            padded = longest_now * (last + 1 - first)
            wasteful = padded > PADDING * tokens and padded > FEW_TOKENS
            if last > first and (wasteful or padded > MANY_TOKENS):
                break
            last, real, longest = last + 1, tokens, longest_now
        yield first, prompts[first:last]
        first = last
