"""Comparisons of answers side by side, in columns of their own, by a verdict that names the better one."""

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

from rlhf.data.formats.lists import list_of
from rlhf.data.formats.pairs import LEAVE_OUT, PAIRS, TIES, VERDICTS, answered, compared
from rlhf.data.formats.turns import labeler_of, number, whole_number
from rlhf.data.rows import BadRow, NotHeld, Prompt, Ranking, Row, json_within

STEMS = (
    "response", "answer", "output", "completion", "conversation", "reply", "generation", "candidate", "text", "summary",
    "human_ref", "model_output",
)  # fmt: skip
ENDS = (("a", "b"), ("0", "1"), ("1", "2"))
THIRD = {"b": "c", "1": "2", "2": "3"}  # behind the second of two
STRENGTHS = ("preference_strength", "overall_preference")  # HelpSteer 2 and 3: below zero the first is better


def sides_of(columns: Iterable[str]) -> tuple[str, str] | None:
    """The two columns that hold answers side by side, such as response_a and response_b."""
    return _sides_among(tuple(columns))


@lru_cache(maxsize=64)  # rows of a file have the same columns
def _sides_among(columns: tuple[str, ...]) -> tuple[str, str] | None:
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
    third = f"{names[0][:-1]}{THIRD[names[1][-1]]}"
    if row.get(third, "") != "":
        raise BadRow(
            f'"{third}" is a third answer; write more than two as "completions" with "ranks", or leave it out with --map ignore={third}'
        )
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
            value = json_within(value)
        except ValueError:
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
        raise NotHeld(f"nothing says which of {first} and {second} is better; see docs/data.md")
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


def _names(end: str, column: str) -> set[str]:
    """What an answer side by side is called by verdicts."""
    return {
        end,
        column,
        f"model_{end}",
        f"[[{end}]]",
        f"response_{end}",
        f"response {end}",
        f"assistant {end}",
    }


def _chosen_side(value: Any, name: str, ends: tuple[str, str], first: str, second: str) -> tuple[int, int]:
    """Ranks from a verdict that names a side by its column, its end, its model or as A>B."""
    if isinstance(value, str):
        verdict = value.strip().lower()
        if verdict in TIES:
            return (0, 0)
        for end, column, ranks in ((ends[0], first, (0, 1)), (ends[1], second, (1, 0))):
            if verdict in _names(end, column):
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


# Pairs whose chosen and rejected answer are names of answers that stand beside

MORE_ENDS = tuple("abcdefgh0123456789")
SIDES = tuple(f"{stem}{between}{end}" for stem in STEMS for between in ("_", "") for end in MORE_ENDS)


def _beside(row: Row) -> list[tuple[set[str], Any]]:
    """The answers of a row side by side or in a list: the names that each goes by, and the answer."""
    if (names := sides_of(row)) is not None:
        stem = names[0][:-1]
        there = [end for end in MORE_ENDS if f"{stem}{end}" in row]
        models = {end: row.get(f"model_{end}") for end in there}
        return [
            (_names(end, f"{stem}{end}") | ({f"{models[end]}".lower()} if models[end] else set()), row[f"{stem}{end}"])
            for end in there
        ]  # fmt: skip
    given = row.get(list_of(row) or "")
    if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
        return []
    return [({f"{place}"}, said) for place, said in enumerate(given)]


def _pair_in(row: Row) -> tuple[str, str] | None:
    return next(((better, worse) for _, better, worse in PAIRS if better in row and worse in row), None)


def _place_named(value: Any, beside: list[tuple[set[str], Any]]) -> int | None:
    """Which of the answers a value names; None for none."""
    if isinstance(value, list | dict | bool):
        return None
    place = whole_number(value)
    name = f"{value}".strip().lower() if place is None else f"{place}"
    return next((place for place, (names, _) in enumerate(beside) if name in names), None)


def are_named(row: Row) -> bool:
    """Whether the chosen or the rejected answer of a pair is the name of one that stands beside, and no text of its own."""
    pair, beside = [row[column] for column in _pair_in(row) or ()], _beside(row)
    texts = [said for _, said in beside]
    named = [texts[place] for value in pair if (place := _place_named(value, beside)) is not None]
    if len(named) == 2 and all(value in texts for value in pair):
        return named != pair
    return bool(named) and not all(value in texts for value in pair)


def by_name(row: Row) -> Row:
    """The row with the answers that its pair names. Raises BadRow where it does not name two, or may mean other ones."""
    better, worse = _pair_in(row) or ("", "")
    if (names := sides_of(row)) is not None:
        row = _turned(_unpacked(row, names))
    beside = _beside(row)
    chosen, rejected = (_place_named(row[column], beside) for column in (better, worse))
    if chosen is None or rejected is None or chosen == rejected:
        raise BadRow(
            f'"{better}" and "{worse}" do not name two of the {len(beside)} answers beside them; see docs/data.md'
        )
    texts = [said for _, said in beside]
    if row[better] in texts and row[worse] in texts:
        raise BadRow(f'"{better}" and "{worse}" are texts and places of answers alike; --map prompt=…,chosen={better},rejected={worse} reads them as texts')  # fmt: skip
    rest = {name: value for name, value in row.items() if name not in (better, worse)}
    _check_others(row.changed(rest), [texts[chosen], texts[rejected]])
    return row.changed({**rest, "chosen": texts[chosen], "rejected": texts[rejected]})


def _check_others(row: Row, pair: list[Any]) -> None:
    """Raises BadRow where another column of a row with a named pair says that the rejected answer is better."""
    names = sides_of(row)
    said = _named(row, *names) if names is not None else []
    for column, ranks in said:
        texts = [row[name] for name in names or ()]
        if ranks[0] != ranks[1] and (texts if ranks == (0, 1) else texts[::-1]) == pair[::-1]:
            raise BadRow(f'"{column}" says that the rejected answer is better; {LEAVE_OUT.format(column)}')
