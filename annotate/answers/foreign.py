"""Answers for people's tasks: what any source holds, as far as a database keeps it and a person can rank or rate it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from annotate.store.database import storable
from annotate.store.schema import MAX_INTEGER
from rlhf.data import BadRow, Ranking, ReadOptions, Rows, as_messages, read_prompt_rows, read_rankings
from rlhf.data.formats.shown import ANSWERS, VERDICTS, shown_answer
from rlhf.data.formats.turns import whole_number
from rlhf.data.rows import LeftOut, PromptRow, Row
from rlhf.errors import InputError

MAX_ANSWERS = 9
UNSTORABLE = "the text holds a NUL character or half a surrogate pair, which databases cannot keep"


def read_labels(
    source: str | Path, skip_bad_rows: bool = False, options: ReadOptions | None = None
) -> Rows[Ranking]:
    """Rankings of a source in any format of the table (`docs/data.md`), exports of labeling tools among them.

    Raises InputError with file and line for a row nobody could rank, unless such rows are skipped.
    """
    return read_rankings(source, skip_bad_rows, replace(options or ReadOptions(), check=_rankable))


def read_to_rate(
    source: str | Path, skip_bad_rows: bool = False, options: ReadOptions | None = None
) -> Sequence[Ranking]:
    """What people are to rate: rows of one answer each, our export of ratings among them, or else what `read_labels` reads.

    A row of one answer is a ranking of one, with its column `rating` as its rating.
    """
    given = options or ReadOptions()
    try:
        rows = read_prompt_rows(source, skip_bad_rows, replace(given, say=None))
    except InputError:
        return read_labels(source, skip_bad_rows, given)  # which knows better what is wrong
    if any(name in rows[0].columns for name in ("chosen", "rejected")) or _answer_column(rows[0]) is None:
        return read_labels(source, skip_bad_rows, given)
    found = []
    for number, row in enumerate(rows, start=1):
        try:
            found.append(_one_answer(row))
        except (BadRow, LeftOut) as problem:
            if not (skip_bad_rows or given.skip_bad_rows):
                raise InputError(f"{source}: row {number}: {problem}") from None
    if not found:
        raise InputError(f"{source}: no usable rows; none holds an answer to rate")
    return found


def _answer_column(row: PromptRow) -> str | None:
    return next((name for name in ANSWERS if row.columns.get(name)), None)


def _one_answer(row: PromptRow) -> Ranking:
    columns = Row({name.lower(): value for name, value in row.columns.items() if value is not None})
    for verdict in VERDICTS:  # what was rejected is to be rated too
        columns.pop(verdict, None)
    (answer,) = shown_answer(columns)
    texts: list[Any] = [*(message["content"] for message in as_messages(answer.prompt)), answer.completion]
    if storable(texts) != texts:
        raise BadRow(UNSTORABLE)
    rating, labeler = whole_number(columns.get("rating")), columns.get("labeler")
    return Ranking(
        prompt=answer.prompt,
        completions=(answer.completion,),
        ranks=(0,),
        ratings=() if rating is None else (int(rating),),
        labeler=labeler if isinstance(labeler, str) else "",
    )


def _rankable(ranking: Ranking) -> None:
    if not 2 <= len(ranking.completions) <= MAX_ANSWERS:
        raise BadRow(f"{len(ranking.completions)} answers; between 2 and {MAX_ANSWERS} can be ranked")
    texts = [*(message["content"] for message in as_messages(ranking.prompt)), *ranking.completions]
    if storable(texts) != texts:
        raise BadRow(UNSTORABLE)
    for rank in ranking.ranks:
        if not 0 <= rank <= MAX_INTEGER:
            raise BadRow(f"a rank of {rank}; 0 is best, {MAX_INTEGER:,} the last")
