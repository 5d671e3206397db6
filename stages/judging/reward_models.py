"""What a reward model is worth: its scores of the answers that people ranked, beside what people said of them."""

from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from annotate.answers.agreement import agreement
from rlhf.data import Ranking
from rlhf.errors import InputError
from rlhf.inputs import within_context
from rlhf.learning.rewards import score_completions
from rlhf.machine.devices import best_device
from rlhf.measuring.ranked_pairs import ranked_pairs, report_on_pairs
from rlhf.models.checkpoints import load_scalar
from rlhf.models.tokenizer import load_tokenizer

BATCH_SIZE = 32


def report_on_reward_model(
    folder: Path | str, rankings: Mapping[str, Sequence[Ranking]], max_length: int | None = None
) -> dict[str, Any]:
    """`report_on_pairs` of the reward model in a folder; rankings by source. An answer ranked twice is scored once.

    max_length: tokens that it reads of a conversation, by default its context. Raises InputError where all answers tie,
    and for a score that is no finite number.
    """
    model, tokenizer = load_scalar(folder).to(best_device()), load_tokenizer(folder)
    every = [ranking for rows in rankings.values() for ranking in rows]
    answers = {
        (repr(ranking.prompt), text): (ranking.prompt, text)
        for ranking in every
        for text in ranking.completions
    }
    longest = within_context(model, max_length) if max_length else None
    found = score_completions(model, tokenizer, list(answers.values()), BATCH_SIZE, max_length=longest)
    if not all(map(isfinite, found)):
        raise InputError(
            f"{folder}: its score of an answer is no finite number; is the reward model damaged?"
        )
    scores = dict(zip(answers, found, strict=True))
    pairs = [
        pair
        for source, rows in rankings.items()
        for pair in ranked_pairs(
            rows, [[scores[repr(row.prompt), text] for text in row.completions] for row in rows], source
        )
    ]
    if not pairs:
        raise InputError("the rankings hold no pair of answers of which one is preferred: nothing to measure")
    agreed = agreement(every)
    return report_on_pairs(pairs, agreed.decided, agreed.decided_pairs)
