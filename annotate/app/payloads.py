"""Tasks and answers as JSON: what a page may see, in the order it was shown, and back to the store's order.

A page and a REST client see answers in shown order only; which stored place an answer has, and so which checkpoint
wrote it, stays on the server.
"""

import hashlib
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from annotate.app.rendering import rendered, rendered_messages
from annotate.work.asks import Asks
from annotate.work.assign import TaskView
from annotate.work.history import PastAnswer
from annotate.work.submit import VERDICT_RANKS, Submission, verdict_of
from rlhf.data import as_messages

T = TypeVar("T")
Flag = Annotated[str, Field(max_length=64)]
FLIPPED = {"a": "b", "b": "a"}


class AnswerIn(BaseModel):
    """One answer to a task. Lists follow the order in which the task's answers were shown.

    ranks: 0 is best, equal ranks tie. ratings: 1 to the batch's scale, or null; one for each where kind is rate. verdict: a, b (the answer shown first or second), tie or both_bad of a
    comparison. fields: what the fields of a lead's own page say, by name. strength: 1 slightly, 2 clearly, 3 much better, between two answers. client_id: made by the client;
    sending it again stores nothing new.
    """

    model_config = ConfigDict(extra="forbid")
    client_id: str = Field(min_length=1, max_length=200)
    kind: Literal["rank", "compare", "demonstrate", "rate", "skip"]
    ranks: list[int] = Field(default=[], max_length=9)
    ratings: list[int | None] = Field(default=[], max_length=9)
    flags: list[Annotated[list[Flag], Field(fail_fast=True)]] = Field(default=[], max_length=9)
    verdict: Literal["a", "b", "tie", "both_bad"] | None = None
    strength: int | None = Field(default=None, ge=1, le=3)
    demonstration: str | None = Field(default=None, max_length=1_000_000)
    none_acceptable: bool = False
    comment: str = Field(default="", max_length=50_000)
    time_s: float = Field(default=0.0, ge=0, le=86_400)
    fields: dict[str, Any] = Field(default={}, max_length=100)


class DraftIn(BaseModel):
    """What is typed so far; of two drafts the one with the larger revision stays: count on from the task's `revision`.

    client_id: the task's as it came; once an answer was given with it, a draft is late and not kept.
    """

    model_config = ConfigDict(extra="forbid")
    content: dict[str, Any]
    revision: int = Field(ge=0, lt=2**53)
    client_id: str = Field(default="", max_length=200)


def own_id(account_id: int, client_id: str) -> str:
    """The id under which an answer is stored: nobody can take or guess at another account's."""
    return hashlib.sha256(f"{account_id}:{client_id}".encode("utf-8", "replace")).hexdigest()


def shown(stored: Sequence[T], order: Sequence[int]) -> list[T]:
    """Values by stored place, in shown order; an empty list stays empty."""
    return [stored[place] for place in order] if stored else []


def stored(shown_values: Sequence[T], order: Sequence[int]) -> tuple[T, ...]:
    """The inverse of `shown`. Values of another length are passed on, for the store to refuse."""
    if len(shown_values) != len(order):
        return tuple(shown_values)
    by_place = dict(zip(order, shown_values, strict=True))
    return tuple(by_place[place] for place in range(len(order)))


def submission(view: TaskView, account_id: int, answer: AnswerIn) -> Submission:
    """An answer as the store takes it."""
    order = view.shown_order
    skip = answer.kind == "skip"
    swapped = answer.kind == "compare" and tuple(order) == (1, 0)
    return Submission(
        task_id=view.id,
        client_id=own_id(account_id, answer.client_id),
        kind=answer.kind,
        ranks=() if skip else stored(answer.ranks, order),
        ratings=() if skip else stored(answer.ratings, order),
        flags=() if skip else tuple(map(tuple, stored(answer.flags, order))),
        shown_order=tuple(order),
        demonstration=answer.demonstration,
        verdict=FLIPPED.get(answer.verdict or "", answer.verdict) if swapped else answer.verdict,
        strength=answer.strength,
        none_acceptable=answer.none_acceptable,
        comment=answer.comment,
        time_s=answer.time_s,
        fields={} if skip else answer.fields,
    )


