"""What PPO maximises: reward models, ensembles of them and Python functions.

A scorer is a callable Rollout → scores (B,) float32. A `Reward` names its scorers and says how they become one score.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rlhf.data import Prompt, as_messages
from rlhf.errors import InputError, first_line
from rlhf.learning.linear_probe import Heads
from rlhf.learning.passes import completion_scores, completion_states, last_scores
from rlhf.learning.rollout import Rollout, in_length_order
from rlhf.machine.devices import autocast
from rlhf.models.checkpoints import check_known, context_length, num_tokens_of, reward_offset
from rlhf.models.padding import batches_by_length, pad_tokens
from rlhf.models.tokenizer import AnyTokenizer
from rlhf.sharding import is_sharded, whole

Scorer = Callable[[Rollout], Tensor]
TextScorer = Callable[..., Sequence[float | None]]
GIVEN = ("prompts", "completions")  # to every function, beside columns of the prompts' rows


class RewardModel:
    """A scalar model as a scorer of the policy's own tokens: both must share tokenizer and chat template.

    It reads a score where it learned to, at the end token: rollouts are to be closed (`Rollout.from_samples`), and
    completions that ended by another of the policy's stop tokens are read as if by end_id. heads: an ensemble on the
    model's trunk, whose lower bound by `pessimism` takes the score's place where that is above 0.
    """

    def __init__(
        self,
        model: Any,
        batch_size: int = 64,
        bf16: str = "auto",
        end_id: int | None = None,
        heads: Heads | None = None,
        pessimism: float = 0.0,
    ) -> None:
        self.heads, self.pessimism = heads, pessimism
        self.model = model.eval().requires_grad_(False)
        self.batch_size, self.bf16, self.end_id = batch_size, bf16, end_id

    @torch.no_grad()
    def __call__(self, rollout: Rollout) -> Tensor:
        if self.end_id is not None:
            rollout = rollout.ended_by(self.end_id)
        with whole(self.model) as model, autocast(model.device, self.bf16):
            scores = in_length_order(rollout, self.batch_size, lambda part: self._scores(model, part))
        return torch.stack(scores or [torch.empty(0)]).flatten().float()

    def _scores(self, model: Any, part: Rollout) -> Tensor:
        if self.heads is None or not self.pessimism:
            return completion_scores(model, part) + reward_offset(self.model)
        return self.heads.lower_bound(completion_states(model, part), self.pessimism)


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
        with whole(self.model) as model:
            return torch.tensor(score_completions(model, self.tokenizer, rows, bf16=self.bf16))


class RewardFunction:
    """A Python function (prompts, completions, columns by name) → one float or None each, as a scorer.

    prompts are strings or lists of messages, as the data has them; completions are text without special tokens. They go by
    these names wherever one of them is a parameter, else as the first two. A further parameter such as `answer` gets the list
    of that column's values, None in rows without it; `**columns` gets all. None as a score: the function does not judge this
    completion. Raises InputError where it does not give one number or None per completion, cannot be called like this, or
    asks for a column that no prompt has.
    """

    def __init__(self, function: TextScorer, policy_tokenizer: AnyTokenizer) -> None:
        self.function, self.policy_tokenizer = function, policy_tokenizer

    def __call__(self, rollout: Rollout) -> Tensor:
        texts = completion_texts(rollout, self.policy_tokenizer)
        columns = rollout.columns or ({},) * len(rollout)
        return torch.tensor(call_function(self.function, rollout.conversations, texts, columns))


def call_function(
    function: TextScorer,
    prompts: Sequence[Prompt],
    texts: Sequence[str],
    columns: Sequence[Mapping[str, Any]],
) -> list[float]:
    """A reward function's score of each text, nan for None; columns: those of each one's row. Raises as `RewardFunction`."""
    args, by_name = arguments_of(function, prompts, texts, columns)
    judged = function(*args, **by_name)
    try:
        if isinstance(judged, str | bytes | Mapping | Set):
            raise TypeError(f"it gave a {type(judged).__name__}")
        scores = [_judged(score) for score in judged]
    except (TypeError, ValueError, OverflowError) as problem:
        raise InputError(
            f"reward function {name_of(function)}: not a list of numbers ({first_line(problem)})"
        ) from None
    if len(scores) != len(texts):
        raise InputError(
            f"reward function {name_of(function)}: {len(scores)} scores for {len(texts)} completions"
        )
    return scores


def arguments_of(
    function: TextScorer,
    prompts: Sequence[Prompt],
    texts: Sequence[str],
    columns: Sequence[Mapping[str, Any]],
) -> tuple[list[Any], dict[str, Any]]:
    """What a reward function is called with, by position and by name. Raises InputError where that does not fit it."""
    try:
        signature = inspect.signature(function.forward if isinstance(function, nn.Module) else function)
    except (TypeError, ValueError):  # a builtin says nothing of its parameters
        return [list(prompts), list(texts)], {}
    args, by_name = _prompts_and_completions(signature.parameters, list(prompts), list(texts))
    placed = {*list(signature.parameters)[: len(args)], *by_name}
    others = [one for name, one in signature.parameters.items() if name not in placed]
    by_name |= _columns_for(name_of(function), others, columns)
    try:
        signature.bind(*args, **by_name)
    except TypeError as problem:
        raise InputError(
            f"reward function {name_of(function)}: it takes no prompts and completions ({problem}); write "
            f"{name_of(function)}(prompts, completions), and behind them a parameter for each column that it reads"
        ) from None
    return args, by_name


def columns_asked(function: TextScorer, rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The columns of the rows that a reward function gets, by name. Raises as `RewardFunction`, without calling it."""
    _, by_name = arguments_of(function, [], [], rows)
    return {name: values for name, values in by_name.items() if name not in GIVEN}


