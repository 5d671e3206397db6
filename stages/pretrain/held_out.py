"""Text that is measured on and never learned: nats per token, and bits per byte, which any vocabulary is compared by."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rlhf.errors import InputError
from rlhf.learning.head import token_logprobs
from rlhf.machine.devices import autocast
from rlhf.models.tokenizer import Tokenizer

ROWS_AT_ONCE = 16


def without_end(texts: Sequence[str], share: float) -> tuple[list[str], list[str]]:
    """Texts up to the last `share` of their characters, and that last part; a text across the border is cut in two."""
    rest = round((1 - share) * sum(map(len, texts)))
    before: list[str] = []
    for place, text in enumerate(texts):
        if len(text) > rest:
            return [*before, *([text[:rest]] if rest else [])], [text[rest:], *texts[place + 1 :]]
        before.append(text)
        rest -= len(text)
    return before, []


def token_sizes(tokenizer: Tokenizer) -> Tensor:
    """How many bytes of text each token stands for, (V,) int64; special tokens for none."""
    sizes = torch.zeros(tokenizer.vocab_size, dtype=torch.int64)
    for token, rank in tokenizer.ranks.items():
        sizes[rank] = len(token)
    return sizes


@dataclass(frozen=True)
class HeldOut:
    """Rows of held-out tokens: inputs and targets (R, length), int64. sizes: see `token_sizes`."""

    inputs: Tensor
    targets: Tensor
    sizes: Tensor
    bf16: str = "auto"

    @classmethod
    def of(cls, tokens: Tensor, length: int, sizes: Tensor, bf16: str = "auto") -> "HeldOut":
        """Consecutive rows of tokens (N,), shorter than `length` where there are fewer tokens.

        Raises InputError for fewer than two.
        """
        length = min(length, len(tokens) - 1)
        if length < 1:
            raise InputError("too little text to hold some of it out; bring more text")
        num_rows = (len(tokens) - 1) // length
        end = num_rows * length
        return cls(
            tokens[:end].view(num_rows, length), tokens[1 : end + 1].view(num_rows, length), sizes, bf16
        )

    def part(self, num_rows: int) -> "HeldOut":
        """At most `num_rows` of the rows, at equal distances."""
        last = len(self.inputs) - 1
        places = torch.linspace(0, last, min(num_rows, last + 1)).round().long()
        return replace(self, inputs=self.inputs[places], targets=self.targets[places])

    @torch.no_grad()
    def nats(self, model: Any) -> Tensor:
        """−log p of every target, (R, length) float32, each seen after the tokens of its row before it."""
        training = model.training
        model.eval()
        rows = []
        for inputs, targets in zip(
            self.inputs.split(ROWS_AT_ONCE), self.targets.split(ROWS_AT_ONCE), strict=True
        ):
            with autocast(model.device, self.bf16):
                hidden = model.transformer(inputs.to(model.device)).last_hidden_state
                logprobs = token_logprobs(
                    hidden.flatten(0, 1), model.lm_head.weight, targets.flatten().to(model.device)
                )
            rows.append(-logprobs.view(targets.shape).float().cpu())
        model.train(training)
        return torch.cat(rows)

    def measure(self, model: Any) -> dict[str, float]:
        """loss: mean nats per token; bits_per_byte: the same per byte of the text, whatever the vocabulary is."""
        nats = self.nats(model)
        num_bytes = int(self.sizes[self.targets].sum())
        return {
            "loss": float(nats.mean()),
            "bits_per_byte": float(nats.sum()) / math.log(2) / num_bytes,
        }
