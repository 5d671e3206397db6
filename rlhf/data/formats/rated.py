"""Answers that stand in rows of their own with ratings, compared within what one labeler rated on one scale."""

import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from rlhf.data.formats.checks import nothing_lost
from rlhf.data.formats.context import EMPTY
from rlhf.data.formats.lists import ranks_by_score
from rlhf.data.formats.shown import JUDGED, is_conversation, shown_answer, shown_conversation
from rlhf.data.formats.turns import labeler_of, number, whole_number
from rlhf.data.rows import BadRow, Demonstration, LeftOut, Ranking, Row, as_messages

# A row's own rating of its one answer, and HelpSteer's scale from 0 to 4.
RATINGS = ("helpfulness", "score", "rating", "reward", "overall_score", "quality")
HAS_RATING = frozenset(RATINGS)
HELPSTEER = ("correctness", "coherence")
MIDDLE_OF_HELPSTEER = 2
ABOUT_RATINGS = ("labeler", "scale")

Placed = tuple[str, Row]
Gathered = Iterator[tuple[list[str], Any]]


class Rated(NamedTuple):
    """An answer and its rating; scale: what that can be compared with, ratings in its column and scale of one prompt."""

    where: str
    row: Row
    found: Demonstration
    score: float
    scale: tuple[str, str, str]


def rating_of(row: Row) -> tuple[str, float] | None:
    """The column with the rating of a row's answer, and the rating."""
    if HAS_RATING.isdisjoint(row):
        return None
    for name in RATINGS:
        value = row.get(name)
        if isinstance(value, dict) or (found := number(value)) is None:
            continue
        return name, found
    return None


def lacks_rating(row: Row) -> bool:
    """Whether a row has a column of ratings, and in it nothing that is one."""
    if HAS_RATING.isdisjoint(row):
        return not HAS_RATING.isdisjoint(row.empty)
    return rating_of(row) is None


def to_rate(row: Row) -> Iterator[Ranking]:
    """A row's one answer as a ranking of one, with the rating it has; what people rejected is to be rated, too."""
    found = _single(_unjudged(row))
    value = row.get("rating")
    rating = None if value in EMPTY else whole_number(value)
    if rating is None and value not in EMPTY:
        raise BadRow(f'"rating" is {value!r:.40}, not a whole number; --map ignore=rating leaves it out')
    yield Ranking(
        prompt=found.prompt,
        completions=(found.completion,),
        ranks=(0,),
        ratings=() if rating is None else (rating,),
        labeler=labeler_of(row),
        beside=_beside(row),
    )


def _beside(row: Row) -> str:
    """What our own export of ratings says besides: their scale, and a comment; "" for nothing, and of any other row."""
    scale, comment = whole_number(row.get("scale")), row.get("comment")
    if scale is None:
        return ""
    return json.dumps(
        {"scale": scale, **({"comment": comment} if comment and isinstance(comment, str) else {})}
    )


def _unjudged(row: Row) -> Row:
    """The row without what says whether its answer is to be learned: of comparisons bad answers are a half."""
    return row.changed({name: value for name, value in row.items() if name not in JUDGED})


def _single(row: Row) -> Demonstration:
    (found,) = shown_conversation(row) if is_conversation(row) else shown_answer(row)
    nothing_lost(found, row)
    return found


def _conversation(found: Demonstration) -> str:
    return json.dumps(as_messages(found.prompt))


def _rated(where: str, row: Row, found: Demonstration, rating: tuple[str, float]) -> Rated:
    column, score = rating
    return Rated(where, row, found, score, (_conversation(found), column, f"{row.get('scale')}"))


def rated_rankings(rows: Iterable[Placed]) -> Gathered:
    """(places, ranking or problem) of rated answers: those to one prompt that one labeler rated on one scale."""
    groups: dict[Any, list[Rated]] = {}
    for where, row in rows:
        try:
            one = _rated(where, row, _single(_unjudged(row)), _rating(row))
            group = labeler_of(row), *one.scale
        except (BadRow, LeftOut) as problem:
            yield [where], problem
            continue
        groups.setdefault(group, []).append(one)
    for (labeler, *_), given in groups.items():
        places = [one.where for one in given]
        if len(given) < 2:
            yield places, LeftOut("with no other answer to compare")
            continue
        scores = tuple(one.score for one in given)
        yield (
            places,
            Ranking(
                prompt=given[0].found.prompt,
                completions=tuple(one.found.completion for one in given),
                ranks=ranks_by_score(scores),
                scores=scores,
                labeler=labeler,
            ),
        )


def _rating(row: Row) -> tuple[str, float]:
    found = rating_of(row)
    if found is None:
        raise BadRow(f"the answer has no rating (looked for {', '.join(RATINGS)})")
    return found


def rated_demonstrations(rows: Iterable[Placed]) -> Gathered:
    """(places, demonstration or problem): of the answers to one prompt the best on each scale, and none from the lower half
    of HelpSteer's.

    An answer without a rating is what it says where nothing is rated, and left out beside answers that are.
    """
    rated, unrated = list[Rated](), list[tuple[str, Row, Demonstration]]()
    for where, row in rows:
        try:
            found, rating = _single(row), rating_of(row)
        except (BadRow, LeftOut) as problem:
            yield [where], problem
            continue
        if rating is None:
            unrated.append((where, row, found))
        else:
            rated.append(_rated(where, row, found, rating))
    best = dict[Any, float]()
    for one in rated:
        best[one.scale] = max(one.score, best.get(one.scale, float("-inf")))
    for one in rated:
        low = one.score < best[one.scale] or one.score < _lowest(one.row)
        yield [one.where], LeftOut("rated below others") if low else one.found
    prompts = {one.scale[0] for one in rated}
    for where, row, found in unrated:
        if rated and any(_is_said(row.get(name)) for name in RATINGS):
            yield [where], LeftOut("whose rating is no number")
        elif (unread := _no_number(row)) is not None:
            yield [where], unread
        else:
            beside = _conversation(found) in prompts
            yield [where], LeftOut("without a rating beside rated answers") if beside else found


def _lowest(row: Row) -> float:
    return MIDDLE_OF_HELPSTEER if all(name in row for name in HELPSTEER) else float("-inf")


def _no_number(row: Row) -> BadRow | None:
    """What is wrong with a rating that is meant as a number and is none: 4,5 or 5/5 or true. Words may say anything."""
    for name in RATINGS:
        value = row.get(name)
        is_meant = isinstance(value, bool) or (isinstance(value, str) and value.strip()[:1].isdigit())
        if is_meant and number(value) is None:
            return BadRow(
                f'"{name}" is {value!r:.40}, which is no number; write one, such as 4.5, or --map ignore={name} leaves it out'
            )
    return None


def _is_said(value: Any) -> bool:
    """Whether a cell holds something: tables spell what is missing as NaN, too."""
    return not isinstance(value, list | dict) and value not in EMPTY and value == value