def _prompts_and_completions(
    parameters: Mapping[str, inspect.Parameter], prompts: list[Prompt], texts: list[str]
) -> tuple[list[Any], dict[str, Any]]:
    """How a function with these parameters gets the two: by position and by name."""
    takes_any = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    names = [
        name for name, one in parameters.items() if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
    ]
    both = dict(zip(GIVEN, (prompts, texts), strict=True))
    if "completions" in names:  # trl's functions may take nothing else
        return [], {name: given for name, given in both.items() if name in names or takes_any}
    if names[:1] == ["prompts"] or "prompts" not in names:
        return [prompts, texts], {}
    return [texts], {"prompts": prompts}


def _columns_for(
    called: str, parameters: Sequence[inspect.Parameter], rows: Sequence[Mapping[str, Any]]
) -> dict[str, list[Any]]:
    """The columns that these parameters of a function ask for, each a list of a value per completion."""
    there = set[str]().union(*rows) - {"prompt", *GIVEN}
    wanted = {
        one.name: one for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
    }
    if missing := [name for name, one in wanted.items() if one.default is one.empty and name not in there]:
        raise InputError(
            f"reward function {called}: no prompt has a column {missing[0]}; there are: {', '.join(sorted(there)) or 'none'}, "
            "beside prompts and completions by these names"
        )
    takes_any = any(one.kind is one.VAR_KEYWORD for one in parameters)
    names = there if takes_any else there & wanted.keys()
    return {name: [row.get(name) for row in rows] for name in sorted(names) if name.isidentifier()}


