"""How much policies differ on the same prompts, with 95 % intervals of the paired differences, by conversation."""

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf.data import Prompt
from rlhf.intervals import mean_interval
from rlhf.measuring.diversity import is_alike, repetition
from rlhf.splits import conversation_key
from stages.judging.answers import Answers

Values = Sequence[Any]  # a number of each prompt's answer, None where there is none


def paired(prompts: Sequence[Prompt], mine: Values | None, theirs: Values | None) -> list[float] | None:
    """[mean, low, high] of mine − theirs over the prompts that have both; None where fewer than two conversations do."""
    both = [
        (conversation_key(prompt), float(a) - float(b))
        for prompt, a, b in zip(prompts, mine or (), theirs or (), strict=False)
        if a is not None and b is not None
    ]
    if len({conversation for conversation, _ in both}) < 2:
        return None
    return [round(x, 4) for x in mean_interval(*zip(*both, strict=True))]


def behind_best(
    curve: Sequence[Mapping[str, Any]],
    prompts: Sequence[Prompt],
    scores: Mapping[str, Values | None],
    rewards: Mapping[str, Values | None],
) -> list[dict[str, Any]]:
    """The points of a curve, each with how far the one judged best is above it in `judged` and in `reward`."""
    best = max(
        (point for point in curve if point["judged"] is not None),
        key=lambda point: point["judged"],
        default=None,
    )
    if best is None:
        return [dict(point) for point in curve]
    top = best["policy"]
    return [
        {
            **point,
            "best_ahead": {
                "judged": paired(prompts, scores[top], scores[point["policy"]]),
                "reward": paired(prompts, rewards[top], rewards[point["policy"]]),
            },
        }
        for point in curve
    ]


def against(prompts: Sequence[Prompt], mine: Answers, theirs: Answers) -> dict[str, list[float] | None]:
    """Words, repetition and likeness of a policy's answers less those of a reference's."""
    both = (mine, theirs)
    return {
        "words": paired(prompts, *(each.num_words for each in both)),
        "repetition": paired(prompts, *([repetition([text]) for text in each.texts] for each in both)),
        "share_alike": paired(prompts, *(is_alike(each.texts) for each in both)),
    }
