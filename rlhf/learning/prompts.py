"""Prompts as tokens, and the order in which episodes draw them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from rlhf.data import Prompt, as_messages
from rlhf.errors import InputError
from rlhf.models.tokenizer import AnyTokenizer


@dataclass(frozen=True)
class PromptRow:
    """A prompt and its tokens in the policy's chat format."""

    prompt: Prompt
    tokens: list[int]


def prompt_rows(
    prompts: Iterable[Prompt], tokenizer: AnyTokenizer, policy: Any, max_new_tokens: int
) -> list[PromptRow]:
    """Prompts with their tokens; raises InputError if one leaves no room for max_new_tokens in the policy's context."""
    context = getattr(policy.config, "max_position_embeddings", None)
    rows = [PromptRow(prompt, tokenizer.encode_prompt(as_messages(prompt))) for prompt in prompts]
    for number, row in enumerate(rows, start=1):
        if context and len(row.tokens) + max_new_tokens + 1 > context:
            raise InputError(
                f"prompt {number} has {len(row.tokens)} tokens and max_new_tokens is {max_new_tokens}; with an end token "
                f"they exceed the context of {context}: shorten the prompt or lower max_new_tokens"
            )
    if not rows:
        raise InputError("no prompts; name a file with --prompts")
    return rows


def prompt_order(num_prompts: int, first: int, num_episodes: int, seed: int) -> list[int]:
    """Prompts of the episodes from `first` on: consecutive slices of one random order per pass over all prompts."""
    chosen: list[int] = []
    for episode in range(first, first + num_episodes):
        epoch, place = divmod(episode, num_prompts)
        if not chosen or place == 0:
            order = torch.randperm(num_prompts, generator=torch.Generator().manual_seed(seed * 7919 + epoch))
        chosen.append(int(order[place]))
    return chosen
