"""What PPO maximises: reward models, ensembles of them and Python functions.

A scorer is a callable Rollout → scores (B,) float32. A `Reward` names its scorers and says how they become one score.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlhf.data import Prompt, as_messages
from rlhf.errors import InputError
from rlhf.learning.passes import completion_scores, last_scores
from rlhf.learning.rollout import Rollout, in_length_order
from rlhf.machine.devices import autocast
from rlhf.models.checkpoints import reward_offset
from rlhf.models.padding import batches_by_length, pad_tokens
from rlhf.models.tokenizer import AnyTokenizer

Scorer = Callable[[Rollout], Tensor]
TextScorer = Callable[[list[Prompt], list[str]], Sequence[float]]


class RewardModel:
    """A scalar model as a scorer of the policy's own tokens: both must share tokenizer and chat template.

    It reads a score where it learned to, at the end token: rollouts are to be closed (`Rollout.from_samples`).
    """

    def __init__(self, model: Any, batch_size: int = 64, bf16: str = "auto") -> None:
        self.model = model.eval().requires_grad_(False)
        self.batch_size, self.bf16 = batch_size, bf16

    @torch.no_grad()
    def __call__(self, rollout: Rollout) -> Tensor:
        with autocast(self.model.device, self.bf16):
            scores = in_length_order(
                rollout, self.batch_size, lambda part: completion_scores(self.model, part)
            )
        return torch.stack(scores).float() + reward_offset(self.model)


class ForeignRewardModel:
    """A scalar model with a tokenizer of its own: the conversation is rendered anew in its chat template.

    Only what a person would read is passed on, closed by the end token as in the model's training.
    """

    def __init__(
        self, model: Any, tokenizer: AnyTokenizer, policy_tokenizer: AnyTokenizer, bf16: str = "auto"
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer, self.policy_tokenizer, self.bf16 = tokenizer, policy_tokenizer, bf16

    def __call__(self, rollout: Rollout) -> Tensor:
        rows = list(zip(rollout.conversations, completion_texts(rollout, self.policy_tokenizer), strict=True))
        return torch.tensor(score_completions(self.model, self.tokenizer, rows, bf16=self.bf16))


class RewardFunction:
    """A Python function (prompts, completions) → one float each, as a scorer.

    prompts are strings or lists of messages, as the data has them; completions are text without special tokens.
    Raises InputError where it does not give one number per completion.
    """

    def __init__(self, function: TextScorer, policy_tokenizer: AnyTokenizer) -> None:
        self.function, self.policy_tokenizer = function, policy_tokenizer

    def __call__(self, rollout: Rollout) -> Tensor:
        given = self.function(list(rollout.conversations), completion_texts(rollout, self.policy_tokenizer))
        try:
            scores = torch.tensor([float(score) for score in given])
        except (TypeError, ValueError) as problem:
            raise InputError(
                f"reward function {name_of(self.function)}: not a list of numbers ({problem})"
            ) from None
        if len(scores) != len(rollout):
            raise InputError(
                f"reward function {name_of(self.function)}: {len(scores)} scores for {len(rollout)} completions"
            )
        return scores


def name_of(function: Any) -> str:
    """What to call a function in errors and metrics."""
    return str(getattr(function, "__name__", type(function).__name__))


def completion_texts(rollout: Rollout, tokenizer: AnyTokenizer) -> list[str]:
    """The completions as people read them: no special tokens, no space around."""
    return [tokenizer.decode(said).strip() for said in rollout.completions]


@dataclass(frozen=True)
class Reward:
    """Scorers by name, and how their scores become one: Σ weight · score, the least, or mean − k · std.

    The last, a lower bound of an ensemble, and the least make a policy distrust what its reward models disagree on
    (Coste et al. 2024). weights: one per scorer for `sum`, by default 1/M each.
    """

    scorers: Mapping[str, Scorer]
    combine: str = "sum"
    weights: tuple[float, ...] = ()
    pessimism: float = 1.0

    def __post_init__(self) -> None:
        if self.weights and (self.combine != "sum" or len(self.weights) != len(self.scorers)):
            raise InputError(
                f"reward weights: {len(self.weights)} for {len(self.scorers)} rewards combined by {self.combine}; "
                "give one for each, and only with sum"
            )

    def components(self, rollout: Rollout) -> Tensor:
        """Every scorer's scores, (B, M) float32 on the CPU."""
        if not len(rollout):  # a process may have no row of a small batch
            return torch.empty(0, len(self.scorers))
        return torch.stack([scorer(rollout).float().cpu() for scorer in self.scorers.values()], 1)

    def combined(self, components: Tensor) -> Tensor:
        """One score per completion (B,) from components (B, M)."""
        if self.combine == "min":
            return components.min(1).values
        if self.combine == "lower-bound":
            return components.mean(1) - self.pessimism * components.std(1, unbiased=False)
        weights = self.weights or [1 / len(self.scorers)] * len(self.scorers)
        return components @ components.new_tensor(weights)


@torch.no_grad()
def score_completions(
    model: Any,
    tokenizer: Any,
    rows: Sequence[tuple[Prompt, str]],
    batch_size: int = 64,
    *,
    max_length: int | None = None,
    bf16: str = "auto",
) -> list[float]:
    """The reward of each (prompt, completion) text, in order; batched by length, the end of a row read by length.

    Every completion is closed by the end token, as in training, one that was cut off too: after any other token the
    score means nothing. A row of more than max_length tokens, by default the model's context, loses its beginning.
    """
    model.eval()
    tokens = [
        tokenizer.encode_prompt(as_messages(prompt)) + tokenizer.encode_completion(text)
        for prompt, text in rows
    ]
    context = max_length or getattr(model.config, "max_position_embeddings", None)
    tokens = [row[-context:] if context else row for row in tokens]
    scores = [0.0] * len(tokens)
    for chosen in batches_by_length([len(row) for row in tokens], batch_size):
        ids, mask = pad_tokens([tokens[i] for i in chosen], tokenizer.pad_id, round_to=8)
        with autocast(model.device, bf16):
            ids, mask = ids.to(model.device), mask.to(model.device)
            logits = last_scores(model, ids, mask)
        for i, score in zip(chosen, (logits + reward_offset(model)).tolist(), strict=True):
            scores[i] = score
    return scores
