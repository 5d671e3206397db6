"""Rollout and Experience; `rlhf/learning/passes.py` has the passes of a model over them.

A row of `tokens` is prompt + completion + padding. Column t of every (B, T) tensor is the t-th completion token; the
hidden state that predicts it, and whose value is the value before it, stands at place prompt_length − 1 + t.
Shapes: B batch, S prompt + completion, T completion, N real completion tokens of the batch, C channels.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from rlhf.data import Prompt
from rlhf.errors import InputError
from rlhf.models.last_blocks import Lower
from rlhf.models.padding import batches_by_length, length_mask, pad_tokens, padded_length


@dataclass(frozen=True)
class Rollout:
    """What sampling knows about B completions.

    tokens (B, S) int64, attention_mask (B, S) bool, mask (B, T) bool, logprobs (B, T) float32 as sampled and zero
    outside mask, ended (B,) bool, prompt_lengths (B,) int64; completions hold their stop token. A row of tokens whose
    completion was cut off may be closed by an end token, in attention_mask and outside mask: reward models read there.
    S and T fit the longest row and completion, rounded up to multiples of `round_to`. conversations: the prompts before
    they became tokens, where known, for rewards that read text; columns: of each one's row, by name. states (B, S, C): what the frozen lower part that
    several models share made of the tokens, where it is known. sampler_logprobs (B, T): where logprobs are the policy's
    and the sampler drew from another distribution (top-p, top-k, other rounding, older weights), those it drew from.
    staleness: iterations that the policy has learned from since.
    """

    prompts: list[list[int]]
    completions: list[list[int]]
    tokens: Tensor
    attention_mask: Tensor
    mask: Tensor
    logprobs: Tensor
    ended: Tensor
    prompt_lengths: Tensor
    round_to: int = 1
    conversations: tuple[Prompt, ...] = ()
    columns: tuple[Mapping[str, Any], ...] = ()
    lower: Lower | None = None
    states: Tensor | None = None
    sampler_logprobs: Tensor | None = None
    staleness: int = 0

    @classmethod
    def from_samples(
        cls,
        prompts: Sequence[Sequence[int]],
        samples: Sequence[Any],
        pad_id: int,
        round_to: int = 1,
        conversations: Sequence[Prompt] = (),
        end_id: int | None = None,
        columns: Sequence[Mapping[str, Any]] = (),
    ) -> "Rollout":
        """From prompts and, one for each, a Sample (`rlhf/sampling/generate.py`) with tokens, logprobs and ended.

        end_id: what closes the rows of completions that were cut off, for a reward model to read them as it was
        trained to; None where none will. Raises InputError for an empty prompt.
        """
        before = [list(prompt) for prompt in prompts]
        completions = [list(sample.tokens) for sample in samples]
        for i, prompt in enumerate(before):
            if not prompt:
                raise InputError(f"prompt {i + 1} is empty; give it at least one token")
        rows = [prompt + completion for prompt, completion in zip(before, completions, strict=True)]
        if end_id is not None:
            rows = [
                row if sample.ended else [*row, end_id] for row, sample in zip(rows, samples, strict=True)
            ]
        tokens, attention_mask = pad_tokens(rows, pad_id, round_to)
        lengths = torch.tensor([len(completion) for completion in completions], dtype=torch.long)
        mask = length_mask(lengths, padded_length(lengths, round_to))
        logprobs = torch.zeros(mask.shape)
        logprobs[mask] = torch.tensor([logprob for sample in samples for logprob in sample.logprobs])
        ended = torch.tensor([sample.ended for sample in samples], dtype=torch.bool)
        prompt_lengths = torch.tensor([len(prompt) for prompt in before], dtype=torch.long)
        return cls(
            before, completions, tokens, attention_mask, mask, logprobs, ended, prompt_lengths, round_to,
            tuple(conversations), tuple(columns),
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def num_tokens(self) -> int:
        """Real completion tokens."""
        return sum(map(len, self.completions))

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row, prompt and completion."""
        return [
            len(prompt) + len(completion)
            for prompt, completion in zip(self.prompts, self.completions, strict=True)
        ]

    def to(self, device: torch.device | str) -> "Rollout":
        """The rollout with its tensors on `device`."""
        moved: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                moved[field.name] = value.to(device)
        return replace(self, **moved)

    def select(self, indices: Sequence[int] | Tensor) -> "Rollout":
        """The rows `indices`, in their order, without the columns that are padding in all of them."""
        rows = [int(i) for i in indices]
        at = torch.tensor(rows, dtype=torch.long, device=self.tokens.device)
        prompts, completions = [self.prompts[i] for i in rows], [self.completions[i] for i in rows]
        T = padded_length(torch.tensor([len(completion) for completion in completions]), self.round_to)
        S = padded_length(self.attention_mask[at].sum(1), self.round_to)
        return Rollout(
            prompts,
            completions,
            self.tokens[at, :S],
            self.attention_mask[at, :S],
            self.mask[at, :T],
            self.logprobs[at, :T],
            self.ended[at],
            self.prompt_lengths[at],
            self.round_to,
            tuple(self.conversations[i] for i in rows) if self.conversations else (),
            tuple(self.columns[i] for i in rows) if self.columns else (),
            self.lower,
            None if self.states is None else self.states[at, :S],
            None if self.sampler_logprobs is None else self.sampler_logprobs[at, :T],
            self.staleness,
        )

    def ended_by(self, end_id: int) -> "Rollout":
        """The rollout as reward models learned to read it: a completion that another stop token ended has end_id there."""
        other = [
            i for i, completion in enumerate(self.completions) if self.ended[i] and completion[-1] != end_id
        ]
        if not other:
            return self
        tokens, completions = self.tokens.clone(), list(self.completions)
        for i in other:
            tokens[i, self.prompt_lengths[i] + len(completions[i]) - 1] = end_id
            completions[i] = [*completions[i][:-1], end_id]
        return replace(self, tokens=tokens, completions=completions, lower=None, states=None)


