"""New tokens through a language model, whoever wants them: rollouts, evaluation, the terminal, the chat page, the API.

A decoder has slots. `read` takes more tokens of some slots in, `step` one more of each, both give the logits of what
comes next; `read_each` gives those after every token of a text; `forget` empties a slot; `recall` begins one with what another
slot holds or held. On CPUs a described model (rlhf/sampling/families.py) is run by its bare weights, in one call of
compiled loops for all rows (rlhf/machine/decoder.cpp): there a slot's logits are the same bit for bit, whoever else is
read or stepped with it. Every other model takes its own forward pass (rlhf/sampling/model_decoder.py), in a way that a
trial found right (rlhf/sampling/trial.py).
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from rlhf.machine import decoding
from rlhf.machine.huge_pages import use_huge_pages
from rlhf.models.checkpoints import check_known, context_length
from rlhf.models.gpt import compute_dtype
from rlhf.sampling.families import Family, Undescribed, describe
from rlhf.sampling.model_decoder import ModelDecoder, TextDecoder
from rlhf.sampling.trial import cache_use, forward_decoder

MAX_ROWS = 256  # tokens of one call: more do not fit the processor's caches
ROOM = 64  # tokens for which a slot gets room at first
SHARED = 16  # tokens that must be the same before a slot is begun with another's
REMEMBERED = 16_384  # tokens of forgotten slots that are kept in case a text begins like them
TABLES = 512  # positions for which rotations are computed at first


class Decoder:
    """The slots of a described model; its weights are those at the time of making it."""

    def __init__(self, family: Family, num_slots: int, first_position: int = 0) -> None:
        self.family, self.first_position = family, first_position
        self.storage: list[tuple[Tensor, Tensor] | None] = [None] * num_slots  # (layers, K, room, D) each
        self.addresses = np.zeros((3, num_slots), dtype=np.int64)  # of keys and values, and the room
        self.lengths = np.zeros(num_slots, dtype=np.int64)
        self.texts = np.zeros((num_slots, TABLES), dtype=np.int64)  # tokens of the slots,
        self.known = np.zeros(
            num_slots, dtype=np.int64
        )  # of which so many are in the storage, of forgotten slots too
        self.forgotten: list[int] = []  # slots, the first one first
        self.num_positions = 0
        model, rows = family.structure, MAX_ROWS
        width = (model.heads + 2 * model.key_heads) * model.head_size
        single = (model.channels, width, max(2 * model.inner, model.channels))
        half = (model.channels, model.heads * model.head_size, model.inner)
        self.scratch = [torch.empty(rows, size) for size in single]
        self.scratch += [torch.empty(rows, size, dtype=family.dtype) for size in half]
        self.rows = np.zeros(
            (6, rows), dtype=np.int64
        )  # tokens, positions, keys, values, rooms, those wanted
        self.logits = torch.empty(0, model.head.outputs)
        stream, qkv, gates, normed, mixed, inner = (each.data_ptr() for each in self.scratch)
        tokens, positions, keys, values, rooms, wanted = (each.ctypes.data for each in self.rows)
        self.batch = decoding.Batch(
            tokens=tokens, positions=positions, keys=keys, values=values, rooms=rooms, wanted_rows=wanted,
            stream=stream, qkv=qkv, gates=gates, normed=normed, mixed=mixed, inner=inner,
        )  # fmt: skip

    def read(self, slots: Sequence[int], texts: Sequence[Sequence[int]]) -> Tensor:
        """Logits (B, V), float32, after B texts, which enter their slots behind what these hold.

        What is returned is overwritten by the next call.
        """
        ends = np.cumsum([len(text) for text in texts])
        tokens = np.concatenate([np.asarray(text, dtype=np.int64) for text in texts])
        rows = np.repeat(np.asarray(slots), [len(text) for text in texts])
        starts = np.repeat(ends - [len(text) for text in texts], [len(text) for text in texts])
        positions = self.lengths[rows] + np.arange(len(rows)) - starts
        return self._run(rows, tokens, positions, ends - 1)

    def read_each(self, slot: int, text: Sequence[int]) -> Tensor:
        """Logits (T, V), float32, after each of a text's T tokens, which enters a slot behind what that holds."""
        rows, places = np.full(len(text), slot), np.arange(len(text))
        logits = self._run(rows, np.asarray(text), self.lengths[slot] + places, places)
        self.logits = self.logits.new_empty(0, self.logits.shape[1])  # too many to be kept
        return logits

    def step(self, slots: Sequence[int], tokens: Tensor) -> Tensor:
        """Logits (B, V), float32, after one more token (B,) of each slot."""
        rows = np.asarray(slots)
        return self._run(rows, tokens.numpy(), self.lengths[rows], np.arange(len(rows)))

    def forget(self, slot: int) -> None:
        """Empty a slot."""
        self.lengths[slot] = 0
        self.forgotten = [each for each in self.forgotten if each != slot and not self.lengths[each]] + [slot]
        while self.known[self.forgotten].sum() > REMEMBERED:
            oldest = self.forgotten.pop(0)
            self.storage[oldest], self.known[oldest], self.addresses[:, oldest] = None, 0, 0

    def recall(self, slot: int, text: Sequence[int]) -> int:
        """Begin an empty slot with what a slot knows of this text; returns for how many tokens, not the last one."""
        width = min(len(text) - 1, self.texts.shape[1])
        different = self.texts[:, :width] != np.asarray(text[:width], dtype=np.int64)
        equal = np.where(different.any(1), different.argmax(1), width) if width else self.known * 0
        equal = np.minimum(equal, self.known)
        source, found = int(equal.argmax()), int(equal.max())
        if found < SHARED:
            return 0
        if equal[slot] < found:
            self.known[slot] = 0
            if self.addresses[2, slot] <= found:
                self._make_room(slot, found + 1)
            blocks = -(-found // decoding.LANES) * decoding.LANES
            for old, new in zip(self.storage[source], self.storage[slot], strict=True):  # type: ignore[arg-type]
                new[:, :, :blocks] = old[:, :, :blocks]
            self.texts[slot, :found] = text[:found]
        self.known[slot] = self.lengths[slot] = found
        return found

    def _run(self, slots: Any, tokens: Any, positions: Any, wanted: Any) -> Tensor:
        """Rows (N,) of tokens at positions of slots; logits of those wanted (B,), ascending."""
        check_known((tokens.min(), tokens.max()), self.family.num_tokens, "a text")  # the loops do not look
        np.maximum.at(self.lengths, slots, positions + 1)
        for slot in np.unique(slots[positions >= self.addresses[2, slots]]):
            self._make_room(int(slot), int(self.lengths[slot]))
        if (longest := int(self.lengths.max())) > self.texts.shape[1]:
            self.texts = np.pad(self.texts, ((0, 0), (0, longest)))
        self.texts[slots, positions], self.known[slots] = tokens, self.lengths[slots]
        if len(self.logits) < len(wanted):
            self.logits = torch.empty(len(wanted), self.logits.shape[1])
        self._rotate_up_to(int(positions.max()) + 1)
        edges = [*range(0, len(slots), MAX_ROWS), len(slots)]
        for first, last in pairwise(edges):
            size, some = last - first, slice(first, last)
            self.rows[0, :size], self.rows[1, :size] = tokens[some], positions[some]
            self.rows[2:5, :size] = self.addresses[:, slots[some]]
            before, after = map(int, np.searchsorted(wanted, (first, last)))
            self.rows[5, : after - before] = wanted[before:after] - first
            self.batch.rows, self.batch.wanted = size, after - before
            self.batch.logits = self.logits.data_ptr() + 4 * before * self.logits.shape[1]
            decoding.decode(self.family.structure, self.batch, self.family.dtype)
        return self.logits[: len(wanted)]

    def _make_room(self, slot: int, num_tokens: int) -> None:
        model, held = self.family.structure, self.storage[slot]
        room = -(-max(ROOM, num_tokens * 5 // 4) // decoding.LANES) * decoding.LANES
        shape = (model.num_layers, model.key_heads, room, model.head_size)
        pair = torch.empty(shape, dtype=self.family.dtype), torch.empty(shape, dtype=self.family.dtype)
        for old, new in zip(held or (), pair, strict=False):
            new[:, :, : old.shape[2]] = old
        self.storage[slot] = pair
        self.addresses[:, slot] = pair[0].data_ptr(), pair[1].data_ptr(), room

    def _rotate_up_to(self, num_positions: int) -> None:
        if self.family.rotary and num_positions > self.num_positions:
            self.num_positions = max(TABLES, 2 * num_positions)
            self.family.rotate_up_to(self.num_positions, self.first_position)


AnyDecoder = Decoder | ModelDecoder | TextDecoder


def decoder_for(model: Any, num_slots: int, packed: bool = False) -> AnyDecoder:
    """The fastest decoder of the model, in the format that its products now have.

    packed: where the model is described, the weights of its products in 8 bits, with a scale for every output.
    """
    if is_described(model):
        family = describe(model, compute_dtype(model.get_output_embeddings().weight), packed)
        use_huge_pages(family.kept)
        return Decoder(family, num_slots)
    use_huge_pages(model.parameters())
    return forward_decoder(model)


def check_sampling(model: Any) -> None:
    """Raises InputError, saying why, for a model that cannot be sampled with what it has in training."""
    if not is_described(model):
        cache_use(model)


_proven: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def is_described(model: Any) -> bool:
    """Whether the model has only known parts and what is computed from them is what its forward pass computes."""
    if model not in _proven:
        try:
            _proven[model] = _gives_the_same(model)
        except Undescribed:
            _proven[model] = False
    return _proven[model]


@torch.no_grad()
def _gives_the_same(model: Any) -> bool:
    """Whether a few tokens get the logits of the model's forward pass, at the start of the context and at its end."""
    dtype = model.get_output_embeddings().weight.dtype
    family = describe(model, dtype)
    windows = [layer.window for layer in family.layers if layer.window]
    length = min([4, *windows]) if min(windows, default=99) > 32 else min(windows) + 4
    tokens = torch.arange(length)[None] % family.structure.head.outputs
    context = context_length(model.config) or 0
    tolerance = 1e-4 if dtype == torch.float32 else 3e-2
    with torch.autocast(model.device.type, enabled=False):
        for first in (0, max(0, context - length)):
            theirs = model(
                input_ids=tokens, position_ids=torch.arange(length)[None] + first, use_cache=False
            ).logits[0]
            ours = torch.empty_like(theirs[:2], dtype=torch.float32)
            trial = Decoder(_from_position(family, first), 1, first)
            ours[0] = trial.read([0], [tokens[0, :-1].tolist()])[0]
            ours[1] = trial.step([0], tokens[0, -1:])[0]
            if not (ours - theirs[-2:].float()).abs().max() <= tolerance * theirs.abs().max():
                return False
    return True


def _from_position(family: Family, first: int) -> Family:
    """The family whose learned positions, where it has any, begin at `first`."""
    if family.structure.positions and first:
        family.structure.positions += first * family.structure.channels * 4
    return family
