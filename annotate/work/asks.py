"""What a batch asks of its labelers besides the answer itself, and how it asks."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from rlhf.errors import LabelError

SHOWN = ("random", "fixed")
STRENGTHS = (1, 2, 3)  # slightly, clearly, much better
SCALES = range(2, 11)  # the best rating that can be given: a key each
# InstructGPT's metadata about an answer (Ouyang et al. 2022, table 3), in its order.
FLAGS = (
    "fails_instruction",
    "inappropriate_for_assistant",
    "made_up",
    "violates_constraint",
    "sexual",
    "violent",
    "encourages_harm",
    "denigrates_group",
    "harmful_advice",
    "moral_judgement",
    "opinion",
)


@dataclass(frozen=True, kw_only=True)
class Asks:
    """What a batch asks besides the order: ratings, flags, a comment, none acceptable, strength of preference.

    And how: scale: ratings go from 1, bad, to this, excellent (7 as in Ouyang et al. 2022). comment_below: the rating
    below which a comment is owed, 0 for none. shown_order: of a task's answers, random for each labeler, or fixed as
    stored. may_skip: tasks may be skipped. show_progress: labelers see how far they are.
    """

    ratings: bool = False
    flags: tuple[str, ...] = ()
    comment: bool = True
    none_acceptable: bool = False
    strength: bool = False
    scale: int = 7
    comment_below: int = 0
    shown_order: str = "random"
    may_skip: bool = True
    show_progress: bool = True


ASKED = frozenset(found.name for found in fields(Asks))
FOR_GOOD = {"shown_order": "drafts are kept in it", "scale": "ratings are given on it"}


def asks_from(values: Mapping[str, Any]) -> Asks:
    """Asks from a batch's row, where an older version left some out."""
    return Asks(**{**values, "flags": tuple(values.get("flags", ()))})


def changed_asks(batch: str, before: Asks, changes: Mapping[str, Any]) -> Asks:
    """Asks with some of them changed. Raises LabelError for those that answers depend on."""
    for name, reason in FOR_GOOD.items():
        if changes.get(name, getattr(before, name)) != getattr(before, name):
            raise LabelError(f"batch {batch}: {name} cannot be changed; {reason}")
    return replace(before, **changes)


def check_asks(batch: str, kind: str, asks: Asks) -> None:
    """Raises LabelError for what a batch of this kind cannot ask."""
    if asks.shown_order not in SHOWN:
        raise LabelError(
            f"batch {batch}: answers are shown in one of the orders {', '.join(SHOWN)}, not {asks.shown_order}"
        )
    if asks.scale not in SCALES:
        raise LabelError(f"batch {batch}: a scale of ratings ends at 2 to 10, not {asks.scale}")
    rated = asks.ratings or kind == "rate"
    if not 0 <= asks.comment_below <= asks.scale or (asks.comment_below and not (rated and asks.comment)):
        raise LabelError(
            f"batch {batch}: comment_below is 1 to {asks.scale} where ratings and comments are asked for, 0 for never"
        )
    if kind == "rate" and (asks.none_acceptable or asks.strength):
        raise LabelError(
            f"batch {batch}: ratings say themselves what is acceptable and by how much; leave none_acceptable and strength out"
        )
    unknown = set(asks.flags) - set(FLAGS)
    if unknown:
        raise LabelError(
            f"batch {batch}: no flag named {', '.join(sorted(unknown))}; known are {', '.join(FLAGS)}"
        )
