"""What is measured of one model besides its answers: constraints kept, loss on plain text."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from rlhf.data import Prompt, PromptRow, as_messages, fingerprint, read_texts
from rlhf.errors import InputError
from rlhf.inputs import packed_tokens, with_first_tokens, within_context
from rlhf.intervals import interval_by
from rlhf.learning.passes import text_logprobs
from rlhf.machine.devices import autocast, best_device
from rlhf.measuring.constraints import Constraint, draw_constraints
from rlhf.models.checkpoints import check_fits, load_policy
from rlhf.splits import conversation_key
from stages.judging.answers import Model, fitting_rows
from stages.judging.sampled import SampleFile, sample_answers
from stages.judging_settings import JudgingSettings

TEXT_WINDOW = 256


Task = tuple[Prompt, Constraint]


def fitting_tasks(
    folders: Sequence[str],
    prompts: Sequence[Prompt],
    settings: JudgingSettings,
    seed: int,
    say: Callable[[str], None],
    skip_long: bool = True,
    template_kwargs: str = "",
) -> list[Task]:
    """Prompts with a constraint for each, of those that every model has room to answer.

    Raises InputError for another one, unless skip_long is set.
    """
    drawn = draw_constraints(prompts, settings.num_tasks, seed)
    rows = [
        PromptRow(prompt=constraint.behind(prompt), columns={"task": (prompt, constraint)})
        for prompt, constraint in drawn
    ]
    fitting = fitting_rows(folders, rows, template_kwargs, settings.max_task_tokens, skip_long, say)
    return [row.columns["task"] for row in fitting]


def follows(
    model: Model, tasks: Sequence[Task], max_new_tokens: int, seed: int, file: SampleFile | None = None
) -> dict[str, Any]:
    """Share of tasks whose greedy answer keeps the constraint, with interval, and by kind."""
    policy, tokenizer = load_policy(model.folder).to(best_device()).eval(), model.tokenizer()
    rows = [tokenizer.encode_prompt(as_messages(constraint.behind(prompt))) for prompt, constraint in tasks]
    samples = sample_answers(policy, tokenizer, rows, 0.0, max_new_tokens, seed, file)
    texts = [tokenizer.decode(sample.tokens).strip() for sample in samples]
    kept = [float(constraint.holds(text)) for text, (_, constraint) in zip(texts, tasks, strict=True)]
    by_kind: dict[str, list[float]] = {}
    for share, (_, constraint) in zip(kept, tasks, strict=True):
        by_kind.setdefault(constraint.kind, []).append(share)
    low, high = interval_by([conversation_key(prompt) for prompt, _ in tasks], kept, [1] * len(kept))
    return {
        "share": round(sum(kept) / len(kept), 4),
        "ci95": [round(low, 4), round(high, 4)],
        "n": len(kept),
        "kept": [int(share) for share in kept],
        "by_kind": {kind: [int(sum(rows)), len(rows)] for kind, rows in sorted(by_kind.items())},
    }


@torch.no_grad()
def text_loss(model: Model, file: str, num_tokens: int) -> dict[str, Any]:
    """Mean loss in nats per token on the first num_tokens of plain text, in windows of TEXT_WINDOW tokens.

    Each begins with the first token that the model was trained with, where there is one. A model of less context, or a short text, has shorter windows. `windows` is what the loss was taken on: two losses
    are comparable where it is equal. Raises InputError where the loss is no number.
    """
    policy, tokenizer = load_policy(model.folder).to(best_device()).eval(), model.tokenizer()
    check_fits(tokenizer, policy, model.folder)
    tokens = packed_tokens(tokenizer, read_texts(file))[:num_tokens]
    own = min(within_context(policy, TEXT_WINDOW) - len(tokenizer.first_ids), len(tokens))
    rows = with_first_tokens(tokenizer, tokens[: len(tokens) // own * own].view(-1, own))
    total, count, by_window = 0.0, 0, list[float]()
    for part in rows.split(8):
        part = part.to(policy.device)
        with autocast(policy.device):
            logprobs = text_logprobs(policy, part)
        total -= float(logprobs.sum())
        by_window += [round(loss, 4) for loss in (-logprobs.float().mean(1)).tolist()]
        count += part[:, 1:].numel()
    if not math.isfinite(total):
        raise InputError(f"{model.folder}: its loss on {file} is no finite number; is the model damaged?")
    return {
        "loss": round(total / count, 4),
        "tokens": count,
        "windows": fingerprint(rows.tolist()),
        "by_window": by_window,
    }
