"""The running batch's keys and values: a row joins or leaves between steps, the others are not moved.

Shapes as in rlhf/models/gpt.py: B rows, H heads, W keys seen, D head size, V vocabulary.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from rlhf.errors import InputError
from rlhf.models.cache import KVCache
from rlhf.sampling.decode import decoder
from rlhf.sampling.generate import next_logits

GROWTH = 32  # tokens by which rows get longer storage: all of it is read, filled or not


class RoomyCache(KVCache):
    """A KVCache with room for more rows: the first `num_rows` of its storage are the batch."""

    def __init__(self, like: KVCache, config: Any, max_rows: int, max_len: int) -> None:
        super().__init__(config, max_rows, max_len, dtype=like.keys.dtype, device=like.keys.device)
        self.room = (self.keys, self.values)
        self.lengths = self.lengths[:0]
        self._show(0)

    def _show(self, num_rows: int) -> None:
        self.keys, self.values = (storage[:, :num_rows] for storage in self.room)
        self.rows = torch.arange(num_rows, device=self.lengths.device)[:, None]
        self.width = int(self.lengths.max()) if num_rows else 0

    def append(self, other: KVCache) -> None:
        """Copy the rows of another cache behind those that are here."""
        first, last = len(self.lengths), len(self.lengths) + len(other.lengths)
        for storage, new in zip(self.room, (other.keys, other.values), strict=True):
            storage[:, first:last, :, : other.width] = new[:, :, :, : other.width]
        self.lengths = torch.cat([self.lengths, other.lengths])
        self._show(last)

    def remove(self, row: int) -> None:
        """Let the last row take the place of `row`."""
        last = len(self.lengths) - 1
        if row != last:
            for storage in self.room:
                storage[:, row, :, : self.width] = storage[:, last, :, : self.width]
            self.lengths[row] = self.lengths[last]
        self.lengths = self.lengths[:last]
        self._show(last)


class OwnSlots:
    """Slots of a model with a KVCache: rows without gaps, storage that grows with the longest row."""

    def __init__(self, model: PreTrainedModel, max_rows: int) -> None:
        self.model, self.max_rows = model, max_rows
        self.cache: RoomyCache | None = None
        self.decoder = decoder(model, model.new_cache(1, 1))

    def fresh(self, num_tokens: int) -> KVCache:
        """An empty cache of one row, to read a prompt of `num_tokens` into."""
        return self.model.new_cache(1, num_tokens)

    def join(self, cache: KVCache) -> None:
        """Take in a row."""
        self._with_room(cache.width, like=cache).append(cache)

    def _with_room(self, num_tokens: int, like: KVCache) -> RoomyCache:
        if self.cache is None or self.cache.max_len < num_tokens:
            longer = -(-num_tokens // GROWTH) * GROWTH
            roomy = RoomyCache(like, self.model.config, self.max_rows, longer)
            if self.cache is not None:
                roomy.append(self.cache)
            self.cache = roomy
        return self.cache

    def leave(self, row: int) -> None:
        """Free a row; the last one takes its place."""
        assert self.cache is not None
        self.cache.remove(row)
        if not len(self.cache.lengths):
            self.cache = None

    def logits(self, tokens: Tensor) -> Tensor:
        """Logits (B, V), float32, of the token after tokens (B,)."""
        assert self.cache is not None
        cache = self._with_room(self.cache.width + 1, like=self.cache)
        if self.decoder:
            return self.decoder.step(tokens, cache).float()
        output = self.model(
            input_ids=tokens[:, None], past_key_values=cache, use_cache=True, logits_to_keep=1
        )
        return output.logits[:, -1].float()


class GrowingSlots:
    """Slots of any transformers model with a key/value cache: rows aligned at the right, padded at the left."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        config = model.config.get_text_config(decoder=True)
        kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
        if getattr(model, "_is_stateful", False) or not all(kind.endswith("attention") for kind in kinds):
            raise InputError(
                f"{config.model_type}: a model with recurrent state cannot answer several requests at once"
            )
        self._clear()

    def _clear(self) -> None:
        self.cache: Any = None
        self.mask = torch.zeros(0, 0, dtype=torch.bool, device=self.model.device)  # (B, W)

    def fresh(self, num_tokens: int) -> Any:
        """An empty cache of one row; layers with a sliding window keep all, the model's own mask hides the rest."""
        return DynamicCache()

    def join(self, cache: Any) -> None:
        """Take in a row."""
        mine, its = self.mask.shape[1], cache.get_seq_length()
        width = max(mine, its)
        row = torch.ones(1, its, dtype=torch.bool, device=self.mask.device)
        self.mask = torch.cat([F.pad(self.mask, (width - mine, 0)), F.pad(row, (width - its, 0))])
        if self.cache is None:
            self.cache = cache
            return
        for old, new in zip(self.cache.layers, cache.layers, strict=True):
            for name in ("keys", "values"):
                parts = (getattr(old, name), mine), (getattr(new, name), its)
                padded = [F.pad(part, (0, 0, width - length, 0)) for part, length in parts]
                setattr(old, name, torch.cat(padded))

    def leave(self, row: int) -> None:
        """Free a row; the last one takes its place, and columns that no row needs go."""
        last = len(self.mask) - 1
        if not last:
            return self._clear()
        rows = torch.tensor([last if i == row else i for i in range(last)], device=self.mask.device)
        self.cache.batch_select_indices(rows)
        self.mask = self.mask[rows]
        first = int(self.mask.any(0).long().argmax())
        if first:
            self.mask = self.mask[:, first:]
            for layer in self.cache.layers:
                layer.keys, layer.values = layer.keys[:, :, first:], layer.values[:, :, first:]

    def logits(self, tokens: Tensor) -> Tensor:
        """Logits (B, V), float32, of the token after tokens (B,)."""
        positions = self.mask.sum(1, keepdim=True)
        self.mask = F.pad(self.mask, (0, 1), value=True)
        return next_logits(self.model, tokens[:, None], self.mask, positions, self.cache)


Slots = OwnSlots | GrowingSlots


def slots_for(model: PreTrainedModel, max_rows: int) -> Slots:
    """The slots that fit the model's cache. Raises InputError for a model that cannot be batched this way."""
    return OwnSlots(model, max_rows) if hasattr(model, "new_cache") else GrowingSlots(model)