@dataclass(frozen=True)
class Experience:
    """A rollout with what PPO learns from: values, advantages, returns, all (B, T) float32 and zero outside mask.

    values, returns: zeros where no value model learns. ref_logprobs (B, T): where the loss holds the KL to the reference.
    """

    rollout: Rollout
    values: Tensor
    advantages: Tensor
    returns: Tensor
    ref_logprobs: Tensor | None = None

    def __len__(self) -> int:
        return len(self.rollout)

    @property
    def num_tokens(self) -> int:
        """Real completion tokens: what the losses of these rows are to be divided by."""
        return self.rollout.num_tokens

    def select(self, indices: Sequence[int] | Tensor) -> "Experience":
        """The rows `indices`, in their order; see `Rollout.select`."""
        rollout = self.rollout.select(indices)
        T = rollout.mask.shape[1]
        at = torch.as_tensor(indices, dtype=torch.long, device=self.values.device)
        rows = (None if x is None else x[at, :T] for x in self._tensors())
        return Experience(rollout, *rows)  # type: ignore[arg-type]

    def shuffled(
        self, minibatch_size: int, epochs: int, generator: torch.Generator | None = None
    ) -> Iterator["Experience"]:
        """Minibatches of `epochs` passes, each in a new random order; the last of a pass may be smaller."""
        for _ in range(epochs):
            order = torch.randperm(len(self), generator=generator)
            for rows in order.split(minibatch_size) if len(order) else ():
                yield self.select(rows)

    def split(self, micro_batch_size: int) -> list["Experience"]:
        """Parts of at most `micro_batch_size` rows that are about equally long, so that little is padding."""
        return [self.select(rows) for rows in batches_by_length(self.rollout.lengths, micro_batch_size)]

    def to(self, device: torch.device | str) -> "Experience":
        """The experience with its tensors on `device`."""
        rest = (None if x is None else x.to(device) for x in self._tensors())
        return Experience(self.rollout.to(device), *rest)  # type: ignore[arg-type]

    def _tensors(self) -> tuple[Tensor | None, ...]:
        return self.values, self.advantages, self.returns, self.ref_logprobs


def in_length_order(rollout: Rollout, batch_size: int, work: Callable[[Rollout], Tensor]) -> list[Tensor]:
    """work (b, …) of batches of rows that are about equally long, so that little is padding; by row, on the CPU."""
    results: dict[int, Tensor] = {}
    for rows in batches_by_length(rollout.lengths, batch_size):
        results |= zip(rows, work(rollout.select(rows)).cpu(), strict=True)
    return [results[i] for i in range(len(rollout))]
