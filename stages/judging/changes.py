"""How much policies differ on the same prompts, with 95 % intervals of the paired differences, by conversation."""

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf.intervals import mean_interval
from rlhf.measuring.diversity import is_alike, repetition
from stages.judging.answers import Answers

Values = Sequence[Any]  # a number of each prompt's answer, None where there is none


def paired(conversations: Sequence[str], mine: Values | None, theirs: Values | None) -> list[float] | None:
    """[mean, low, high] of mine − theirs over the prompts that have both; None where fewer than two conversations do.

    conversations: the `conversation_key` of each prompt, here and below.
    """
    both = [
        (conversation, float(a) - float(b))
        for conversation, a, b in zip(conversations, mine or (), theirs or (), strict=False)
        if a is not None and b is not None
    ]
    if len({conversation for conversation, _ in both}) < 2:
        return None
    return [round(x, 4) for x in mean_interval(*zip(*both, strict=True))]


def behind_best(
    curve: Sequence[Mapping[str, Any]],
    conversations: Sequence[str],
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
                "judged": paired(conversations, scores[top], scores[point["policy"]]),
                "reward": paired(conversations, rewards[top], rewards[point["policy"]]),
            },
        }
        for point in curve
    ]


def against(conversations: Sequence[str], mine: Answers, theirs: Answers) -> dict[str, list[float] | None]:
    """Words, repetition and likeness of a policy's answers less those of a reference's."""
    both = (mine, theirs)
    return {
        "words": paired(conversations, *(each.num_words for each in both)),
        "repetition": paired(conversations, *([repetition([text]) for text in each.texts] for each in both)),
        "share_alike": paired(conversations, *(is_alike(each.texts) for each in both)),
    }
