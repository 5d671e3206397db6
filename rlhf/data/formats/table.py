"""The one table of formats: what each is told by, which columns it uses, and who reads it. First match wins."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from rlhf.data.formats import argilla, label_studio, lists, pairs, rated, shown, sides, trees
from rlhf.data.formats.checks import nothing_lost
from rlhf.data.formats.context import ASKED, CONTEXT, CONVERSATIONS
from rlhf.data.formats.turns import marked
from rlhf.data.rows import Row

Reader = Callable[[Row], Iterator[Any]]
RANKINGS, DEMONSTRATIONS, PROMPTS, TEXTS = "rankings", "demonstrations", "prompts", "texts"
TO_RATE = "answers"
USES = (RANKINGS, DEMONSTRATIONS, PROMPTS, TEXTS)


@dataclass(frozen=True)
class Together:
    """A reader of all rows of a source at once, for rows that only say something together.

    read: from (place, row) to the places of some rows, the one that is shown first, and what they give or what is wrong.
    """

    read: Callable[[Iterable[tuple[str, Row]]], Iterator[tuple[list[str], Any]]]


@dataclass(frozen=True, kw_only=True)
class Format:
    """needs: columns, each name or `one|other`, that a row must have; uses: others it reads; when: what else must hold.

    rankings, demonstrations, prompts: the reader for each use, None where the format holds no such thing.
    """

    name: str
    needs: tuple[str, ...]
    uses: tuple[str, ...] = ()
    when: Callable[[Row], bool] | None = None
    rankings: Reader | Together | None = None
    demonstrations: Reader | Together | None = None
    prompts: Reader | Together | None = None
    texts: Reader | None = None
    answers: Reader | None = None

    def reader(self, use: str) -> Reader | Together | None:
        """Who reads it for a use; documents are made of demonstrations where a format has no texts.

        Answers to be rated are those of rankings where a row does not stand for one alone.
        """
        found: Reader | Together | None = getattr(self, use)
        return self.rankings if found is None and use == TO_RATE else found

    def suits(self, row: Row) -> bool:
        """Whether a row with its columns is of this format."""
        return self.when is None or self.when(row)

    def fits(self, columns: Iterable[str]) -> bool:
        """Whether the columns are there."""
        there = set(columns)
        return all(there & set(need.split("|")) for need in self.needs)

    def used(self, columns: Iterable[str]) -> list[str]:
        """Which of the columns it reads: of alternatives the first."""
        there = list(columns)
        first = [next((name for name in need.split("|") if name in there), "") for need in self.needs]
        return [name for name in there if name in first or name in self.uses]


def _any(names: Iterable[str]) -> str:
    return "|".join(names)


def _is_hh(row: Row) -> bool:
    return isinstance(row["chosen"], str) and row["chosen"].startswith("\n\nHuman:") and "prompt" not in row


def _is_tree(row: Row) -> bool:
    return isinstance(row["prompt"], dict) and {"role", "text"} <= row["prompt"].keys()


def _is_ranked_list(row: Row) -> bool:
    return isinstance(row[lists.list_of(row) or ""], list)


def _has_markers(row: Row) -> bool:
    return isinstance(row["text"], str) and marked(row["text"], "text") is not None


def _as_is(change: Callable[[Row], Row], read: Reader) -> Reader:
    """A reader of rows that are changed into a simpler format's first."""

    def read_changed(row: Row) -> Iterator[Any]:
        inner = change(row)
        for result in read(inner):
            nothing_lost(result, inner)
            yield result

    return read_changed


