"""Prompts as tokens, and the order in which episodes draw them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from rlhf.data import Prompt, PromptRow, as_messages
from rlhf.errors import InputError
from rlhf.models.tokenizer import AnyTokenizer

ROUND_TO = 8  # rows are padded to multiples of it: few different widths keep the allocator's blocks reusable


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt, its tokens in the policy's chat format, and all columns of its row for rewards that read them."""

    prompt: Prompt
    tokens: list[int]
    columns: dict[str, Any] = field(default_factory=dict)


def encode_prompts(
    prompts: Iterable[PromptRow],
    tokenizer: AnyTokenizer,
    context: int | None,
    max_new_tokens: int,
    skip_long: bool = False,
    say: Callable[[str], None] = lambda line: None,
    whose: str = "",
) -> list[EncodedPrompt]:
    """Prompts with their tokens. Raises InputError where one leaves no room for max_new_tokens in the context.

    context: the most tokens the policy reads, of which whole steps of ROUND_TO count; None: no limit known.
    skip_long: leave such prompts out, and `say` how many. whose: of which of several models the context is.
    """
    padded = context and context - context % ROUND_TO  # padding needs a place in the context, too
    most = padded - max_new_tokens - 1 if padded is not None else float("inf")
    rows = [
        EncodedPrompt(row.prompt, tokenizer.encode_prompt(as_messages(row.prompt)), row.columns)
        for row in prompts
    ]
    if not rows:
        raise InputError("no prompts; name a file with --prompts")
    short = [row for row in rows if len(row.tokens) <= most]
    if len(short) == len(rows):
        return _with_all_columns(rows)
    number = next(i for i, row in enumerate(rows, start=1) if len(row.tokens) > most)
    if not skip_long or not short:
        raise InputError(
            f"prompt {number} has {len(rows[number - 1].tokens)} tokens and max_new_tokens is {max_new_tokens}; with an end "
            f"token they exceed the context of {padded}{whose and f' of {whose}'}: leave such prompts out with skip_long, or lower max_new_tokens"
        )
    say(f"left out {len(rows) - len(short)} of {len(rows)} prompts, of more than {most} tokens")
    return _with_all_columns(short)


def _with_all_columns(prompts: Sequence[EncodedPrompt]) -> list[EncodedPrompt]:
    """The prompts, each with every column that any of them has; None where a row has no such column.

    A part of them then has the columns of all: what a function asks for is there or not whichever prompts are drawn.
    """
    columns = dict.fromkeys(name for row in prompts for name in row.columns)
    return [
        row
        if len(row.columns) == len(columns)
        else replace(row, columns=dict.fromkeys(columns) | row.columns)
        for row in prompts
    ]


def prompt_order(num_prompts: int, first: int, num_episodes: int, seed: int) -> list[int]:
    """Prompts of the episodes from `first` on: consecutive slices of one random order per pass over all prompts."""
    chosen: list[int] = []
    for episode in range(first, first + num_episodes):
        epoch, place = divmod(episode, num_prompts)
        if not chosen or place == 0:
            order = torch.randperm(num_prompts, generator=torch.Generator().manual_seed(seed * 7919 + epoch))
        chosen.append(int(order[place]))
    return chosen
