"""Comparisons of a chosen and a rejected answer."""

from collections.abc import Callable, Iterator
from typing import Any

from rlhf.data.formats.checks import nothing_lost
from rlhf.data.formats.context import EMPTY, prompt_of, whole, with_words
from rlhf.data.formats.shown import NO_ANSWER, own_words
from rlhf.data.formats.turns import (
    Turn,
    as_turns,
    conversation,
    labeler_of,
    marked,
    number,
    text,
    truth,
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
SCORES = tuple(
    tuple(pattern.format(name) for name in ("chosen", "rejected"))
    for pattern in ("score_{}", "{}_score", "rating_{}", "{}_rating")
)
HAS_SCORES = frozenset(name for names in SCORES for name in names)
# Columns that name the better of two answers, and words with which they name neither.
VERDICTS = (
    "winner", "preferred", "preference", "better", "best", "choice", "chosen", "label", "labels", "vote", "verdict",
    "judgment", "decision", "overall_preference",
)  # fmt: skip
TIES = (
    "tie", "ties", "both", "draw", "equal", "both_bad", "bothbad", "tie (bothbad)", "both bad", "neither", "same", "a=b",
)  # fmt: skip
ARE_TIES = ("tie", "is_tie", "winner_tie")
HAS_VERDICT = frozenset((*VERDICTS, *ARE_TIES)) - {"chosen", "preferred"}
PART_EARLY = "that part early"
LEAVE_OUT = "--map ignore={} leaves it out"


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
        _check_verdict(row, better, worse)
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
    if margin is not None and margin < 0:
        raise BadRow(
            f'"margin" is {value}: it says that the rejected answer is better; {LEAVE_OUT.format("margin")}'
        )
    return {"margin": margin, "labeler": labeler_of(row)}


def _scores(row: Row) -> tuple[float, ...]:
    """The scores of the chosen and the rejected answer. Raises BadRow where they say the opposite; they may be equal."""
    if HAS_SCORES.isdisjoint(row):
        return ()
    for names in SCORES:
        found = tuple(one for name in names if (one := number(row.get(name))) is not None)
        if len(found) == 2:
            if found[0] < found[1]:
                raise BadRow(f'"{names[0]}" is below "{names[1]}"; {LEAVE_OUT.format(names[0])}')
            return found
    return ()


def _check_verdict(row: Row, better: str, worse: str) -> None:
    """Raises BadRow where a verdict beside a pair names the rejected answer, or neither."""
    if HAS_VERDICT.isdisjoint(row):
        return
    for name in VERDICTS:
        value = row.get(name) if name not in (better, worse) else None
        if isinstance(value, str) and value.strip().lower() in (worse, "rejected", *TIES):
            raise BadRow(f'"{name}" is {value!r:.40}, and not the chosen answer; {LEAVE_OUT.format(name)}')
    for name in ARE_TIES:
        if truth(row.get(name)):
            raise BadRow(f'"{name}" says that neither answer is better; {LEAVE_OUT.format(name)}')


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
    _check_verdict(row, "messages", column)
    yield compared((prompt, chosen), rejected, ranks=(0, 1), scores=_scores(row), **_said_of(row))
