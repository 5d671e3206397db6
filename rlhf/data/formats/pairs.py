"""Comparisons of a chosen and a rejected answer."""

from collections.abc import Callable, Iterator
from typing import Any

from rlhf.data.formats.checks import nothing_lost
from rlhf.data.formats.context import EMPTY, prompt_of, whole, with_words
from rlhf.data.formats.shown import own_words
from rlhf.data.formats.turns import (
    Turn,
    as_turns,
    conversation,
    labeler_of,
    marked,
    number,
    text,
)
from rlhf.data.rows import BadRow, LeftOut, Prompt, Ranking, Row, as_messages

PAIRS = (
    ("preferences", "chosen", "rejected"),
    ("OpenAI's preferences", "preferred_output", "non_preferred_output"),
    ("preferences", "chosen_response", "rejected_response"),
    ("preferences", "preferred_response", "rejected_response"),
    ("preferences", "preferred", "dispreferred"),
    ("preferences", "accepted", "rejected"),
    ("Stack Exchange pairs", "response_j", "response_k"),
)
PART_EARLY = "that part early"
NO_ANSWER = "without an answer"


def ended(turns: list[Turn]) -> tuple[Prompt, str]:
    """A conversation as its prompt and its last answer. Raises LeftOut where it does not end with one."""
    if turns[-1].role != "assistant":
        raise LeftOut(NO_ANSWER)
    return with_words(turns[:-1]), turns[-1].content


def answered(row: Row, value: Any, column: str) -> tuple[Prompt, str]:
    """What an answer's column answers, and the answer: text, a message, or a conversation that ends with it."""
    if isinstance(value, str):
        if turns := marked(value, column, answer=True):
            return ended(whole(row, turns, column))
        return prompt_of(row), own_words(row, value)
    if not isinstance(value, list | dict):
        text(value, column)
    return ended(whole(row, conversation(value, column), column))


def compared(first: tuple[Prompt, str], second: tuple[Prompt, str], **known: Any) -> Ranking:
    """The ranking of two answers. Raises LeftOut where one is blank or their conversations part before the last turn."""
    if not first[1].strip() or not second[1].strip():
        raise LeftOut(NO_ANSWER)
    if first[0] != second[0] and as_messages(first[0]) != as_messages(second[0]):
        raise LeftOut(PART_EARLY)
    return Ranking(prompt=first[0], completions=(first[1], second[1]), **known)


def pair(better: str, worse: str) -> Callable[[Row], Iterator[Ranking]]:
    """A reader of rows with a chosen and a rejected answer, or several of either, in these columns."""

    def read(row: Row) -> Iterator[Ranking]:
        chosen, rejected = _texts(row[better], better), _texts(row[worse], worse)
        if chosen is not None or rejected is not None:
            best = [text(row[better], better)] if chosen is None else chosen
            rest = [text(row[worse], worse)] if rejected is None else rejected
            if not all(said.strip() for said in (*best, *rest)):
                raise LeftOut(NO_ANSWER)
            ranks, who = (0,) * len(best) + (1,) * len(rest), labeler_of(row)
            yield Ranking(prompt=prompt_of(row), completions=(*best, *rest), ranks=ranks, labeler=who)
            return
        row = _without_question_in(row, better)
        first, second = answered(row, row[better], better), answered(row, row[worse], worse)
        yield compared(first, second, ranks=(0, 1), scores=_scores(row), **_said_of(row))

    return read


def _without_question_in(row: Row, column: str) -> Row:
    """OpenAI's `input`, an object of messages, as the prompt it is."""
    given = row.get("input")
    if isinstance(given, dict) and isinstance(given.get("messages"), list):
        nothing_lost("", row.inner(given))
        return row.changed(
            {**{name: value for name, value in row.items() if name != "input"}, "prompt": given["messages"]}
        )
    return row


def asked_pair(better: str) -> Callable[[Row], Iterator[Prompt]]:
    """A reader of what a pair's rows ask."""

    def read(row: Row) -> Iterator[Prompt]:
        row = _without_question_in(row, better)
        if _texts(row[better], better) is not None:
            yield prompt_of(row)
        else:
            yield answered(row, row[better], better)[0]

    return read


def _texts(value: Any, column: str) -> list[str] | None:
    """A list of texts, each a whole answer (RewardBench 2); None for any other value."""
    if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
        return value
    return None


def _said_of(row: Row) -> dict[str, Any]:
    """By how much the chosen answer was preferred, and by whom."""
    value = row.get("margin")
    margin = None if value in EMPTY else number(value)
    if margin is None and value not in EMPTY:
        raise BadRow(f'"margin" is {value!r:.40}, which is no number')
    return {"margin": margin, "labeler": labeler_of(row)}


def _scores(row: Row) -> tuple[float, ...]:
    for pattern in ("score_{}", "{}_score", "rating_{}", "{}_rating"):
        found = [number(row.get(pattern.format(name))) for name in ("chosen", "rejected")]
        if None not in found:
            return tuple(one for one in found if one is not None)
    return ()


def rejected_beside(row: Row) -> Iterator[Ranking]:
    """The comparison of a conversation's last answer with a rejected one beside it (ms-swift)."""
    prompt, chosen = ended(whole(row, conversation(row["messages"], "messages"), "messages"))
    column = next(name for name in ("rejected_response", "rejected_messages") if name in row)
    if isinstance(row[column], str):
        rejected = prompt, row[column]
    else:
        turns = conversation(row[column], column)
        if turns[0].role == "assistant":
            turns = [*as_turns(prompt), *turns]
        rejected = ended(whole(row, turns, column))
    yield compared((prompt, chosen), rejected, ranks=(0, 1), **_said_of(row))
