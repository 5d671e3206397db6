"""Rows of different lengths in one tensor, and batches in which little of it is padding."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

MOST_PADDING = 0.15  # of a batch's tokens
PASS_TOKENS = 128  # tokens for which the many small operations of one pass more would be enough


def pad_tokens(rows: Sequence[Sequence[int]], pad_id: int, round_to: int = 1) -> tuple[Tensor, Tensor]:
    """tokens (B, S) int64, padded on the right, and attention_mask (B, S) bool, true on real tokens.

    S is the longest row, rounded up to a multiple of `round_to`.
    """
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.long)
    attention_mask = length_mask(lengths, padded_length(lengths, round_to))
    tokens = torch.full(attention_mask.shape, pad_id, dtype=torch.long)
    tokens[attention_mask] = torch.tensor([token for row in rows for token in row], dtype=torch.long)
    return tokens, attention_mask


def padded_length(lengths: Tensor, round_to: int) -> int:
    """The largest of lengths (B,), at least 1, rounded up to a multiple of `round_to`."""
    most = max(1, int(lengths.max()) if len(lengths) else 0)
    return -(-most // round_to) * round_to


def length_mask(lengths: Tensor, width: int) -> Tensor:
    """(B, width) bool, true on the first lengths (B,) places of each row."""
    return torch.arange(width, device=lengths.device) < lengths[:, None]


def batches_by_length(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """The places of all lengths, the longest first, in batches of at most batch_size: rows of one are about equally long.

    A batch ends sooner where much of it would be padding, unless that is less work than a pass more. The longest come first
    because what a batch frees has room for the next one only if that is smaller; otherwise a process grows with every batch.
    """
    batch: list[int] = []
    real = 0
    for place in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        longest = lengths[batch[0]] if batch else lengths[place]
        computed = (len(batch) + 1) * longest
        padding = computed - real - lengths[place]
        if len(batch) == batch_size or (batch and padding > max(MOST_PADDING * computed, PASS_TOKENS)):
            yield batch
            batch, real = [], 0
        batch.append(place)
        real += lengths[place]
    if batch:
        yield batch
