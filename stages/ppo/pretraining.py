"""Pretraining text for PPO-ptx (Ouyang et al. 2022, eq. 2)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlhf.data import read_texts, rows_in
from rlhf.errors import InputError
from rlhf.inputs import packed_tokens, with_first_tokens
from rlhf.models.checkpoints import context_length
from rlhf.models.tokenizer import AnyTokenizer
from rlhf.starter.corpus import corpus
from stages.settings import PPOConfig

PTX_LENGTH = 128  # tokens of a pretraining row, fewer where the context is shorter


@dataclass(frozen=True)
class Pretraining:
    """Text for PPO-ptx as one row of tokens (N,). Which pieces a step gets depends on seed and step only.

    length: of a row, with the first token of a model that was trained with one.
    """

    tokens: Tensor
    length: int
    seed: int
    tokenizer: AnyTokenizer

    def rows(self, iteration: int, step: int, num_rows: int) -> Tensor:
        """(num_rows, length): consecutive tokens from random places of the text, begun as the model's texts are."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + iteration * 1_009 + step)
        own = self.length - len(self.tokenizer.first_ids)
        starts = torch.randint(0, len(self.tokens) - own + 1, (num_rows,), generator=generator)
        return with_first_tokens(self.tokenizer, self.tokens[starts[:, None] + torch.arange(own)])


def pretraining_text(source: str | None, seed: int) -> Sequence[str]:
    """Text for PPO-ptx: of a file or data set, or the starter corpus."""
    return read_texts(source) if source else corpus(200_000, seed)


def pretraining_rows(
    config: PPOConfig, tokenizer: AnyTokenizer, texts: Iterable[Any] | None, policy: Any
) -> Pretraining | None:
    """The texts as one row of tokens to draw from; None where γ is 0. Raises InputError where there are too few."""
    if not config.ptx_coef:
        if texts is not None:
            raise InputError(
                "pretrain_dataset is given but ptx_coef is 0; set it, such as to the paper's 27.8"
            )
        return None
    if texts is None:
        raise InputError("ptx_coef is set: PPO-ptx needs texts, pretrain_dataset")
    length = min(PTX_LENGTH, context_length(policy.config) or PTX_LENGTH)
    tokens = packed_tokens(tokenizer, [_text(row) for row in rows_in(texts, "pretrain_dataset")])
    if len(tokens) < length:
        raise InputError(f"pretraining text: {len(tokens)} tokens; PPO-ptx needs {length} or more")
    return Pretraining(tokens, length, config.seed, tokenizer)


def _text(row: Any) -> str:
    text = row.get("text") if isinstance(row, dict) else row
    if not isinstance(text, str):
        raise InputError(f"pretrain_dataset: a row is {row!r:.60}; pass texts, or rows with a column `text`")
    return text
