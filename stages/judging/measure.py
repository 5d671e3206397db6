"""What is measured of a model: sampled answers, reward models' scores, constraints kept, loss on plain text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rlhf.data import Prompt, as_messages, read_texts
from rlhf.inputs import packed_tokens
from rlhf.intervals import interval_by
from rlhf.learning.passes import completion_logprobs, text_logprobs
from rlhf.learning.rewards import score_completions
from rlhf.learning.rollout import Rollout, in_length_order
from rlhf.machine.devices import autocast, best_device
from rlhf.measuring.constraints import add_constraints
from rlhf.measuring.evaluate import (
    win_rate,
    win_rate_at_equal_length,
)
from rlhf.models.checkpoints import load_policy, load_scalar
from rlhf.models.tokenizer import load_tokenizer
from stages.judging.answers import kl_of_best_of, sample_answers
from stages.judging.evaluate import win_rate_fields
from stages.settings import AlignEvalSettings

BATCH_SIZE = 32
TEXT_WINDOW = 256


@dataclass(frozen=True)
class Model:
    """A model to judge or to judge by: where it is, and a store entry's hash (of one outside the store, its name)."""

    folder: Path | str
    hash: str


def answers(
    settings: AlignEvalSettings, model: Model, sft: Model | None, prompts: Sequence[Prompt], n: int, seed: int
) -> dict[str, list[Any]]:
    """n sampled answers to every prompt, in a row: text, whether it ended, tokens, and nats to the SFT model.

    Where there is no SFT model to compare with, or it reads other tokens, the nats are None.
    """
    policy, tokenizer = load_policy(model.folder).to(best_device()).eval(), load_tokenizer(model.folder)
    conversations = [prompt for prompt in prompts for _ in range(n)]
    rows = [tokenizer.encode_prompt(as_messages(prompt)) for prompt in conversations]
    samples = sample_answers(policy, tokenizer, rows, settings.temperature, settings.max_new_tokens, seed)
    texts = [tokenizer.decode(sample.tokens).strip() for sample in samples]
    kl: list[float | None] = [None] * len(samples)
    if sft is not None:
        reference = load_policy(sft.folder).to(policy.device).eval()
        if reference.config.vocab_size == policy.config.vocab_size:
            rollout = Rollout.from_samples(rows, samples, tokenizer.pad_id, round_to=8)
            kl = (rollout.logprobs.sum(1) - _logprobs(reference, rollout)).tolist()
    return {
        "texts": texts,
        "ended": [sample.ended for sample in samples],
        "lengths": [len(sample.tokens) for sample in samples],
        "kl": kl,
    }


@torch.no_grad()
def _logprobs(model: Any, rollout: Rollout) -> torch.Tensor:
    with autocast(model.device):
        found = in_length_order(rollout, BATCH_SIZE, lambda part: completion_logprobs(model, part).sum(1))
    return torch.stack(found)


def scores(judge: Model, prompts: Sequence[Prompt], given: Mapping[str, list[Any]]) -> list[float]:
    """A reward model's score of each answer; given may hold several answers per prompt, in a row."""
    model, tokenizer = load_scalar(judge.folder).to(best_device()), load_tokenizer(judge.folder)
    n = len(given["texts"]) // len(prompts)
    rows = list(zip((prompt for prompt in prompts for _ in range(n)), given["texts"], strict=True))
    return score_completions(model, tokenizer, rows, BATCH_SIZE)


def best_of(
    given: Mapping[str, list[Any]], rewards: Sequence[float], n: int, missing_eos_penalty: float
) -> dict[str, list[Any]]:
    """Of every n answers in a row the one with the highest score that PPO would see."""
    seen = [
        reward - (0.0 if ended else missing_eos_penalty)
        for reward, ended in zip(rewards, given["ended"], strict=True)
    ]
    best = [max(range(at, at + n), key=seen.__getitem__) for at in range(0, len(seen), n)]
    return {name: [values[i] for i in best] for name, values in given.items()} | {"kl": [None] * len(best)}


def compare(
    policy: str,
    against: str,
    prompts: Sequence[Prompt],
    given: Mapping[str, Any],
    gold: Mapping[str, list[float]],
    n: int,
) -> dict[str, Any]:
    """One row of the report: win rates by the gold model, plain and at equal length, and how far policy is from SFT."""
    mine, other = given[policy], given[against]
    words, their_words = ([len(text.split()) for text in each["texts"]] for each in (mine, other))
    equal = win_rate_at_equal_length(gold[policy], gold[against], words, their_words)
    kl = mine["kl"]
    return {
        "policy": policy,
        "against": against,
        **win_rate_fields(win_rate(gold[policy], gold[against], prompts)),
        "win_rate_at_equal_length": round(equal[0], 4),
        "ci95_at_equal_length": [round(x, 4) for x in equal[1:]],
        "kl": round(kl_of_best_of(n), 4) if policy.startswith("best of") else mean(kl),
        "mean_gold": mean(gold[policy]),
        "against_mean_gold": mean(gold[against]),
        "mean_words": mean(words),
        "against_mean_words": mean(their_words),
        "ended": mean(mine["ended"]),
    }


def mean(values: Sequence[Any]) -> float | None:
    """The mean to four places; None where a value is missing."""
    known = [value for value in values if value is not None]
    return round(sum(known) / len(known), 4) if len(known) == len(values) else None


def follows(model: Model, settings: AlignEvalSettings, tasks: Sequence[Prompt], seed: int) -> dict[str, Any]:
    """Share of tasks with a checkable constraint whose greedy answer keeps it, with interval, and by kind."""
    policy, tokenizer = load_policy(model.folder).to(best_device()).eval(), load_tokenizer(model.folder)
    wanted = add_constraints(tasks, settings.num_tasks, seed)
    rows = [tokenizer.encode_prompt(as_messages(prompt)) for prompt, _ in wanted]
    samples = sample_answers(policy, tokenizer, rows, 0.0, settings.max_task_tokens, seed)
    texts = [tokenizer.decode(sample.tokens).strip() for sample in samples]
    kept = [float(constraint.holds(text)) for text, (_, constraint) in zip(texts, wanted, strict=True)]
    by_kind: dict[str, list[float]] = {}
    for share, (_, constraint) in zip(kept, wanted, strict=True):
        by_kind.setdefault(constraint.kind, []).append(share)
    low, high = interval_by([str(prompt) for prompt in tasks[: len(kept)]], kept, [1] * len(kept))
    return {
        "share": round(sum(kept) / len(kept), 4),
        "ci95": [round(low, 4), round(high, 4)],
        "n": len(kept),
        "by_kind": {kind: [int(sum(rows)), len(rows)] for kind, rows in sorted(by_kind.items())},
    }


@torch.no_grad()
def text_loss(model: Model, file: str, num_tokens: int) -> dict[str, Any]:
    """Mean loss in nats per token on the first num_tokens of plain text, in windows of TEXT_WINDOW tokens."""
    policy, tokenizer = load_policy(model.folder).to(best_device()).eval(), load_tokenizer(model.folder)
    tokens = packed_tokens(tokenizer, read_texts(file))[:num_tokens]
    window = min(TEXT_WINDOW, len(tokens))  # a short text is one window
    rows = tokens[: len(tokens) // window * window].view(-1, window)
    total, count = 0.0, 0
    for part in rows.split(8):
        part = part.to(policy.device)
        with autocast(policy.device):
            total -= float(text_logprobs(policy, part).sum())
        count += part[:, 1:].numel()
    return {"loss": round(total / count, 4), "tokens": count}
