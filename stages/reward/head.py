"""The head that a reward model starts with, fitted to its training rankings on the trunk as it is (LP-FT)."""

from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from tqdm import tqdm

from rlhf.learning.linear_probe import ranking_probe
from rlhf.learning.passes import last_states
from rlhf.machine import processes
from rlhf.machine.devices import autocast
from rlhf.models.padding import batches_by_length, pad_tokens
from stages.reward.data import padded_ranks

BATCH = 16  # completions with their prompt


@torch.no_grad()
def fit_head(model: Any, rankings: Dataset, pad_id: int, l2: float) -> None:
    """Set model.score to the linear probe of the rankings; l2: see `ranking_probe`.

    rankings: as `tokenize_rankings` gives them. One forward pass over all of them, each process a share.
    """
    ranks, present = padded_ranks(rankings["ranks"])  # (P, L, K)
    features = _features(model, [row for rows in rankings["rows"] for row in rows], pad_id)
    by_prompt = features.new_zeros(*present[:, 0].shape, features.shape[1])
    by_prompt[present[:, 0]] = features  # (P, K, C)
    with torch.enable_grad():
        weight = ranking_probe(by_prompt, ranks, present, l2)
    model.score.weight.copy_(weight[None])


def _features(model: Any, rows: list[list[int]], pad_id: int) -> Tensor:
    """The trunk's state after each of R rows of tokens, (R, C) float32."""
    batches = list(batches_by_length([len(row) for row in rows], BATCH))
    mine = processes.shard(len(batches))
    by_length: list[Tensor] = []
    for number in tqdm(mine, desc="reward, head", mininterval=1, disable=not processes.is_main_process()):
        tokens, mask = pad_tokens([rows[place] for place in batches[number]], pad_id, round_to=8)
        with autocast(model.device):
            by_length += last_states(model, tokens.to(model.device), mask.to(model.device)).float().cpu()
    order = torch.tensor([place for batch in batches for place in batch])
    return torch.stack(processes.gather_rows(by_length))[order.argsort()]