def task_json(view: TaskView, asks: Asks, version: int) -> dict[str, Any]:
    """A task for a page. version: how many answers this account has given to it, so that two tabs of one version
    make the same client id.
    """
    return {
        "id": view.id,
        "batch": view.batch,
        "kind": view.kind,
        "prompt": rendered_messages(view.prompt),
        "answers": [rendered(text) for text in shown(view.completions, view.shown_order)],
        "asks": asks_json(asks),
        "client_id": f"{view.id}-{version}",
        "expires": view.expires,
    }


def asks_json(asks: Asks) -> dict[str, Any]:
    return {
        "ratings": asks.ratings,
        "flags": list(asks.flags),
        "comment": asks.comment,
        "none_acceptable": asks.none_acceptable,
        "strength": asks.strength,
        "scale": asks.scale,
        "comment_below": asks.comment_below,
        "may_skip": asks.may_skip,
        "show_progress": asks.show_progress,
    }


def given_json(past: PastAnswer) -> dict[str, Any]:
    """An earlier answer as the draft a page starts from (`state()` of the page's scripts)."""
    order = past.task.shown_order
    ranks = shown(past.ranks, order)
    given: dict[str, Any] = {
        "ranks": [rank + 1 for rank in ranks],
        "ratings": shown(past.ratings, order),
        "flags": [list(flags) for flags in shown(past.flags, order)],
        "demonstration": past.demonstration or "",
        "none_acceptable": past.none_acceptable,
        "comment": past.comment,
        "fields": past.fields,
        "time_s": past.time_s,
    }
    if len(order) == 2 and past.kind in ("rank", "compare"):
        given["choice"] = choice_of(ranks, past.verdict, past.strength)
    return given


def choice_of(ranks: Sequence[int | None], verdict: str | None, strength: int | None) -> int | str | None:
    """What a page of two answers shows as chosen: −3 to −1 the first is better, 0 a tie, 1 to 3 the second.

    "both_bad" stays what it is; None is nothing yet.
    """
    if verdict == "both_bad":
        return verdict
    first, second = ranks or VERDICT_RANKS.get(verdict or "", (None, None))
    if first is None or second is None:
        return None
    return ((first > second) - (first < second)) * (strength or 1)


def said_by_choice(kind: str, choice: Any) -> dict[str, Any]:
    """The inverse of `choice_of`: a comparison's verdict or a ranking's ranks, and the strength. Raises TypeError for no choice."""
    if choice is None:
        return {}
    if kind == "compare" and choice == "both_bad":
        return {"verdict": choice}
    verdict = verdict_of((choice, 0))
    said = {"verdict": verdict} if kind == "compare" else {"ranks": list(VERDICT_RANKS[verdict])}
    return {**said, "strength": abs(choice) or None}


def order_text(ranks: Sequence[int], verdict: str | None, order: Sequence[int]) -> str:
    """A ranking in the letters the labeler saw, best first: "B > A = C"."""
    if verdict == "both_bad":
        return "✗ ✗"
    by_letter = sorted((rank, chr(65 + i)) for i, rank in enumerate(shown(ranks, order)))
    text = ""
    for i, (rank, name) in enumerate(by_letter):
        text += name if i == 0 else (" = " if rank == by_letter[i - 1][0] else " > ") + name
    return text


def said_text(kind: str, past: Any, order: Sequence[int]) -> str:
    """What an answer or a verdict over it says, by the letters the labeler saw: ratings, or the order, best first."""
    if kind == "rate":
        rated = shown(past.ratings, order)
        return " · ".join(f"{chr(65 + i)} {rating}" for i, rating in enumerate(rated))
    return order_text(past.ranks, past.verdict, order)


def past_json(past: PastAnswer) -> dict[str, Any]:
    """One line of a labeler's history."""
    order = past.task.shown_order
    title = as_messages(past.task.prompt)[-1]["content"]
    overruled = past.overruled and {
        "by": past.overruled.by,
        "comment": past.overruled.comment,
        "said": said_text(past.kind, past.overruled, order),
    }
    return {
        "id": past.id,
        "task_id": past.task.id,
        "batch": past.task.batch,
        "kind": past.kind,
        "title": title[:160],
        "said": (past.demonstration or "")[:160] or said_text(past.kind, past, order),
        "created": past.created,
        "versions": past.versions,
        "late": past.late,
        "fields": past.fields,
        "overruled": overruled,
    }