BETTER = tuple(better for _, better, _ in pairs.PAIRS)
WORSE = tuple(worse for _, _, worse in pairs.PAIRS)
SAID_OF_PAIRS = ("margin", *pairs.HAS_SCORES, "labeler")
BESIDE_PAIRS = (*ASKED, *CONTEXT, *CONVERSATIONS, *SAID_OF_PAIRS)
BESIDE_SIDES = (
    *ASKED, *CONTEXT, *CONVERSATIONS, *pairs.VERDICTS, *sides.STRENGTHS, "judge", "annotator", "labeler", "turn", "winner_model_a",
    "winner_model_b", "winner_tie", "better_response_id", "better_answer_id",
    *(f"{stem}{between}{end}" for stem in (*sides.STEMS, "score", "rating", "reward") for between in ("_", "")
      for end in ("a", "b", "0", "1", "2")),
)  # fmt: skip
BESIDE_ANSWERS = (*CONTEXT, *CONVERSATIONS, *shown.JUDGED)
ASKING = _any((*ASKED, "input", *CONVERSATIONS))
RATED = Together(rated.rated_demonstrations)

FORMATS: tuple[Format, ...] = (
    Format(
        name="Label Studio", needs=("data", "annotations"),
        rankings=label_studio.label_studio, prompts=label_studio.asked_label_studio,
    ),
    Format(
        name="Argilla records", needs=("fields", "responses"), when=lambda row: isinstance(row["fields"], dict),
        rankings=argilla.records, prompts=argilla.asked_record,
    ),
    Format(
        name="Argilla table", needs=(), when=argilla.is_flat,
        rankings=argilla.records, prompts=argilla.asked_record,
    ),
    Format(
        name="Argilla feedback", needs=(), when=argilla.is_record,
        rankings=argilla.records, prompts=argilla.asked_record,
    ),
    Format(
        name="OpenAssistant trees", needs=("prompt",), when=_is_tree,
        rankings=trees.nested_rankings, demonstrations=trees.nested_demonstrations, prompts=trees.nested_prompts,
    ),
    Format(
        name="OpenAssistant messages", needs=("message_id", "text", "role"),
        uses=("parent_id", "rank", "deleted", "review_result"),
        rankings=Together(trees.flat_rankings), demonstrations=Together(trees.flat_demonstrations),
        prompts=Together(trees.flat_prompts),
    ),
    Format(
        name="messages with replies", needs=("replies", _any(("messages", "prompt"))), uses=(*CONTEXT, "labeler"),
        rankings=trees.replied, prompts=shown.asked,
    ),
    Format(
        name="summaries with a choice", needs=("info", "summaries", "choice"), uses=("worker",),
        rankings=lists.summaries, prompts=lists.asked_for_summary,
    ),
    Format(
        name="pairs by name", needs=(_any((*sides.SIDES, *lists.LISTS)), _any(BETTER), _any(WORSE)), when=sides.are_named,
        uses=(*BESIDE_SIDES, *sides.SIDES, *lists.LISTS, *BETTER, *WORSE, *SAID_OF_PAIRS),
        rankings=_as_is(sides.by_name, pairs.pair("chosen", "rejected")), prompts=_as_is(sides.by_name, pairs.asked_pair("chosen")),
    ),
    Format(
        name="HH", needs=("chosen", "rejected"), uses=SAID_OF_PAIRS, when=_is_hh,
        rankings=pairs.pair("chosen", "rejected"), prompts=pairs.asked_pair("chosen"),
    ),
    *(
        Format(
            name=name, needs=(better, worse), uses=BESIDE_PAIRS,
            rankings=pairs.pair(better, worse), prompts=pairs.asked_pair(better),
        )
        for name, better, worse in pairs.PAIRS
    ),
    Format(
        name="messages with a rejected answer", needs=("messages", "rejected_response|rejected_messages"),
        uses=(*CONTEXT, *SAID_OF_PAIRS),
        rankings=pairs.rejected_beside, demonstrations=shown.shown_conversation, prompts=shown.asked_conversation,
    ),
    Format(
        name="two answers with a verdict", needs=(), uses=BESIDE_SIDES,
        when=lambda row: sides.sides_of(row) is not None,
        rankings=sides.side_by_side, prompts=sides.asked_side,
    ),
    Format(
        name="ranked answers", needs=(_any(lists.LISTS),), when=_is_ranked_list,
        uses=(*ASKED, *CONTEXT, *CONVERSATIONS, "ranks", "labeler", "flags", "fields", "margin", *lists.BESIDE,
              *lists.SCORE_LISTS),
        rankings=lists.listed, prompts=shown.asked,
    ),
    Format(
        name="rated conversations", needs=(_any(CONVERSATIONS),),
        uses=(*ASKED, *CONTEXT, *shown.JUDGED, *rated.RATINGS, *rated.ABOUT_RATINGS),
        when=lambda row: shown.is_only_conversation(row) and rated.rating_of(row) is not None,
        rankings=Together(rated.rated_rankings), demonstrations=RATED, prompts=shown.asked_conversation, answers=rated.to_rate,
    ),
    Format(
        name="messages", needs=(_any(CONVERSATIONS),), uses=(*ASKED, *CONTEXT, *shown.JUDGED),
        when=lambda row: shown.is_only_conversation(row) and rated.lacks_rating(row), demonstrations=RATED,
    ),
    Format(
        name="messages", needs=(_any(CONVERSATIONS),), uses=(*ASKED, *CONTEXT, *shown.JUDGED),
        when=shown.is_conversation,
        demonstrations=shown.shown_conversation, prompts=shown.asked_conversation,
    ),
    Format(
        name="self-instruct", needs=("instruction", "instances"), uses=shown.JUDGED,
        demonstrations=_as_is(shown.instance, shown.shown_answer), prompts=_as_is(shown.instance, shown.asked),
    ),
    Format(
        name="LangSmith", needs=("inputs",), uses=("outputs", *shown.JUDGED), when=lambda row: isinstance(row["inputs"], dict),
        demonstrations=_as_is(shown.nested, shown.shown_answer), prompts=_as_is(shown.nested, shown.asked),
    ),
    Format(
        name="rated answers", needs=(ASKING, _any(shown.ANSWERS)),
        uses=(*BESIDE_ANSWERS, *rated.RATINGS, *rated.ABOUT_RATINGS), when=lambda row: shown.is_asked(row) and rated.rating_of(row) is not None,
        rankings=Together(rated.rated_rankings), demonstrations=RATED, prompts=shown.asked, answers=rated.to_rate,
    ),
    Format(
        name="prompts with answers", needs=(ASKING, _any(shown.ANSWERS)), uses=BESIDE_ANSWERS,
        when=lambda row: shown.is_asked(row) and rated.lacks_rating(row), demonstrations=RATED,
    ),
    Format(
        name="prompts with answers", needs=(ASKING, _any(shown.ANSWERS)), uses=BESIDE_ANSWERS,
        when=shown.is_asked, demonstrations=shown.shown_answer, prompts=shown.asked, answers=rated.to_rate,
    ),
    Format(name="questions by turns", needs=("turns",), prompts=shown.asked_turns, when=lambda row: isinstance(row["turns"], list)),
    Format(name="transcripts", needs=("transcript",), prompts=shown.transcript),
    Format(name="plain text", needs=("text",), texts=shown.joined_text),
    Format(
        name="text with markers", needs=("text",), uses=shown.JUDGED, when=_has_markers,
        demonstrations=shown.shown_text, prompts=shown.asked_text,
    ),
    Format(name="prompts", needs=(_any((*ASKED, "input")),), uses=CONTEXT, prompts=shown.asked),
)  # fmt: skip


def fitting(columns: Iterable[str], use: str) -> list[Format]:
    """Formats with a reader for the use whose columns are there, in the table's order."""
    there = list(columns)
    return [one for one in FORMATS if one.reader(use) is not None and one.fits(there)]


def holds(row: Row) -> list[tuple[str, str]]:
    """(use, format) of everything that a row can be read as, to say so where it is asked for something else."""
    found = []
    for use in USES:
        name = next((one.name for one in fitting(row, use) if one.suits(row)), None)
        if name is not None:
            found.append((use, name))
    return found
