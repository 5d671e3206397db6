"""Rankings of several answers in one list."""

import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

from rlhf.data.formats.checks import nothing_lost
from rlhf.data.formats.context import prompt_of
from rlhf.data.formats.shown import NO_ANSWER, own_words
from rlhf.data.formats.turns import labeler_of, number, spelled, text, truth, whole_number
from rlhf.data.rows import BadRow, LeftOut, NotHeld, Prompt, Ranking, Row, json_within

LISTS = ("completions", "answers", "responses", "generations", "outputs", "candidates")
TEXT_KEYS = ("text", "response", "answer", "content", "output", "completion", "value", "body")
SCORE_KEYS = ("fine-grained_score", "overall_score", "score", "pm_score", "rating", "reward", "votes")
BESIDE = ("none_acceptable", "strength", "comment")
SCORE_LISTS = ("scores", "rewards", "ratings")


def list_of(columns: Any) -> str | None:
    """The column that holds several answers."""
    return next((name for name in LISTS if name in columns), None)


def listed(row: Row) -> Iterator[Ranking]:
    """The ranking of a list of answers: texts beside `ranks` or `scores`, or objects that hold theirs."""
    name = list_of(row)
    given = row[name] if name else None
    if not isinstance(given, list) or not given:
        raise BadRow(f'"{name}" must be a list of answers, not {spelled(given) if given else "empty"}')
    if None in given:
        raise LeftOut(NO_ANSWER)
    if all(isinstance(one, dict) for one in given):
        texts, known = _of_objects(row, given, str(name))
    else:
        texts, known = [text(one, str(name)) for one in given], _ranks_of_texts(row, len(given))
    yield Ranking(
        prompt=prompt_of(row),
        completions=tuple(own_words(row, one) for one in texts),
        labeler=labeler_of(row),
        flags=_flags(row),
        fields=_fields(row.get("fields")),
        margin=_margin(row, len(given)),
        beside=_beside(row),
        **known,
    )


def _flags(row: Row) -> tuple[tuple[str, ...], ...]:
    """The names of each answer's flags."""
    given = [flags or [] for flags in _list(row, "flags")]
    if not all(isinstance(flags, list) and all(isinstance(flag, str) for flag in flags) for flags in given):
        raise BadRow('"flags" must hold a list of names for each answer')
    return tuple(map(tuple, given))


def _ratings(row: Row) -> tuple[int | None, ...]:
    """A person's rating of each answer, or none."""
    given = _list(row, "ratings")
    found = tuple(whole_number(one) for one in given)
    if any((one is None) != (rating is None) for one, rating in zip(given, found, strict=True)):
        raise BadRow('"ratings" must hold a whole number or nothing for each answer; fractions are "scores"')
    return found


def _margin(row: Row, num_answers: int) -> float | None:
    """By how much the better of two answers was preferred, whichever it is."""
    margin = number(row.get("margin")) if num_answers == 2 else None
    return None if margin is None else abs(margin)


def _beside(row: Row) -> str:
    """What our own export of rankings says besides the order; "" for nothing, and of any other list."""
    if "none_acceptable" not in row:
        return ""
    said = {"strength": whole_number(row.get("strength")), "none_acceptable": truth(row["none_acceptable"])}
    comment = row.get("comment")
    found: dict[str, Any] = {name: value for name, value in said.items() if value}
    if isinstance(comment, str) and comment:
        found["comment"] = comment
    return json.dumps(found) if found else ""


def _fields(value: Any) -> str:
    """A labeling page's own fields, which our exports have as the text of a JSON object; "" for anything else."""
    if isinstance(value, str):
        try:
            value = json_within(value)
        except ValueError:
            return ""
    return json.dumps(value) if isinstance(value, dict) and value else ""


def _ranks_of_texts(row: Row, num_answers: int) -> dict[str, Any]:
    """ranks, and our own ratings or the source's scores beside them."""
    if "ranks" in row:
        scores = (
            () if all(one is None for one in _list(row, "scores")) else _scores(row, "scores", num_answers)
        )
        ranks = tuple(
            one if (whole := whole_number(one)) is None else whole for one in _list(row, "ranks")
        )  # tables may keep them as 1.0
        _agree(ranks, scores, "scores")
        return {"ranks": ranks, "ratings": _ratings(row), "scores": scores}
    for name in SCORE_LISTS:
        if name in row:
            scores = _scores(row, name, num_answers)
            return {"ranks": ranks_by_score(scores), "scores": scores}
    raise NotHeld('"ranks" is missing: nothing says which answers are better; see docs/data.md')


