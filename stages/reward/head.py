"""The head that a reward model starts with, fitted to its training rankings on the trunk as it is (LP-FT)."""

from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from tqdm import tqdm

from rlhf.learning.linear_probe import Heads, fit_heads, ranking_probe
from rlhf.learning.passes import last_states
from rlhf.machine import processes
from rlhf.machine.devices import autocast
from rlhf.machine.memory import FreedMemory
from rlhf.models.checkpoints import reward_offset
from rlhf.models.padding import batches_by_length, pad_tokens
from stages.reward.data import padded_ranks

BATCH = 16  # completions with their prompt


@torch.no_grad()
def fit_head(model: Any, rankings: Dataset, pad_id: int, l2: float) -> None:
    """Set model.score to the linear probe of the rankings; l2: see `ranking_probe`."""
    features, ranks, present = _by_prompt(model, rankings, pad_id)
    with torch.enable_grad():
        weight = ranking_probe(features, ranks, present, l2)
    model.score.weight.copy_(weight[None])


@torch.no_grad()
def fit_ensemble(model: Any, rankings: Dataset, pad_id: int, num_heads: int, l2: float, seed: int) -> Heads:
    """An ensemble of heads on the trained model's trunk; rankings as of `fit_head`."""
    features, ranks, present = _by_prompt(model.eval(), rankings, pad_id)
    rewards = features @ model.score.weight[0].float().cpu() + reward_offset(model)
    with torch.enable_grad():
        return fit_heads(
            features,
            ranks,
            present,
            rewards,
            num_heads,
            l2,
            seed,
            conversations=list(rankings["conversation"]),
        )


def _by_prompt(model: Any, rankings: Dataset, pad_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """The trunk's states (P, K, C) of rankings as `tokenize_rankings` gives them, with their ranks and presence (P, L, K).

    One forward pass over all of them, each process a share.
    """
    ranks, present = padded_ranks(rankings["ranks"])
    features = _features(model, [row for rows in rankings["rows"] for row in rows], pad_id)
    by_prompt = features.new_zeros(*present[:, 0].shape, features.shape[1])
    by_prompt[present[:, 0]] = features
    return by_prompt, ranks, present


def _features(model: Any, rows: list[list[int]], pad_id: int) -> Tensor:
    """The trunk's state after each of R rows of tokens, (R, C) float32."""
    batches = list(batches_by_length([len(row) for row in rows], BATCH))
    mine = processes.shard(len(batches))
    by_length: list[Tensor] = []
    freed = FreedMemory()
    for number in tqdm(mine, desc="reward, head", mininterval=1, disable=not processes.is_main_process()):
        tokens, mask = pad_tokens([rows[place] for place in batches[number]], pad_id, round_to=8)
        with autocast(model.device):
            by_length += last_states(model, tokens.to(model.device), mask.to(model.device)).float().cpu()
        freed.step()
    order = torch.tensor([place for batch in batches for place in batch])
    return torch.stack(processes.gather_rows(by_length))[order.argsort()]
