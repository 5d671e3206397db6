"""Rankings as a reward model's trainer reads them: one batch element per prompt, with all its completions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor

from rlhf.data import Ranking, as_messages, fingerprint
from rlhf.errors import InputError
from rlhf.models.padding import pad_tokens
from rlhf.models.tokenizer import AnyTokenizer


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


def split_by_prompt(
    groups: Sequence[RankedPrompt], fraction: float
) -> tuple[list[RankedPrompt], list[RankedPrompt]]:
    """Training and held-out groups; all groups of one prompt fall on the same side, decided by the prompt's hash."""
    held_out = [int(fingerprint([group.prompt])[:8], 16) / 16**8 < fraction for group in groups]
    training = [group for group, out in zip(groups, held_out, strict=True) if not out]
    return training, [group for group, out in zip(groups, held_out, strict=True) if out]


def tokenize_rankings(groups: Sequence[RankedPrompt], tokenizer: AnyTokenizer, max_length: int) -> Dataset:
    """One row per prompt: `rows` (K lists of ids, prompt with completion), `ranks` (labelers × K).

    Prompts longer than half of `max_length` lose their beginning, completions their end.
    """
    examples = []
    for group in groups:
        prompt = tokenizer.encode_prompt(as_messages(group.prompt))
        rows = []
        for text in group.completions:
            completion = tokenizer.encode_completion(text)[
                : max_length // 2 + max(0, max_length // 2 - len(prompt))
            ]
            rows.append(prompt[-(max_length - len(completion)) :] + completion)
        examples.append({"rows": rows, "ranks": [list(ranks) for ranks in group.ranks]})
    return Dataset.from_list(examples)


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
    """Batch elements to tensors: tokens (R, S) of all completions, their prompt and place, ranks (P, L, K)."""

    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        rows = [row for example in examples for row in example["rows"]]
        tokens, attention_mask = pad_tokens(rows, self.pad_id, round_to=8)
        ranks, present = padded_ranks([example["ranks"] for example in examples])
        return {"input_ids": tokens, "attention_mask": attention_mask, "ranks": ranks, "present": present}
