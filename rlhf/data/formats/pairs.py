"""Comparisons of a chosen and a rejected answer, and of two answers with a verdict."""

import json
import re
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
    whole_number,
)
from rlhf.data.rows import BadRow, LeftOut, Prompt, Ranking, Row, as_messages

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


# Two answers side by side

STEMS = (
    "response", "answer", "output", "completion", "conversation", "reply", "generation", "candidate", "text", "summary",
    "human_ref", "model_output",
)  # fmt: skip
ENDS = (("a", "b"), ("0", "1"), ("1", "2"))
VERDICTS = (
    "winner", "preferred", "preference", "better", "best", "choice", "chosen", "label", "labels", "vote", "verdict",
    "judgment", "decision", "overall_preference",
)  # fmt: skip
TIES = (
    "tie",
    "ties",
    "both",
    "draw",
    "equal",
    "both_bad",
    "bothbad",
    "tie (bothbad)",
    "both bad",
    "neither",
    "same",
    "a=b",
)
STRENGTHS = ("preference_strength", "overall_preference")  # HelpSteer 2 and 3: below zero the first is better


def sides_of(columns: Any) -> tuple[str, str] | None:
    """The two columns that hold answers side by side, such as response_a and response_b."""
    for stem in STEMS:
        for first, second in ENDS:
            for between in ("_", ""):
                pair = f"{stem}{between}{first}", f"{stem}{between}{second}"
                if pair[0] in columns and pair[1] in columns:
                    return pair
    return None


def side_by_side(row: Row) -> Iterator[Ranking]:
    """The comparison of two answers in columns of their own, by what the row says of them."""
    names = _sides(row)
    ranks, known = verdict(row, *names)
    row = _turned(_unpacked(row, names))
    sides = [answered(row, row[name], name) for name in names]
    judge = next((row[name] for name in ("judge", "annotator") if isinstance(row.get(name), str)), "")
    yield compared(sides[0], sides[1], ranks=ranks, labeler=judge or labeler_of(row), **known)


def asked_side(row: Row) -> Iterator[Prompt]:
    """What two answers side by side were given to."""
    names = _sides(row)
    row = _turned(_unpacked(row, names))
    yield answered(row, row[names[0]], names[0])[0]


def _sides(row: Row) -> tuple[str, str]:
    names = sides_of(row)
    if names is None:
        raise BadRow(f"no two answers to compare (columns found: {', '.join(row)})")
    return names


def _turned(row: Row) -> Row:
    """SHP's `history`, which is the one post that was answered, and HelpSteer's `context`, as the prompt they are."""
    if "prompt" not in row and "human_ref_a" in row and "history" in row:
        rest = {name: value for name, value in row.items() if name != "history"}
        return row.changed({**rest, "prompt": row["history"]})
    if not any(name in row for name in ("prompt", "question", "instruction", "query")) and isinstance(
        row.get("context"), list
    ):
        rest = {name: value for name, value in row.items() if name != "context"}
        return row.changed({**rest, "prompt": row["context"]})
    if isinstance(row.get("question"), dict) and isinstance(row["question"].get("full_text"), str):  # WebGPT
        return row.changed({**row, "question": row["question"]["full_text"]})
    return row


def _unpacked(row: Row, names: tuple[str, str]) -> Row:
    """Turns that Arena keeps as JSON lists of texts in text cells, as conversations; judged up to `turn` answers."""
    columns = dict(row)
    packed = [
        found for one in (row.get("prompt"), *(row[name] for name in names)) if (found := _json_texts(one))
    ]
    if len(packed) == 3:
        asked = packed[0]
        for name, given in zip(names, packed[1:], strict=True):
            if len(given) != len(asked):
                raise BadRow(f'"{name}" has {len(given)} answers to the {len(asked)} turns of "prompt"')
            columns[name] = [
                {"role": role, "content": said}
                for exchange in zip(asked, given, strict=True)
                for role, said in zip(("user", "assistant"), exchange, strict=True)
            ]
        del columns["prompt"]
    num_turns = whole_number(row.get("turn"))
    for name in names:
        if num_turns and isinstance(columns[name], list):
            columns[name] = _first_turns(columns[name], num_turns)
    return row.changed(columns)


def _json_texts(value: Any) -> list[str] | None:
    """The texts of a list, also of one that is JSON in a text cell; None for anything else."""
    if isinstance(value, str):
        if not re.match(r"\s*\[\s*(\"|null)", value):
            return None
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    if not isinstance(value, list) or not all(one is None or isinstance(one, str) for one in value):
        return None
    return ["" if one is None else one for one in value]


def _first_turns(messages: list[Any], num_turns: int) -> list[Any]:
    """The conversation up to the answer that was judged: MT-bench keeps both turns beside the verdict on each."""
    answers = [
        i for i, one in enumerate(messages) if isinstance(one, dict) and one.get("role") == "assistant"
    ]
    return messages[: answers[num_turns - 1] + 1] if len(answers) > num_turns else messages


