"""The head that a reward model starts with, fitted to its training rankings on the trunk as it is (LP-FT)."""

from collections.abc import Callable
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from tqdm import tqdm

from rlhf import processes
from rlhf.linear_probe import ranking_probe
from rlhf.padding import batches_by_length
from rlhf.passes import last_states
from rlhf.training import autocast
from stages.reward_data import padded_ranks

BATCH = 8  # prompts with all their completions


@torch.no_grad()
def fit_head(
    model: Any, rankings: Dataset, collate: Callable[[list[Any]], dict[str, Tensor]], l2: float
) -> None:
    """Set model.score to the linear probe of the rankings; l2: see `ranking_probe`.

    rankings: as `reward_data.tokenized` gives them, to be collated. One forward pass over all of them, each process
    a share.
    """
    batches = list(batches_by_length([max(map(len, rows)) for rows in rankings["rows"]], BATCH))
    mine = processes.share(len(batches))
    states: list[Tensor] = []
    bar = tqdm(mine, desc="reward, head", mininterval=1, disable=not processes.is_first())
    for number in bar:
        inputs = collate([rankings[i] for i in batches[number]])
        with autocast(model.device):
            tokens, mask = inputs["input_ids"].to(model.device), inputs["attention_mask"].to(model.device)
            states += list(last_states(model, tokens, mask).float().cpu())
    features = torch.stack(processes.gathered(states))  # (R, C), in the order of the batches
    ranks, present = padded_ranks([rankings[i]["ranks"] for batch in batches for i in batch])
    by_prompt = features.new_zeros(*present[:, 0].shape, features.shape[1])
    by_prompt[present[:, 0]] = features  # (P, K, C)
    with torch.enable_grad():
        weight = ranking_probe(by_prompt, ranks, present, l2)
    model.score.weight.copy_(weight[None])
