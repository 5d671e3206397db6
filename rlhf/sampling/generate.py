"""Batched sampling with a KV cache: each prompt is processed once, finished rows leave the batch.

Row i of a call draws its own random numbers from (seed, i): the same prompt gets the same completion in a batch of
one as in a batch of a thousand, up to the rounding of the matrix products.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from rlhf.errors import InputError
from rlhf.machine import kernels
from rlhf.models.cache import KVCache
from rlhf.models.padding import batches_by_length
from rlhf.sampling.decode import decoder, frozen_weights_cast
from rlhf.sampling.decode_llama import LlamaDecoder, llama_decoder
from rlhf.settings import Settings, bounded

GROWTH = 32  # new tokens for which a KV cache gets room at a time; what is not filled is read all the same


@dataclass(frozen=True, kw_only=True)
class SamplingSettings(Settings):
    """How completions are drawn; temperature 0 takes the most probable token, min_p is a share of its probability.

    processed_logprobs: those of the distribution drawn from, after min-p, top-k, top-p and repetition penalty (vLLM's name).
    """

    max_new_tokens: int = bounded(64, at_least=0)
    temperature: float = bounded(1.0, at_least=0)
    top_k: int = bounded(0, at_least=0)
    top_p: float = bounded(1.0, above=0, at_most=1)
    min_p: float = bounded(0.0, at_least=0, at_most=1)
    repetition_penalty: float = bounded(1.0, above=0)
    processed_logprobs: bool = bounded(False)


@dataclass(frozen=True)
class Sample:
    """One completion: its tokens with the stop token, their log-probabilities, and whether it stopped by itself.

    logprobs are those of the distribution at the sampling temperature before top-k, top-p and repetition penalty, unless
    the settings want them processed; at temperature 0 those of the model itself.
    """

    tokens: list[int]
    logprobs: list[float]
    ended: bool


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    settings: SamplingSettings,
    *,
    stop_ids: frozenset[int],
    pad_id: int,
    seed: int,
    batch_size: int = 64,
    first_row: int = 0,
) -> list[Sample]:
    """One completion for each prompt, in the order of the prompts. The model is put into evaluation mode.

    first_row: the place of the first prompt in a longer list that several calls share; row i draws from (seed, place).
    Raises InputError for an empty prompt and for one that leaves no room for a new token in the context.
    """
    model.eval()
    limits = [_room(model, prompt, settings.max_new_tokens, index) for index, prompt in enumerate(prompts)]
    shape = (first_row + len(prompts), settings.max_new_tokens)
    uniforms = np.random.Generator(np.random.Philox(seed)).random(shape)[first_row:]
    samples: dict[int, Sample] = {}
    family = llama_decoder(model)
    with nullcontext() if family else frozen_weights_cast(model):
        for rows in batches_by_length([len(prompt) for prompt in prompts], batch_size):
            num_new = max(limits[i] for i in rows)
            batch = _Batch(model, [prompts[i] for i in rows], num_new, settings, pad_id, family)
            drawn = torch.from_numpy(uniforms[rows].T.copy()).to(model.device)  # (steps, B)
            for row, sample in zip(
                rows, _complete(batch, [limits[i] for i in rows], stop_ids, drawn), strict=True
            ):
                samples[row] = sample
    return [samples[i] for i in range(len(prompts))]


def _room(model: PreTrainedModel, prompt: list[int], max_new_tokens: int, index: int) -> int:
    context = getattr(model.config, "max_position_embeddings", None) or max_new_tokens + len(prompt)
    if not prompt:
        raise InputError(f"prompt {index + 1} is empty; give it at least one token")
    if len(prompt) >= context:
        raise InputError(
            f"prompt {index + 1} has {len(prompt)} tokens and the model's context is {context}; shorten the prompt"
        )
    return min(max_new_tokens, context - len(prompt))


class _Batch:
    """The rows of one batch still being written: their cache, and the logits (B, V), float32, of their next tokens."""

    def __init__(
        self,
        model: PreTrainedModel,
        prompts: list[list[int]],
        num_new: int,
        settings: SamplingSettings,
        pad_id: int,
        family: LlamaDecoder | None,
    ) -> None:
        self.model, self.settings = model, settings
        device = model.device
        width = max(map(len, prompts))
        rows = [[pad_id] * (width - len(prompt)) + prompt for prompt in prompts]
        tokens = torch.tensor(rows, device=device)
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        self.mask = torch.arange(width, device=device) >= width - lengths[:, None]
        self.positions = (self.mask.long().cumsum(1) - 1).clamp(min=0)
        room = len(prompts), width + min(num_new, GROWTH)
        self.cache = family.new_cache(*room) if family else new_cache(model, *room)
        self.decoder = family or decoder(model, self.cache)
        if family:
            self.logits = family.read(prompts, self.cache)
        else:
            self.logits = next_logits(model, tokens, self.mask, self.positions, self.cache)
        self.seen: Tensor | None = None
        if settings.repetition_penalty != 1:
            self.seen = torch.zeros_like(self.logits, dtype=torch.bool)
            row, column = self.mask.nonzero(as_tuple=True)
            self.seen[row, tokens[row, column]] = True

    def draw(self, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """Next tokens (B,) and their log-probabilities (B,)."""
        return draw(self.logits, uniforms, self.settings, self.seen)

    def append(self, chosen: Tensor) -> None:
        """Read the tokens chosen (B,)."""
        if self.seen is not None:
            self.seen.scatter_(1, chosen[:, None], True)
        if isinstance(self.cache, KVCache) and self.cache.width == self.cache.max_len:
            self.cache.grow(GROWTH)
        if self.decoder:
            self.logits = self.decoder.step(chosen, self.cache)
            return
        self.positions = self.positions[:, -1:] + 1
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(chosen), 1)], dim=1)
        self.logits = next_logits(self.model, chosen[:, None], self.mask, self.positions, self.cache)

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but `rows` (R,), int64 indices, which take their order."""
        keep_rows(self.cache, rows)
        self.mask, self.positions = self.mask[rows], self.positions[rows]
        self.seen = None if self.seen is None else self.seen[rows]


def _complete(batch: _Batch, limits: list[int], stop_ids: frozenset[int], uniforms: Tensor) -> list[Sample]:
    """Draw until every row has stopped or reached its limit; uniforms (steps, B)."""
    rows = list(range(len(limits)))  # those still being written, in the order of the batch
    tokens: list[list[int]] = [[] for _ in rows]
    logprobs: list[list[float]] = [[] for _ in rows]
    ended = [False] * len(rows)
    for step in range(len(uniforms)):
        chosen, values = batch.draw(uniforms[step])
        for row, token, value in zip(rows, chosen.tolist(), values.tolist(), strict=True):
            tokens[row].append(token)
            logprobs[row].append(value)
            ended[row] = token in stop_ids
        going = [at for at, row in enumerate(rows) if not ended[row] and step + 1 < limits[row]]
        if not going:
            break
        if len(going) < len(rows):
            places = _closed_up(going)
            rows = [rows[at] for at in places]
            at = torch.tensor(places, device=uniforms.device)
            chosen, uniforms = chosen[at], uniforms[:, at]
            batch.keep(at)
        batch.append(chosen)
    return [Sample(*parts) for parts in zip(tokens, logprobs, ended, strict=True)]


def _closed_up(going: list[int]) -> list[int]:
    """The places going, ascending: the last ones take the places of those that left, the others stay."""
    staying = [at for at in going if at < len(going)]
    moving = iter(going[len(staying) :])
    stays = set(staying)
    return [at if at in stays else next(moving) for at in range(len(going))]


def new_cache(model: PreTrainedModel, num_rows: int, num_tokens: int) -> Any:
    """The model's own preallocated cache where it has one, else transformers'."""
    if hasattr(model, "new_cache"):
        return model.new_cache(num_rows, num_tokens)
    return DynamicCache(config=model.config)


def keep_rows(cache: Any, rows: Tensor) -> None:
    """Drop all rows of the cache but `rows` (R,), int64."""
    if hasattr(cache, "keep"):
        cache.keep(rows)
    else:
        cache.batch_select_indices(rows)


def next_logits(
    model: PreTrainedModel, tokens: Tensor, attention_mask: Tensor, positions: Tensor, cache: Any
) -> Tensor:
    """Logits (B, V), float32, of the token after `tokens` (B, S); only the last position goes through the head."""
    output = model(
        input_ids=tokens,
        attention_mask=attention_mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return output.logits[:, -1].float()


def draw(
    logits: Tensor, uniforms: Tensor, settings: SamplingSettings, seen: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Tokens (B,) and their log-probabilities (B,) from logits (B, V) and one uniform number per row (B,).

    seen: (B, V) bool, the tokens that a repetition penalty holds back (Keskar et al. 2019, section 4.1).
    """
    plain = settings.temperature > 0 and not settings.top_k and settings.top_p == 1 and not settings.min_p
    if plain and settings.repetition_penalty == 1 and kernels.fits(logits):
        return kernels.draw(logits, uniforms.double().contiguous(), settings.temperature)
    logits = logits.float()
    penalised = logits
    if seen is not None and settings.repetition_penalty != 1:
        held_back = logits / settings.repetition_penalty
        held_back = held_back.where(logits > 0, logits * settings.repetition_penalty)
        penalised = held_back.where(seen, logits)
    if settings.temperature == 0:
        best = penalised.argmax(-1)
        return best, logits.gather(1, best[:, None]).squeeze(1) - logits.logsumexp(-1)
    scaled, highest, weights = _weights(logits, settings.temperature)
    total = weights.sum(-1)
    if penalised is not logits:
        _, _, weights = _weights(penalised, settings.temperature)
    kept = _truncated(weights, settings)
    chosen = _inverted(kept, uniforms)
    if settings.processed_logprobs:
        return chosen, kept.gather(1, chosen[:, None])[:, 0].log() - kept.sum(-1).log()
    return chosen, (scaled.gather(1, chosen[:, None]) - highest).squeeze(1) - total.log()


def _weights(logits: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Scaled logits (B, V), the highest of each row (B, 1), and weights (B, V): probabilities but for a factor."""
    scaled = logits if temperature == 1 else logits / temperature
    highest = scaled.amax(-1, keepdim=True)
    return scaled, highest, (scaled - highest).exp_()


def _inverted(weights: Tensor, uniforms: Tensor) -> Tensor:
    """Where the running sum of weights (B, V) passes uniforms (B,) times their sum: (B,) int64.

    Found in two steps, first the block of about √V weights, then the place in it, so that no running sum of all V is
    made. A weight of zero is never found, whatever the rounding.
    """
    size = weights.shape[1]
    block = int(size**0.5)
    whole = size - size % block
    sums = [weights[:, :whole].unflatten(1, (-1, block)).sum(-1), weights[:, whole:].sum(-1, keepdim=True)]
    edges = torch.cat(sums, dim=1).double().cumsum(-1)
    wanted = uniforms[:, None].clamp(max=1 - 1e-12) * edges[:, -1:]
    at = torch.searchsorted(edges, wanted, right=True)  # (B, 1)
    places = at * block + torch.arange(block, device=weights.device)
    within = weights.gather(1, places.clamp(max=size - 1)).masked_fill(places >= size, 0).double().cumsum(-1)
    before = F.pad(edges, (1, 0)).gather(1, at)
    wanted = torch.minimum((wanted - before).clamp(min=0), within[:, -1:] * (1 - 1e-12))
    return (at * block + torch.searchsorted(within, wanted, right=True))[:, 0]


NUCLEUS = 256  # tokens looked at before all of them are sorted


def _truncated(weights: Tensor, settings: SamplingSettings) -> Tensor:
    """Weights (B, V) with all below min_p, all but the top k, and all outside the nucleus of mass p, set to zero.

    min_p: Nguyen et al. 2024, "Turning Up the Heat", section 3.
    """
    if settings.min_p:
        weights = weights.where(weights >= settings.min_p * weights.amax(-1, keepdim=True), 0)
    if settings.top_k:
        kth = weights.topk(min(settings.top_k, weights.shape[1])).values[:, -1:]
        weights = weights.where(weights >= kth, 0)
    if settings.top_p < 1:
        mass = settings.top_p * weights.sum(-1, keepdim=True)
        ordered, order = weights.topk(min(NUCLEUS, weights.shape[1]))
        if (ordered.sum(-1, keepdim=True) < mass).any():
            ordered, order = weights.sort(descending=True)
        outside = ordered.cumsum(-1) - ordered >= mass
        weights = torch.zeros_like(weights).scatter(1, order, ordered.masked_fill(outside, 0))
    return weights


@torch.no_grad()
def stream(
    model: PreTrainedModel,
    prompt: list[int],
    settings: SamplingSettings,
    *,
    stop_ids: frozenset[int],
    seed: int,
) -> Iterator[int]:
    """The tokens `generate` gives for a batch of this one prompt, one by one, without the stop token."""
    limit = _room(model.eval(), prompt, settings.max_new_tokens, 0)
    uniforms = np.random.Generator(np.random.Philox(seed)).random((1, settings.max_new_tokens))
    batch = _Batch(model, [prompt], limit, settings, pad_id=0, family=llama_decoder(model))
    for step in range(limit):
        chosen, _ = batch.draw(torch.from_numpy(uniforms[:, step]).to(model.device))
        if int(chosen) in stop_ids:
            return
        yield int(chosen)
        if step + 1 < limit:
            batch.append(chosen)