Sided = tuple[str, tuple[int, int]]  # a column, and the ranks of the two answers that it says


def verdict(row: Row, first: str, second: str) -> tuple[tuple[int, int], dict[str, Any]]:
    """Ranks of two answers and their strength: of a verdict that names the better one, else by a sign or by scores.

    Raises BadRow where the row does not say which is better, or one of its columns says the opposite of another.
    """
    ends, known, said = (first[-1], second[-1]), dict[str, Any](), _named(row, first, second)
    for name in STRENGTHS:
        strength = number(row.get(name))
        if strength is None or "margin" in known:
            continue
        known["margin"] = abs(strength)
        if not said or strength < 0:  # beside a verdict 2 may mean "much better", whichever is
            said.append((name, _ranks(-strength)))
    for kind in ("score", "rating", "reward"):
        if "scores" not in known and (scores := _pair_of_scores(row, kind, ends)):
            known["scores"] = scores
            said.append((f"{kind}_{ends[0]}", _ranks(scores[0] - scores[1])))
    if not said:
        raise BadRow(f"nothing says which of {first} and {second} is better; see docs/data.md")
    decided, ranks = said[0]
    for name, others in said[1:]:
        if {ranks, others} == {(0, 1), (1, 0)}:
            raise BadRow(
                f'"{decided}" and "{name}" say the opposite of each other; --map ignore={name} leaves one out'
            )
    return ranks, known


def _named(row: Row, first: str, second: str) -> list[Sided]:
    """What the columns say that name the better answer; what stands behind the first of them may be something else."""
    ends, said = (first[-1], second[-1]), list[Sided]()
    flags = [row.get(f"winner_model_{end}") for end in ends] + [row.get("winner_tie")]
    if None not in flags:
        won = [whole_number(int(one) if isinstance(one, bool) else one) for one in flags]
        if sorted(one if one is not None else -1 for one in won) != [0, 0, 1]:
            raise BadRow("of winner_model_a, winner_model_b and winner_tie exactly one must be 1")
        said.append((f"winner_model_{ends[0]}", _ranks((won[0] or 0) - (won[1] or 0))))
    for name in ("better_response_id", "better_answer_id"):
        if name in row:
            said.append((name, _chosen_side(row[name], name, ("0", "1"), first, second)))
    if first == "human_ref_a" and "labels" in row:  # SHP: 1 where A has the higher score
        better = whole_number(row["labels"])
        if better not in (0, 1):
            raise BadRow('"labels" must be 0 or 1')
        return [*said, ("labels", _ranks(1 if better else -1))]
    for name in VERDICTS:
        value = row.get(name)
        if (
            value is None
            or isinstance(value, list | dict)
            or (name in STRENGTHS and number(value) is not None)
        ):
            continue
        try:
            said.append((name, _chosen_side(value, name, ends, first, second)))
        except BadRow:
            if not said:
                raise
    return said


def _ranks(difference: float) -> tuple[int, int]:
    return (0, 0) if difference == 0 else (0, 1) if difference > 0 else (1, 0)


def _pair_of_scores(row: Row, kind: str, ends: tuple[str, str]) -> tuple[float, ...]:
    found = [number(row.get(f"{kind}_{end}")) for end in ends]
    return () if None in found else tuple(one for one in found if one is not None)


def _chosen_side(value: Any, name: str, ends: tuple[str, str], first: str, second: str) -> tuple[int, int]:
    """Ranks from a verdict that names a side by its column, its end, its model or as A>B."""
    if isinstance(value, str):
        verdict = value.strip().lower()
        if verdict in TIES:
            return (0, 0)
        for end, column, ranks in ((ends[0], first, (0, 1)), (ends[1], second, (1, 0))):
            if verdict in (
                end,
                column,
                f"model_{end}",
                f"[[{end}]]",
                f"response_{end}",
                f"response {end}",
                f"assistant {end}",
            ):
                return ranks
        if verdict in (f"{ends[0]}>{ends[1]}", f"{ends[0]}>>{ends[1]}", f"{ends[1]}<{ends[0]}"):
            return (0, 1)
        if verdict in (f"{ends[1]}>{ends[0]}", f"{ends[1]}>>{ends[0]}", f"{ends[0]}<{ends[1]}"):
            return (1, 0)
    place = number(value)
    if place is not None and ends == ("1", "2") and 1 <= place <= 2:  # AlpacaEval weighs: 1.5 is a tie
        return _ranks(1.5 - place)
    if place is not None and f"{place:g}" in ends:
        return (0, 1) if f"{place:g}" == ends[0] else (1, 0)
    raise BadRow(f'"{name}" must say which of {first} and {second} is better, not {value!r:.40}')


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
