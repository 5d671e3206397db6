"""Answers for people's tasks: what any source holds, as far as a database keeps it and a person can rank or rate it."""

from dataclasses import replace
from pathlib import Path

from annotate.store.database import storable
from rlhf.data import BadRow, Ranking, ReadOptions, Rows, as_messages, read_answers, read_rankings

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
) -> Rows[Ranking]:
    """What people are to rate: rows of one answer each, our export of ratings among them, or else what `read_labels` reads.

    A row of one answer is a ranking of one, with its column `rating` as its rating. Raises as `read_labels`.
    """
    return read_answers(source, skip_bad_rows, replace(options or ReadOptions(), check=_rankable))


def _rankable(ranking: Ranking) -> None:
    if len(ranking.completions) > MAX_ANSWERS:
        raise BadRow(
            f"{len(ranking.completions)} answers; between 2 and {MAX_ANSWERS} can be ranked or rated"
        )
    prompt = [message["content"] for message in as_messages(ranking.prompt)]
    texts = [*prompt, *ranking.completions, ranking.labeler]
    if storable(texts) != texts:
        raise BadRow(UNSTORABLE)
    if min(ranking.ranks) < 0:
        raise BadRow(f"a rank of {min(ranking.ranks)}; 0 is best")