def _scores(row: Row, name: str, num_answers: int) -> tuple[float, ...]:
    scores = [number(one) for one in _list(row, name)]
    if None in scores or len(scores) != num_answers:
        raise BadRow(
            f'"{name}" must hold one number, and no endless one, for each of the {num_answers} answers'
        )
    return tuple(one or 0.0 for one in scores)


def _list(row: Row, name: str) -> Sequence[Any]:
    value = row.get(name)
    if value is not None and not isinstance(value, list):
        raise BadRow(f'"{name}" must be a list, not {spelled(value)}')
    return value or ()


def _of_objects(row: Row, given: list[dict[str, Any]], name: str) -> tuple[list[str], dict[str, Any]]:
    """The texts of answers that hold their rank or score, and those."""
    held = [key for key in TEXT_KEYS if all(key in one and isinstance(one[key], str | None) for one in given)]
    key = next((key for key in held if all(one[key] is not None for one in given)), None)
    if key is None:
        if held:
            raise LeftOut(NO_ANSWER)
        raise BadRow(f'the answers in "{name}" have no text (looked for {", ".join(TEXT_KEYS)})')
    texts, ratings = [one[key] for one in given], _ratings(row)
    ranks = [whole_number(one.get("rank")) for one in given]
    named, scores = _scores_of_objects(row, given)
    if None not in ranks:
        found = _from_zero([one or 0 for one in ranks])
        _agree(found, scores, named)
        return texts, {"ranks": found, "ratings": ratings}
    if scores:
        return texts, {"ranks": ranks_by_score(scores), "scores": scores, "ratings": ratings}
    raise NotHeld(f'the answers in "{name}" have neither "rank" nor a score: nothing says which is better')


def _scores_of_objects(row: Row, given: list[dict[str, Any]]) -> tuple[str, tuple[float, ...]]:
    """What the score of answers in objects is called, and theirs; none where not each has it."""
    for name in SCORE_KEYS:
        scores = [number(one.get(name)) for one in given]
        if None not in scores and name not in row.ignored:
            return name, tuple(one or 0.0 for one in scores)
    return "", ()


def _agree(ranks: Sequence[Any], scores: Sequence[float], named: str) -> None:
    """Raises BadRow where an answer has a better rank than another one and a lower score."""
    if len(ranks) != len(scores) or not all(isinstance(rank, int) for rank in ranks):
        return
    lowest = float("inf")  # score of the answers that are ranked better
    for _, tied in groupby(sorted(zip(ranks, scores, strict=True)), key=itemgetter(0)):
        given = [score for _, score in tied]
        if max(given) > lowest:
            raise BadRow(
                f'"ranks" and "{named}" say the opposite of each other (rank 0 is best); --map ignore={named} leaves one out'
            )
        lowest = min(lowest, *given)


def _from_zero(ranks: Sequence[float]) -> tuple[int, ...]:
    places = {rank: place for place, rank in enumerate(sorted(set(ranks)))}
    return tuple(places[rank] for rank in ranks)


def ranks_by_score(scores: Sequence[float]) -> tuple[int, ...]:
    """Rank 0 for the highest score, the same rank for the same score."""
    return _from_zero([-score for score in scores])


def summaries(row: Row) -> Iterator[Ranking]:
    """A comparison of summaries (Stiennon et al. 2020), `choice` being the better one's place."""
    given = row["summaries"]
    if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
        raise BadRow('"summaries" must be a list of {text}')
    texts, choice = (
        tuple(text(one.get("text"), "summaries") for one in given),
        whole_number(row.get("choice")),
    )
    if choice is None or not 0 <= choice < len(texts):
        raise BadRow('"choice" must be the place of the better summary')
    yield Ranking(
        prompt=_post(row),
        completions=texts,
        ranks=tuple(int(i != choice) for i in range(len(texts))),
        labeler=labeler_of(row, "worker"),
    )


def asked_for_summary(row: Row) -> Iterator[Prompt]:
    """The post or article to sum up."""
    yield _post(row)


def _post(row: Row) -> str:
    """The prompt in the form that the paper's models and trl's copies of this data have."""
    info = row["info"]
    if not isinstance(info, dict):
        raise BadRow('"info" must be an object with a post or an article')
    nothing_lost("", row.inner(info))
    if isinstance(info.get("post"), str):
        named = (("SUBREDDIT: r/", "subreddit"), ("TITLE: ", "title"), ("POST: ", "post"))
        parts = [f"{label}{info[key]}" for label, key in named if isinstance(info.get(key), str)]
    else:
        title = [info["title"]] if isinstance(info.get("title"), str) else []
        parts = [*title, text(info.get("article"), "info.article")]
    if not "".join(parts).strip():
        raise LeftOut("without a prompt")
    return "\n\n".join([*parts, "TL;DR:"])
