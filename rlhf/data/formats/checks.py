"""What a result must be to teach anything, whichever reader it came from."""

from typing import Any

from rlhf.data.formats.context import ASKED, EMPTY, MAY_MATTER
from rlhf.data.formats.turns import conversation, marked, spelled, squeezed, stands_in
from rlhf.data.rows import BadRow, Demonstration, LeftOut, Ranking, Row, as_messages

MATTERS = frozenset(MAY_MATTER)
QUESTIONS = frozenset(ASKED)
MOST = 2**31  # what databases and tables keep as a whole number
MAY_BE_TURNS = ("history", "context", "input")


def checked(result: Any, row: Row | None, least: int) -> None:
    """Raises BadRow for what is malformed or misses a column that may matter, LeftOut for what cannot teach.

    least: how many answers a ranking needs.
    """
    if isinstance(result, Ranking):
        _ranking(result, least)
    if row is not None:
        nothing_lost(result, row)


def _ranking(ranking: Ranking, least: int) -> None:
    if len(ranking.completions) != len(ranking.ranks) or len(ranking.ranks) < least:
        raise BadRow(f"a ranking needs at least {least} completions and one rank for each")
    if not all(isinstance(text, str) for text in ranking.completions):
        raise BadRow("a completion is not a text")
    if not all(
        isinstance(rank, int) and not isinstance(rank, bool) and abs(rank) < MOST for rank in ranking.ranks
    ):
        raise BadRow(f"ranks are whole numbers below {MOST}; 0 is best")
    for name, given in (("flags", ranking.flags), ("ratings", ranking.ratings), ("scores", ranking.scores)):
        if given and len(given) != len(ranking.ranks):
            raise BadRow(f"{len(given)} {name} for {len(ranking.ranks)} completions")
    stripped = [text.strip() for text in ranking.completions]
    if len(set(stripped)) == 1 < len(stripped):
        raise LeftOut("whose answers are equal")
    rank_of: dict[str, int] = {}
    for text, rank in zip(stripped, ranking.ranks, strict=True):
        if rank_of.setdefault(text, rank) != rank:
            raise LeftOut("that rank one answer twice")


def nothing_lost(result: Any, row: Row) -> None:
    """A column that may change what an answer means stands in the result's prompt, or the row is refused by its name.

    Readers of rows that stand inside others call it with the inner one.
    """
    asks_twice = len(QUESTIONS.intersection(row)) > 1
    if MATTERS.isdisjoint(row) and not asks_twice:
        return
    asked = result.prompt if isinstance(result, Ranking | Demonstration) else result
    prompt = "\n".join(one["content"] for one in as_messages(asked))
    if asks_twice:
        _one_question(row, prompt)
    for name in MAY_MATTER:
        value = row.get(name)
        if value in EMPTY:
            continue
        if not isinstance(value, str) and name not in MAY_BE_TURNS:
            raise BadRow(
                f'"{name}" holds {spelled(value)}, and no reader knows what it means here; --map ignore={name} leaves it out'
            )
        if not all(stands_in(said, prompt) for said in _texts(value, name)):
            raise BadRow(
                f'"{name}" may belong to the prompt, and no reader knows how; --map says, or ignore={name} leaves it out'
            )


def _one_question(row: Row, prompt: str) -> None:
    """Raises BadRow for a question in a second column that does not stand in the prompt, which is made of the first."""
    first, *others = (name for name in ASKED if name in row)
    for name in others:
        value = row[name]
        turns = marked(value, name) if isinstance(value, str) else None
        for said in [turn.content for turn in turns] if turns else _texts(value, name):
            several_words = squeezed(said) if len(said.split()) > 1 else None
            if not stands_in(said, prompt) and not (several_words and several_words in squeezed(prompt)):
                raise BadRow(
                    f'"{name}" asks something beside "{first}", and no reader knows how; --map says, or ignore={name} leaves it out'
                )


def _texts(value: Any, name: str) -> list[str]:
    """What a column says: its text, or those of its turns. Raises BadRow for what is neither."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict) and isinstance(value.get("messages"), list):  # OpenAI's `input`
        value = value["messages"]
    return [turn.content for turn in conversation(value, name, alternating=True)]
