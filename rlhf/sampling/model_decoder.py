"""The decoders of models that have no description, and of those on GPUs: by their own forward pass.

Over transformers' cache rows are aligned at the right and padded at the left; a row joins or leaves between two steps.
Shapes: B rows, S tokens, W keys seen, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlhf.models.padding import pad_tokens
from rlhf.models.trunk import accepted, frozen_linear_layers
from rlhf.sampling.caches import cache_name, has_keys, join, new_cache, select

LOGITS_AT_ONCE = 2**27  # numbers that a pass without a cache gives at most, where a row alone has fewer


@dataclass(frozen=True)
class CacheUse:
    """What a model's cache is good for; a trial tells (rlhf/sampling/trial.py).

    padded: texts of several lengths may be read in one pass. pieces: more tokens may be read behind what is held.
    """

    padded: bool = True
    pieces: bool = True


class ModelDecoder:
    """The slots of any transformers model with a cache of known layers; see rlhf/sampling/decoder.py."""

    def __init__(self, model: PreTrainedModel, use: CacheUse) -> None:
        self.model, self.use = model, use
        self.cache_name = cache_name(model)
        self.begun: dict[int, tuple[list[int], Any]] = {}  # texts and caches of slots outside the batch
        self._clear()

    def _clear(self) -> None:
        self.rows: list[int] = []  # the slots of the batch's rows
        self.gone: set[int] = set()  # those of them that were forgotten
        self.cache: Any = None
        self.mask = torch.zeros(0, 0, dtype=torch.bool, device=self.model.device)  # (B, W)

    def read(self, slots: Sequence[int], texts: Sequence[Sequence[int]]) -> Tensor:
        """Logits (B, V), float32, after B texts, which enter their slots; only alone behind what a slot holds."""
        if len(slots) == 1:
            return self._read_on(slots[0], list(texts[0]), 1)
        lengths = [0 if self.use.padded else len(text) for text in texts]
        order: list[int] = []
        logits = []
        for length in sorted(set(lengths)):
            places = [place for place, each in enumerate(lengths) if each == length]
            logits.append(self._read_together([slots[i] for i in places], [texts[i] for i in places]))
            order += places
        return torch.cat(logits)[torch.tensor(order).argsort()]

    def _read_together(self, slots: list[int], texts: Sequence[Sequence[int]]) -> Tensor:
        width, cache = max(map(len, texts)), new_cache(self.model.config)
        tokens = torch.tensor([[0] * (width - len(text)) + list(text) for text in texts])
        mask = torch.arange(width) >= width - torch.tensor([len(text) for text in texts])[:, None]
        logits = self._logits(tokens, mask, cache)
        self._join(slots, cache, mask.to(self.mask.device))
        return logits

    def read_each(self, slot: int, text: Sequence[int]) -> Tensor:
        """Logits (T, V), float32, after each of a text's T tokens, which enters a slot behind what that holds."""
        return self._read_on(slot, list(text), len(text))

    def _read_on(self, slot: int, text: list[int], num_wanted: int) -> Tensor:
        before, cache = self.begun.get(slot, ([], None))
        whole = before + text
        if cache is None or not self.use.pieces:
            text, cache = whole, new_cache(self.model.config)
        mask = torch.ones(1, len(whole), dtype=torch.bool)
        logits = self._logits(torch.tensor([text]), mask, cache, num_wanted)
        self.begun[slot] = whole, cache
        return logits

    def step(self, slots: Sequence[int], tokens: Tensor) -> Tensor:
        """Logits (B, V), float32, after one more token (B,) of each slot: of all that hold something."""
        for slot in [slot for slot in slots if slot in self.begun]:
            text, cache = self.begun.pop(slot)
            self._join([slot], cache, self.mask.new_ones(1, len(text)))
        self._close_up()
        order = torch.tensor([list(slots).index(slot) for slot in self.rows])
        self.mask = F.pad(self.mask, (0, 1), value=True)
        logits = self._logits(tokens.to(self.mask.device)[order][:, None], self.mask, self.cache)
        return logits[order.argsort()]

    def recall(self, slot: int, text: Sequence[int]) -> int:
        """Begin an empty slot with what is known of this text: here always nothing."""
        return 0

    def forget(self, slot: int) -> None:
        """Empty a slot."""
        if self.begun.pop(slot, None) is None and slot in self.rows:
            self.gone.add(slot)
            if len(self.gone) == len(self.rows):
                self._clear()

    def _logits(self, tokens: Tensor, mask: Tensor, cache: Any, num_wanted: int = 1) -> Tensor:
        """After the last `num_wanted` of tokens (B, S), together (·, V); mask (B, W) tells the real tokens."""
        device = self.model.device
        positions = (mask.long().cumsum(1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        if not has_keys(cache):  # layers that only carry a state look at the new tokens' part of a mask
            mask = mask[:, -tokens.shape[1] :]
        arguments = {
            "input_ids": tokens.to(device), "attention_mask": mask.to(device), "position_ids": positions.to(device),
            self.cache_name: cache, "use_cache": True, "logits_to_keep": num_wanted,
        }  # fmt: skip
        logits = self.model(**accepted(self.model, **arguments)).logits
        return logits[:, -num_wanted:].flatten(0, 1).float()

    def _join(self, slots: list[int], cache: Any, mask: Tensor) -> None:
        """Take rows into the batch."""
        self._close_up()
        if self.cache is None:
            self.rows, self.cache, self.mask = slots, cache, mask
            return
        mine, its = self.mask.shape[1], mask.shape[1]
        width = max(mine, its)
        self.mask = torch.cat([F.pad(self.mask, (width - mine, 0)), F.pad(mask, (width - its, 0))])
        join(self.cache, cache, mine, its)
        self.rows = self.rows + slots

    def _close_up(self) -> None:
        """Drop the rows of forgotten slots, and columns that no row needs."""
        if not self.gone:
            return
        kept = [place for place, slot in enumerate(self.rows) if slot not in self.gone]
        rows = torch.tensor(kept, device=self.mask.device)
        self.rows, self.gone = [self.rows[place] for place in kept], set()
        self.mask = self.mask[rows]
        first = int(self.mask.any(0).long().argmax())
        self.mask = self.mask[:, first:]
        select(self.cache, rows, first)


class TextDecoder:
    """The slots of a model whose rows cannot share a cache: for every token it reads the whole texts again."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.texts: dict[int, list[int]] = {}

    def read(self, slots: Sequence[int], texts: Sequence[Sequence[int]]) -> Tensor:
        """Logits (B, V), float32, after B texts, which enter their slots behind what these hold."""
        for slot, text in zip(slots, texts, strict=True):
            self.texts.setdefault(slot, []).extend(text)
        held = [self.texts[slot] for slot in slots]
        width = max(map(len, held))
        rows = max(1, LOGITS_AT_ONCE // (width * self.model.config.get_text_config().vocab_size))
        return torch.cat([self._logits(held[first : first + rows]) for first in range(0, len(held), rows)])

    def read_each(self, slot: int, text: Sequence[int]) -> Tensor:
        """Logits (T, V), float32, after each of a text's T tokens, which enters a slot behind what that holds."""
        held = self.texts.setdefault(slot, [])
        held.extend(text)
        return self._pass([held])[0, -len(text) :].float()

    def step(self, slots: Sequence[int], tokens: Tensor) -> Tensor:
        """Logits (B, V), float32, after one more token (B,) of each slot."""
        return self.read(slots, [[token] for token in tokens.tolist()])

    def recall(self, slot: int, text: Sequence[int]) -> int:
        """Begin an empty slot with what is known of this text: here always nothing."""
        return 0

    def forget(self, slot: int) -> None:
        """Empty a slot."""
        self.texts.pop(slot, None)

    def _logits(self, texts: Sequence[list[int]]) -> Tensor:
        last = torch.tensor([len(text) - 1 for text in texts], device=self.model.device)
        return self._pass(texts)[torch.arange(len(texts), device=last.device), last].float()

    def _pass(self, texts: Sequence[list[int]]) -> Tensor:
        """Logits (B, S, V) of whole texts, padded on the right."""
        tokens, mask = (each.to(self.model.device) for each in pad_tokens(texts, 0))
        given = accepted(self.model, input_ids=tokens, attention_mask=mask.long(), use_cache=False)
        logits: Tensor = self.model(**given).logits
        return logits


@contextmanager
def frozen_weights_cast(model: Any) -> Iterator[None]:
    """Under autocast, hold frozen linear layers' weights in its format; the results are the same bit for bit.

    autocast keeps the cast of weights that learn for later steps, but casts frozen ones, such as those beneath
    adapters, at every step anew.
    """
    device = model.device.type
    frozen = frozen_linear_layers(model) if torch.is_autocast_enabled(device) else []
    weights = [layer.weight for layer in frozen]
    try:
        for layer in frozen:
            low = layer.weight.detach().to(torch.get_autocast_dtype(device))
            layer.weight = nn.Parameter(low, requires_grad=False)
        yield
    finally:
        for layer, weight in zip(frozen, weights, strict=True):
            layer.weight = weight
