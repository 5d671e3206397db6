"""A reward is a callable Rollout → scores (B,) float32. Here: reward models; any function of that shape will do."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rlhf.data import Prompt
from rlhf.model import reward_offset
from rlhf.rollout import Rollout, completion_scores, pad_tokens
from rlhf.training import autocast

Reward = Callable[[Rollout], Tensor]


class RewardModel:
    """A scalar model as a reward, with the policy's tokens: both must share a tokenizer."""

    def __init__(self, model: Any, batch_size: int = 64) -> None:
        self.model = model.eval().requires_grad_(False)
        self.batch_size = batch_size

    @torch.no_grad()
    def __call__(self, rollout: Rollout) -> Tensor:
        with autocast(self.model.device):
            scores = [completion_scores(self.model, part) for part in rollout.split(self.batch_size)]
        return torch.cat(scores).float() + reward_offset(self.model)


@torch.no_grad()
def score_completions(
    model: Any, tokenizer: Any, rows: Sequence[tuple[Prompt, str]], batch_size: int = 64
) -> list[float]:
    """The reward of each (prompt, completion) text, in order; batched by length, the end of a row read by length."""
    model.eval()
    tokens = [tokenizer.encode_prompt(prompt) + tokenizer.encode_completion(text) for prompt, text in rows]
    context = getattr(model.config, "max_position_embeddings", None)
    tokens = [row[-context:] if context else row for row in tokens]
    order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
    scores = [0.0] * len(tokens)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        ids, mask = pad_tokens([tokens[i] for i in chosen], tokenizer.pad_id, round_to=8)
        with autocast(model.device):
            ids, mask = ids.to(model.device), mask.to(model.device)
            logits = model(input_ids=ids, attention_mask=mask).logits[:, 0].float()
        for i, score in zip(chosen, (logits + reward_offset(model)).tolist(), strict=True):
            scores[i] = score
    return scores
