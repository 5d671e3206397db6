"""What is measured of one model besides its answers: constraints kept, loss on plain text."""

from collections.abc import Sequence
from typing import Any

import torch

from rlhf.data import Prompt, as_messages, read_texts
from rlhf.inputs import packed_tokens
from rlhf.intervals import interval_by
from rlhf.learning.passes import text_logprobs
from rlhf.machine.devices import autocast, best_device
from rlhf.measuring.constraints import add_constraints
from rlhf.models.checkpoints import check_fits, load_policy
from stages.judging.answers import Model, sample_answers

TEXT_WINDOW = 256


def follows(
    model: Model, tasks: Sequence[Prompt], num_tasks: int, max_new_tokens: int, seed: int
) -> dict[str, Any]:
    """Share of tasks with a checkable constraint whose greedy answer keeps it, with interval, and by kind."""
    policy, tokenizer = load_policy(model.folder).to(best_device()).eval(), model.tokenizer()
    wanted = add_constraints(tasks, num_tasks, seed)
    rows = [tokenizer.encode_prompt(as_messages(prompt)) for prompt, _ in wanted]
    samples = sample_answers(policy, tokenizer, rows, 0.0, max_new_tokens, seed)
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
    policy, tokenizer = load_policy(model.folder).to(best_device()).eval(), model.tokenizer()
    check_fits(tokenizer, policy, model.folder)
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