def _judged(score: Any) -> float:
    """A function's score: nan for None, and for nan, which would look the same, inf, which no trainer takes."""
    if score is None:
        return math.nan
    if isinstance(score, str | bytes):
        raise TypeError(f"{score!r:.40} is a text")
    return math.inf if math.isnan(float(score)) else float(score)


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
        """Every scorer's scores, (B, M) float32 on the CPU; nan where it does not judge a completion."""
        return torch.stack([self._scores(scorer, rollout) for scorer in self.scorers.values()], 1)

    def _scores(self, scorer: Scorer, rollout: Rollout) -> Tensor:
        # A process may have no row of a small batch, but others wait for its part of a model.
        if not len(rollout) and not is_sharded(getattr(scorer, "model", None)):
            return torch.empty(0)
        scores = scorer(rollout).float().cpu()
        # A model judges every completion: what it has no number for is a fault, which the trainer ends with.
        return scores if isinstance(scorer, RewardFunction) else scores.nan_to_num(torch.inf)

    def combined(self, components: Tensor) -> Tensor:
        """One score per completion (B,) from components (B, M), of the scorers that judge it.

        A weighted sum leaves the others out, as trl does; the least, the lower bound and the mean are of those that judge.
        A completion that none judges scores 0.
        """
        judged = ~components.isnan()  # (B, M)
        if not judged.all():
            return self._combined_of(components, judged)
        if self.combine == "min":
            return components.min(1).values
        if self.combine == "lower-bound":
            return components.mean(1) - self.pessimism * components.std(1, unbiased=False)
        weights = self.weights or [1 / len(self.scorers)] * len(self.scorers)
        return components @ components.new_tensor(weights)

    def _combined_of(self, components: Tensor, judged: Tensor) -> Tensor:
        """`combined` where some scorers do not judge some completions."""
        if self.combine == "min":
            least = components.masked_fill(~judged, torch.inf).min(1).values
            return torch.where(judged.any(1), least, 0.0)
        if self.weights:
            return components.nan_to_num() @ components.new_tensor(self.weights)
        mean = components.nanmean(1)
        if self.combine == "lower-bound":
            mean = mean - self.pessimism * (components - mean[:, None]).square().nanmean(1).sqrt()
        return mean.nan_to_num()


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

    Every completion is closed by the end token, also one that was cut off: the model was trained on such rows alone, so
    that a score after any other token means nothing. A row of more than max_length tokens, by default the model's context,
    is cut as in training.
    """
    context = max_length or context_length(model.config)
    tokens = []
    for prompt, text in rows:
        before, said = tokenizer.encode_prompt(as_messages(prompt)), tokenizer.encode_completion(text, prompt)
        tokens.append(cut_row(before, said, context, tokenizer.eos_id) if context else before + said)
    return score_rows(model, tokens, tokenizer.pad_id, batch_size, bf16=bf16)


def cut_row(prompt: list[int], completion: list[int], max_length: int, end_id: int) -> list[int]:
    """Prompt and completion as at most max_length tokens, the one way in which reward models are trained and asked.

    A prompt longer than half of max_length loses its beginning, as far as the completion needs the room; a completion its
    end, which an end token closes: scores are read there.
    """
    half = max_length // 2
    room = half + max(0, half - len(prompt))
    if len(completion) > room:
        completion = [*completion[: room - 1], end_id]
    return prompt[-(max_length - len(completion)) :] + completion


@torch.no_grad()
def score_rows(
    model: Any, tokens: Sequence[list[int]], pad_id: int, batch_size: int = 64, *, bf16: str = "auto"
) -> list[float]:
    """The reward of each row of tokens, read at its last one, in order; batched by length. Equal rows score alike."""
    model.eval()
    num_tokens = num_tokens_of(model)
    for index, row in enumerate(tokens):
        check_known(row, num_tokens, f"answer {index + 1}")
    scores = [0.0] * len(tokens)
    for chosen in batches_by_length([len(row) for row in tokens], batch_size):
        ids, mask = pad_tokens([tokens[i] for i in chosen], pad_id, round_to=8)
        with autocast(model.device, bf16):
            ids, mask = ids.to(model.device), mask.to(model.device)
            logits = last_scores(model, ids, mask)
        for i, score in zip(chosen, (logits + reward_offset(model)).tolist(), strict=True):
            scores[i] = score
    first: dict[tuple[int, ...], float] = {}  # batches of other shapes round equal rows differently
    return [first.setdefault(tuple(row), score) for row, score in zip(tokens, scores, strict=True)]
