"""The decoder of models that have no description, and of those on GPUs: their own forward pass over transformers' cache.

Rows are aligned at the right and padded at the left; a row joins or leaves between two steps. Shapes: B rows, S tokens,
W keys seen, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from rlhf.errors import InputError


class ModelDecoder:
    """The slots of any transformers model with a cache; see rlhf/sampling/decoder.py."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        config = model.config.get_text_config(decoder=True)
        kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
        recurrent = getattr(model, "_is_stateful", False) or not all(
            kind.endswith("attention") for kind in kinds
        )
        self.recurrent: str | None = config.model_type if recurrent else None
        self.begun: dict[int, Any] = {}  # caches of slots that have not joined the batch
        self._clear()

    def _clear(self) -> None:
        self.rows: list[int] = []  # the slots of the batch's rows
        self.gone: set[int] = set()  # those of them that were forgotten
        self.cache: Any = None
        self.mask = torch.zeros(0, 0, dtype=torch.bool, device=self.model.device)  # (B, W)

    @property
    def num_held(self) -> int:
        """Slots that hold something."""
        return len(self.begun) + len(self.rows) - len(self.gone)

    def read(self, slots: Sequence[int], texts: Sequence[Sequence[int]]) -> Tensor:
        """Logits (B, V), float32, after B texts, which enter their slots; only alone behind what a slot holds."""
        if len(slots) == 1:
            return self._read_on(slots[0], texts[0], 1)
        width, cache = max(map(len, texts)), self._new_cache()
        tokens = torch.tensor([[0] * (width - len(text)) + list(text) for text in texts])
        mask = torch.arange(width) >= width - torch.tensor([len(text) for text in texts])[:, None]
        logits = self._logits(tokens, mask, cache)
        self._join(list(slots), cache, mask.to(self.mask.device))
        return logits

    def read_each(self, slot: int, text: Sequence[int]) -> Tensor:
        """Logits (T, V), float32, after each of a text's T tokens, which enters a slot behind what that holds."""
        return self._read_on(slot, text, len(text))

    def _read_on(self, slot: int, text: Sequence[int], num_wanted: int) -> Tensor:
        cache = self.begun.setdefault(slot, self._new_cache())
        mask = torch.ones(1, cache.get_seq_length() + len(text), dtype=torch.bool)
        return self._logits(torch.tensor([list(text)]), mask, cache, num_wanted)

    def step(self, slots: Sequence[int], tokens: Tensor) -> Tensor:
        """Logits (B, V), float32, after one more token (B,) of each slot: of all that hold something."""
        for slot in [slot for slot in slots if slot in self.begun]:
            cache = self.begun.pop(slot)
            self._join([slot], cache, self.mask.new_ones(1, cache.get_seq_length()))
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

    def _new_cache(self) -> Any:
        """Layers with a sliding window keep all, so that rows can join; the model's own mask hides the rest."""
        return DynamicCache(config=self.model.config) if self.recurrent else DynamicCache()

    def _logits(self, tokens: Tensor, mask: Tensor, cache: Any, num_wanted: int = 1) -> Tensor:
        """After the last `num_wanted` of tokens (B, S), together (·, V); mask (B, W) tells the real tokens."""
        device = self.model.device
        positions = (mask.long().cumsum(1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        output = self.model(
            input_ids=tokens.to(device),
            attention_mask=mask.to(device),
            position_ids=positions.to(device),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=num_wanted,
        )
        return output.logits[:, -num_wanted:].flatten(0, 1).float()

    def _join(self, slots: list[int], cache: Any, mask: Tensor) -> None:
        """Take rows into the batch."""
        self._close_up()
        if self.cache is None:
            self.rows, self.cache, self.mask = slots, cache, mask
            return
        if self.recurrent:
            raise InputError(
                f"{self.recurrent}: a model with recurrent state cannot answer several requests at once"
            )
        mine, its = self.mask.shape[1], mask.shape[1]
        width = max(mine, its)
        self.mask = torch.cat([F.pad(self.mask, (width - mine, 0)), F.pad(mask, (width - its, 0))])
        for old, new in zip(self.cache.layers, cache.layers, strict=True):
            for name in ("keys", "values"):
                parts = (getattr(old, name), mine), (getattr(new, name), its)
                setattr(old, name, torch.cat([F.pad(part, (0, 0, width - size, 0)) for part, size in parts]))
        self.rows = self.rows + slots

    def _close_up(self) -> None:
        """Drop the rows of forgotten slots, and columns that no row needs."""
        if not self.gone:
            return
        kept = [place for place, slot in enumerate(self.rows) if slot not in self.gone]
        rows = torch.tensor(kept, device=self.mask.device)
        self.cache.batch_select_indices(rows)
        self.rows, self.gone = [self.rows[place] for place in kept], set()
        self.mask = self.mask[rows]
        first = int(self.mask.any(0).long().argmax())
        if first and not self.recurrent:
            self.mask = self.mask[:, first:]
            for layer in self.cache.layers:
                layer.keys, layer.values = layer.keys[:, :, first:], layer.values[:, :, first:]


@contextmanager
def frozen_weights_cast(model: Any) -> Iterator[None]:
    """Under autocast, hold frozen linear layers' weights in its format; the results are the same bit for bit.

    autocast keeps the cast of weights that learn for later steps, but casts frozen ones, such as those beneath
    adapters, at every step anew.
    """
    device = model.device.type
    frozen = [
        layer
        for layer in model.modules()
        if isinstance(layer, (nn.Linear, Conv1D)) and not layer.weight.requires_grad
    ]
    if not torch.is_autocast_enabled(device):
        frozen = []
    weights = [layer.weight for layer in frozen]
    try:
        for layer in frozen:
            low = layer.weight.detach().to(torch.get_autocast_dtype(device))
            layer.weight = nn.Parameter(low, requires_grad=False)
        yield
    finally:
        for layer, weight in zip(frozen, weights, strict=True):
            layer.weight = weight
