"""Batched sampling: each prompt is read once, and a row that ends makes room for the next prompt.

The row in place i draws its own random numbers from (seed, i): the same prompt gets the same completion in a batch of
one as in a batch of a thousand, up to the rounding of the matrix products where the model's own forward pass is used.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from rlhf.errors import InputError
from rlhf.machine import kernels
from rlhf.models.checkpoints import check_known, context_length, num_tokens_of
from rlhf.models.padding import batches_by_length
from rlhf.sampling.decoder import SHARED, AnyDecoder, decoder_for, is_described
from rlhf.sampling.model_decoder import frozen_weights_cast
from rlhf.sampling.trial import NO_NUMBERS
from rlhf.settings import COLDEST, Settings, bounded


@dataclass(frozen=True, kw_only=True)
class SamplingSettings(Settings):
    """How completions are drawn; temperature 0 takes the most probable token, min_p is a share of its probability.

    processed_logprobs: those of the distribution drawn from, after min-p, top-k, top-p and repetition penalty (vLLM's name).
    """

    max_new_tokens: int = bounded(64, at_least=1)
    temperature: float = bounded(1.0, zero_or_at_least=COLDEST)
    top_k: int = bounded(0, at_least=0)
    top_p: float = bounded(1.0, above=0, at_most=1)
    min_p: float = bounded(0.0, at_least=0, at_most=1)
    repetition_penalty: float = bounded(1.0, above=0)
    processed_logprobs: bool = bounded(False)


@dataclass(frozen=True)
class Sample:
    """One completion: its tokens with the stop token, their log-probabilities, and whether it stopped by itself.

    logprobs are those of the distribution at the sampling temperature before top-k, top-p and repetition penalty, unless
    the settings want them processed; at temperature 0 those of the model itself. version: of the weights that a server
    drew it with.
    """

    tokens: list[int]
    logprobs: list[float]
    ended: bool
    version: int = 0


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    settings: SamplingSettings,
    *,
    stop_ids: frozenset[int],
    seed: int,
    batch_size: int = 64,
    places: Sequence[int] | None = None,
    on_sample: Callable[[int, Sample], None] | None = None,
) -> list[Sample]:
    """One completion for each prompt, in the order of the prompts. The model is put into evaluation mode.

    places: of each prompt in a longer list that several calls share; in place i a row draws from (seed, i).
    on_sample: called with the place and the completion as soon as one is whole.
    Raises InputError for an empty prompt and for one that leaves no room for a new token in the context
    or has a token that the model has not.
    """
    model.eval()
    places = range(len(prompts)) if places is None else places
    limits = [
        _room(model, prompt, settings.max_new_tokens, place)
        for place, prompt in zip(places, prompts, strict=True)
    ]
    shape = (max(places, default=-1) + 1, settings.max_new_tokens)
    uniforms = np.random.Generator(np.random.Philox(seed)).random(shape)[list(places)]
    with nullcontext() if is_described(model) else frozen_weights_cast(model):
        slots = min(batch_size, len(prompts))
        writer = _Writer(decoder_for(model, slots), slots, prompts, limits, settings, stop_ids, uniforms)
        while writer.going:
            for row in writer.step():
                if on_sample:
                    on_sample(places[row], writer.sample(row))
    return [writer.sample(row) for row in range(len(prompts))]


def _room(model: PreTrainedModel, prompt: list[int], max_new_tokens: int, index: int) -> int:
    context = context_length(model.config) or max_new_tokens + len(prompt)
    if not prompt:
        raise InputError(f"prompt {index + 1} is empty; give it at least one token")
    if len(prompt) >= context:
        raise InputError(
            f"prompt {index + 1} has {len(prompt)} tokens and the model's context is {context}; shorten the prompt"
        )
    check_known(prompt, num_tokens_of(model), f"prompt {index + 1}")
    return min(max_new_tokens, context - len(prompt))


class _Writer:
    """Completions on their way: row i of the results, written in whatever slot was free."""

    def __init__(
        self,
        decoder: AnyDecoder,
        num_slots: int,
        prompts: Sequence[list[int]],
        limits: list[int],
        settings: SamplingSettings,
        stop_ids: frozenset[int],
        uniforms: Any,
    ) -> None:
        self.decoder, self.prompts, self.settings, self.uniforms = decoder, prompts, settings, uniforms
        self.limits, self.stop_ids = np.array(limits), np.array(sorted(stop_ids))
        self.waiting = deque(
            row for rows in batches_by_length([*map(len, prompts)], num_slots) for row in rows
        )
        self.free, self.num_slots = list(range(num_slots)), num_slots
        self.rows = np.zeros(0, dtype=np.int64)  # those being written
        self.slots = np.zeros(0, dtype=np.int64)  # where
        self.tokens = np.zeros(uniforms.shape, dtype=np.int64)
        self.logprobs = np.zeros(uniforms.shape, dtype=np.float32)
        self.counts = np.zeros(len(prompts), dtype=np.int64)
        self.ended = np.zeros(len(prompts), dtype=bool)

    @property
    def going(self) -> bool:
        """Whether there is something left to write."""
        return bool(self.waiting) or len(self.rows) > 0

    def step(self) -> list[int]:
        """Begin rows where slots are free, else add a token to every row; returns the rows that are whole now."""
        few = max(
            1, self.num_slots // 8
        )  # prompts are read in groups: the weights pass by for all of them at once
        if self.waiting and len(self.free) >= min(few, len(self.waiting)):
            rows = [self.waiting.popleft() for _ in range(min(len(self.free), len(self.waiting)))]
            slots = [self.free.pop() for _ in rows]
            logits = self._read(slots, [self.prompts[row] for row in rows])
            return self._say(np.array(rows), np.array(slots), logits)
        going, places = self.rows, self.slots
        self.rows, self.slots = going[:0], places[:0]
        last = torch.from_numpy(self.tokens[going, self.counts[going] - 1])
        return self._say(going, places, self.decoder.step(places.tolist(), last))

    def _read(self, slots: list[int], texts: list[list[int]]) -> Tensor:
        """Logits (B, V) after texts; what they begin with in common is read once."""
        begun: set[tuple[int, ...]] = set()
        waves: list[list[int]] = [[], [], []]  # beginnings, what goes on from them, repetitions
        for place, text in enumerate(texts):
            names = (tuple(text[:SHARED]), (-1, *text))
            waves[sum(name in begun for name in names)].append(place)
            begun.update(names)
        logits = []
        for wave in filter(None, waves):
            known = [self.decoder.recall(slots[place], texts[place]) for place in wave]
            rest = [texts[place][start:] for place, start in zip(wave, known, strict=True)]
            logits.append(self.decoder.read([slots[place] for place in wave], rest).clone())
        order = torch.tensor([place for wave in waves for place in wave])
        return torch.cat(logits)[order.argsort()]

    def _say(self, rows: Any, slots: Any, logits: Tensor) -> list[int]:
        """Draw a token of each row; those that go on stay, those that do not are returned."""
        places = self.counts[rows]
        uniforms = torch.from_numpy(self.uniforms[rows, places]).to(logits.device)
        chosen, logprobs = draw(logits, uniforms, self.settings, self._seen(rows, logits))
        self.tokens[rows, places], self.logprobs[rows, places] = chosen.cpu().numpy(), logprobs.cpu().numpy()
        if np.isnan(self.logprobs[rows, places]).any():
            raise InputError(NO_NUMBERS)
        self.counts[rows] += 1
        self.ended[rows] = np.isin(self.tokens[rows, places], self.stop_ids)
        going = ~self.ended[rows] & (self.counts[rows] < self.limits[rows])
        self.rows = np.concatenate([self.rows, rows[going]])
        self.slots = np.concatenate([self.slots, slots[going]])
        for slot in slots[~going].tolist():
            self.decoder.forget(slot)
            self.free.append(slot)
        done: list[int] = rows[~going].tolist()
        return done

    def _seen(self, rows: Any, logits: Tensor) -> Tensor | None:
        if self.settings.repetition_penalty == 1:
            return None
        seen = torch.zeros_like(logits, dtype=torch.bool)
        for place, row in enumerate(rows):
            said = self.tokens[row, : self.counts[row]]
            seen[place, np.concatenate([self.prompts[row], said]).tolist()] = True
        return seen

    def sample(self, row: int) -> Sample:
        """What was written in a row."""
        tokens, logprobs = (
            written[row, : self.counts[row]].tolist() for written in (self.tokens, self.logprobs)
        )
        return Sample(tokens, logprobs, bool(self.ended[row]))


def draw(
    logits: Tensor, uniforms: Tensor, settings: SamplingSettings, seen: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Tokens (B,) and their log-probabilities (B,) from logits (B, V) and one uniform number per row (B,).

    seen: (B, V) bool, the tokens that a repetition penalty holds back (Keskar et al. 2019, section 4.1).
    """
    if settings.temperature > 0 and settings.repetition_penalty == 1 and kernels.fits(logits[:1]):
        return kernels.draw(
            logits, uniforms.double().contiguous(), settings.temperature, settings.top_k, settings.top_p, settings.min_p,
            settings.processed_logprobs,
        )  # fmt: skip
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
    writer = _Writer(decoder_for(model, 1), 1, [prompt], [limit], settings, stop_ids, uniforms)
    while writer.going:
        writer.step()
        if writer.ended[0]:
            return
        yield int(writer.tokens[0, writer.counts[0] - 1])
