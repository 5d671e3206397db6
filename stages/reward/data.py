"""Rankings as a reward model's trainer reads them: one batch element per prompt, with all its completions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlhf.data import Ranking
from rlhf.errors import InputError
from rlhf.models.padding import pad_tokens


@dataclass(frozen=True)
class RankedPrompt:
    """One batch element: a prompt, its K completions, and one list of ranks from each labeler."""

    prompt: Any
    completions: tuple[str, ...]
    ranks: tuple[tuple[int, ...], ...]


def group_by_prompt(rankings: Sequence[Ranking]) -> list[RankedPrompt]:
    """Rankings of the same completions to the same prompt joined, in the order of first appearance; all ties left out.

    Raises InputError for fewer than two prompts with a preference.
    """
    groups: dict[str, tuple[Any, tuple[str, ...], list[tuple[int, ...]]]] = {}
    for ranking in rankings:
        key = repr((ranking.prompt, ranking.completions))
        groups.setdefault(key, (ranking.prompt, ranking.completions, []))[2].append(ranking.ranks)
    found = [
        RankedPrompt(prompt, completions, tuple(ranks))
        for prompt, completions, ranks in groups.values()
        if any(len(set(each)) > 1 for each in ranks)
    ]
    if len(found) < 2:
        raise InputError(
            f"{len(found)} prompt(s) with a preference among their answers; at least 2 are needed"
        )
    return found


def padded_ranks(rankings: Sequence[Sequence[Sequence[int]]]) -> tuple[Tensor, Tensor]:
    """ranks (P, L, K) float32 of P prompts' lists of ranks, one from each labeler, and where there are any, bool."""
    shape = len(rankings), max(map(len, rankings)), max(len(given[0]) for given in rankings)
    ranks, present = torch.zeros(shape), torch.zeros(shape, dtype=torch.bool)
    for p, given in enumerate(rankings):
        num_labelers, num_completions = len(given), len(given[0])
        ranks[p, :num_labelers, :num_completions] = torch.tensor(given, dtype=torch.float)
        present[p, :num_labelers, :num_completions] = True
    return ranks, present


class RankingCollator:
    """Batch elements to tensors.

    `input_ids` (R, S) int64 and `attention_mask` (R, S) bool of all R completions, prompt by prompt; `ranks` (P, L, K)
    float32 and `present` (P, L, K) bool as `padded_ranks` gives them.
    """

    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        rows = [row for example in examples for row in example["rows"]]
        tokens, attention_mask = pad_tokens(rows, self.pad_id, round_to=8)
        ranks, present = padded_ranks([example["ranks"] for example in examples])
        return {"input_ids": tokens, "attention_mask": attention_mask, "ranks": ranks, "present": present}
