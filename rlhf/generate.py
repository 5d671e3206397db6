"""Batched sampling with a KV cache: each prompt is processed once, finished rows leave the batch.

Row i of a call draws its own random numbers from (seed, i): the same prompt gets the same completion in a batch of
one as in a batch of a thousand, up to the rounding of the matrix products.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from rlhf.errors import InputError


@dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """How completions are drawn; temperature 0 takes the most probable token."""

    max_new_tokens: int = 64
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0


@dataclass(frozen=True)
class Sample:
    """One completion: its tokens with the stop token, their log-probabilities, and whether it stopped by itself.

    logprobs are those of the distribution at the sampling temperature before top-k and top-p; at temperature 0
    those of the model itself.
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
    by_length = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
    samples: dict[int, Sample] = {}
    for start in range(0, len(prompts), batch_size):
        rows = by_length[start : start + batch_size]
        batch = _Batch(
            model, [prompts[i] for i in rows], [limits[i] for i in rows], settings, stop_ids, pad_id
        )
        for row, sample in zip(rows, batch.run(torch.from_numpy(uniforms[rows])), strict=True):
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
    """The rows of one batch still being written: their cache, and what each has said so far."""

    def __init__(
        self,
        model: PreTrainedModel,
        prompts: list[list[int]],
        limits: list[int],
        settings: SamplingSettings,
        stop_ids: frozenset[int],
        pad_id: int,
    ) -> None:
        self.model, self.settings = model, settings
        device = model.device
        width = max(map(len, prompts))
        rows = [[pad_id] * (width - len(prompt)) + prompt for prompt in prompts]
        self.tokens = torch.tensor(rows, device=device)
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        self.attention_mask = torch.arange(width, device=device) >= width - lengths[:, None]
        self.positions = (self.attention_mask.long().cumsum(1) - 1).clamp(min=0)
        self.limits = torch.tensor(limits, device=device)
        self.stops = torch.tensor(sorted(stop_ids), device=device)
        self.cache = new_cache(model, len(prompts), self.tokens.shape[1] + max(limits))

    def run(self, uniforms: Tensor) -> list[Sample]:
        num_rows, steps = uniforms.shape
        device = self.tokens.device
        uniforms = uniforms.to(device)
        said = torch.zeros(num_rows, steps, dtype=torch.long, device=device)
        logprobs = torch.zeros(num_rows, steps, device=device)
        lengths = torch.zeros(num_rows, dtype=torch.long, device=device)
        ended = torch.zeros(num_rows, dtype=torch.bool, device=device)
        alive = torch.arange(num_rows, device=device)
        inputs, positions = self.tokens, self.positions
        for step in range(steps):
            logits = next_logits(self.model, inputs, self.attention_mask, positions, self.cache)
            chosen, logprob = draw(logits, uniforms[alive, step], self.settings)
            said[alive, step], logprobs[alive, step] = chosen, logprob
            lengths[alive] = step + 1
            stopped = torch.isin(chosen, self.stops)
            ended[alive] = stopped
            going = ~stopped & (self.limits > step + 1)
            if not going.any():
                break
            positions = positions[:, -1:] + 1
            if not going.all():
                alive, chosen, positions = alive[going], chosen[going], positions[going]
                self._keep(going)
            inputs = chosen[:, None]
            self.attention_mask = torch.cat(
                [self.attention_mask, self.attention_mask.new_ones(len(alive), 1)], dim=1
            )
        return [
            Sample(tokens[:length], values[:length], end)
            for tokens, values, length, end in zip(
                said.tolist(), logprobs.tolist(), lengths.tolist(), ended.tolist(), strict=True
            )
        ]

    def _keep(self, going: Tensor) -> None:
        keep_rows(self.cache, going.nonzero().squeeze(1))
        self.attention_mask = self.attention_mask[going]
        self.limits = self.limits[going]


def new_cache(model: PreTrainedModel, num_rows: int, num_tokens: int) -> Any:
    """The model's own preallocated cache where it has one, else transformers' growing one."""
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


def draw(logits: Tensor, uniforms: Tensor, settings: SamplingSettings) -> tuple[Tensor, Tensor]:
    """Tokens (B,) and their log-probabilities (B,) from logits (B, V) and one uniform number per row (B,)."""
    if settings.temperature == 0:
        logprobs = logits.log_softmax(-1)
        best = logits.argmax(-1)
        return best, logprobs.gather(1, best[:, None]).squeeze(1)
    logprobs = (logits / settings.temperature).log_softmax(-1)
    weights = _truncated(logprobs.exp(), settings)
    edges = weights.double().cumsum(-1)
    chosen = torch.searchsorted(edges, (uniforms * edges[:, -1])[:, None], right=True).squeeze(1)
    chosen = chosen.clamp(max=logits.shape[1] - 1)
    return chosen, logprobs.gather(1, chosen[:, None]).squeeze(1)


def _truncated(probabilities: Tensor, settings: SamplingSettings) -> Tensor:
    """Probabilities (B, V) with all but the top k, and all outside the nucleus of mass p, set to zero."""
    if settings.top_k:
        kth = probabilities.topk(min(settings.top_k, probabilities.shape[1])).values[:, -1:]
        probabilities = probabilities.where(probabilities >= kth, 0)
    if settings.top_p < 1:
        ordered, order = probabilities.sort(descending=True)
        outside = ordered.cumsum(-1) - ordered >= settings.top_p * ordered.sum(-1, keepdim=True)
        probabilities = torch.zeros_like(probabilities).scatter(1, order, ordered.masked_fill(outside, 0))
    return probabilities


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
    model.eval()
    limit = _room(model, prompt, settings.max_new_tokens, 0)
    uniforms = torch.from_numpy(
        np.random.Generator(np.random.Philox(seed)).random((1, settings.max_new_tokens))
    )
    uniforms = uniforms.to(model.device)
    cache = new_cache(model, 1, len(prompt) + limit)
    tokens = torch.tensor([prompt], device=model.device)
    positions = torch.arange(len(prompt), device=model.device)[None]
    for step in range(limit):
        mask = torch.ones(1, len(prompt) + step, dtype=torch.bool, device=model.device)
        logits = next_logits(model, tokens, mask, positions, cache)
        chosen, _ = draw(logits, uniforms[:, step], settings)
        if int(chosen) in stop_ids:
            return
        yield int(chosen)
        tokens, positions = chosen[:, None], positions[:, -1:] + 1
