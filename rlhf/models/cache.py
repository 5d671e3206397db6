"""The keys and values of the tokens that a model has read, so that each is processed once.

Shapes as in rlhf/models/gpt.py: B rows, T new tokens, W keys seen, L slots, H heads of keys, D head size.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedConfig


def head_sizes(config: PreTrainedConfig) -> tuple[int, int, int]:
    """Numbers in a head, heads of queries, and heads of keys, which queries may share."""
    num_queries = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // num_queries
    return size, num_queries, getattr(config, "num_key_value_heads", None) or num_queries


class KVCache:
    """Keys and values of every layer, allocated once; each row is filled to its own length, without gaps.

    keys, values: (layers, B, H, L, D) with L > max_len; lengths: (B,) int64, tokens held per row. Padding of either
    side is never kept: it goes to the slot max_len, which nothing reads.
    """

    def __init__(
        self, config: PreTrainedConfig, num_rows: int, max_len: int, *, dtype: torch.dtype, device: Any
    ) -> None:
        length = -(-(max_len + 1) // 16) * 16  # products are fastest over whole vectors
        size, _, heads = head_sizes(config)
        shape = (config.num_hidden_layers, num_rows, heads, length, size)
        # Zeros, because a masked slot still enters the product with weight 0, and 0 × NaN is NaN.
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros_like(self.keys)
        self.lengths = torch.zeros(num_rows, dtype=torch.long, device=device)
        self.max_len = max_len
        self.width = 0  # no row is longer; a Python number, so that a step does not wait for the device
        self.rows = torch.arange(num_rows, device=device)[:, None]
        self.slots = self.lengths[:, None]

    def advance(self, num_tokens: int, mask: Tensor | None) -> Tensor:
        """Reserve slots (B, T) for the next tokens; mask (B, ≥ T) is true on real ones, only its last T columns count.

        The slot of a real token is also its position. Raises ValueError where a row would outgrow the cache.
        """
        steps = torch.arange(num_tokens, device=self.lengths.device)
        if mask is None:
            self.slots = self.lengths[:, None] + steps
            self.lengths = self.lengths + num_tokens
        else:
            real = mask[:, -num_tokens:].bool()
            count = real.cumsum(1)
            self.slots = (self.lengths[:, None] + count - 1).where(real, self.max_len)
            self.lengths = self.lengths + count[:, -1]
        self.width += num_tokens
        if self.width > self.max_len:
            self.width = int(self.lengths.max())
            if self.width > self.max_len:
                raise ValueError(f"a row of {self.width} tokens does not fit a cache of {self.max_len}")
        return self.slots

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Store keys and values (B, H, T, D) in the reserved slots; returns all so far, (B, H, W, D)."""
        self.keys[layer][self.rows, :, self.slots] = keys.transpose(1, 2).to(self.keys.dtype)
        self.values[layer][self.rows, :, self.slots] = values.transpose(1, 2).to(self.values.dtype)
        return (
            self.keys[layer, :, :, : self.width].to(keys.dtype),
            self.values[layer, :, :, : self.width].to(values.dtype),
        )

    def put(self, keys: Tensor, values: Tensor, slots: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Store one token's keys and values (B, H, D) in slots (B,); returns the whole storage, (B·H, L, D) each.

        Whole, because products take a contiguous block several times faster than the part that is filled.
        """
        rows = self.rows[:, 0]
        self.keys[layer][rows, :, slots] = keys
        self.values[layer][rows, :, slots] = values
        return self.keys[layer].flatten(0, 1), self.values[layer].flatten(0, 1)

    def fill(self, first: int, layer: int, keys: Tensor, values: Tensor) -> None:
        """Store whole prompts (R, H, S, D) of one layer in the rows from `first` on; `hold` then says how long they are."""
        last = first + len(keys)
        self.keys[layer, first:last, :, : keys.shape[2]] = keys
        self.values[layer, first:last, :, : values.shape[2]] = values

    def hold(self, lengths: Tensor) -> None:
        """Say how many tokens (B,) the rows hold that were filled; what stands behind them is never read."""
        self.lengths = lengths
        self.width = int(lengths.max())

    def grow(self, num_tokens: int) -> None:
        """Make room for rows that are longer by `num_tokens`."""
        self.max_len += num_tokens
        length = -(-(self.max_len + 1) // 16) * 16
        for name in ("keys", "values"):
            filled = getattr(self, name)[:, :, :, : self.width]
            setattr(self, name, F.pad(filled, (0, 0, 0, length - self.width)))

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but `rows` (R,), int64 indices, which take their order; who keeps his place is not copied."""
        places = torch.arange(len(rows), device=rows.device)
        moved = rows != places
        for storage in (self.keys, self.values):
            storage[:, places[moved], :, : self.width] = storage[:, rows[moved], :, : self.width]
        self.keys, self.values = self.keys[:, : len(rows)], self.values[:, : len(rows)]
        self.lengths, self.rows = self.lengths[rows], self.rows[: len(rows)]
        self.width = int(self.lengths.max()) if len(rows) else 0
