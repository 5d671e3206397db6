"""Demonstrations: the answers of a row that are to be learned."""

from collections.abc import Iterator, Sequence
from typing import Any

from rlhf.data.formats.context import ASKED, CONVERSATIONS, EMPTY, prompt_of, whole, with_words
from rlhf.data.formats.turns import (
    ROLE_KEYS,
    ROLE_NAMES,
    Turn,
    as_turns,
    conversation,
    is_learned,
    marked,
    number,
    refuse_python,
    squeezed,
    text,
    truth,
    unended,
)
from rlhf.data.rows import BadRow, Demonstration, LeftOut, Prompt, Row, as_messages

# In the order of preference: where two are there, the first says more.
ANSWERS = (
    "completion", "response", "output", "solution", "generated_solution", "answer", "target", "targets", "ideal",
    "model_output", "summary",
)  # fmt: skip
# Columns that say whether the answer was accepted.
VERDICTS = (
    "label", "kto_tag", "accepted", "approved", "desirable", "is_safe", "is_correct", "correct", "review_result", "thumbs",
    "thumbs_up", "liked",
)  # fmt: skip
JUDGED = (*VERDICTS, "weight")
IS_JUDGED = frozenset(JUDGED)
NO_ANSWER = "without an answer"


def refuse_rejected(row: Row) -> None:
    """Raises LeftOut for an answer that is not to be learned, BadRow for a verdict that may or may not say so."""
    if IS_JUDGED.isdisjoint(row):
        return
    for name in VERDICTS:
        if name not in row or (value := row[name]) in EMPTY:
            continue
        if name == "label" and number(value) is not None:
            raise BadRow(
                f'"label" is {value}: if 0 means rejected, write false; else leave it out with --map ignore=label'
            )
        accepted = truth(value)
        if accepted is None:
            raise BadRow(
                f'"{name}" is {value!r:.40}, which says neither accepted nor rejected; --map ignore={name} leaves it out'
            )
        if not accepted:
            raise LeftOut("that people rejected")
    if not is_learned(row.get("weight")):
        raise LeftOut("whose answers are not to be learned")


def demonstration(turns: Sequence[Turn]) -> Demonstration:
    """A conversation up to its last answer that may be learned. Raises LeftOut where there is none."""
    answers = [i for i, turn in enumerate(turns) if turn.role == "assistant"]
    if not answers:
        raise LeftOut(NO_ANSWER)
    learned = [i for i in answers if turns[i].learned]
    if not learned:
        raise LeftOut("whose answers are not to be learned")
    last = learned[-1]
    if not turns[last].content.strip():
        raise LeftOut(NO_ANSWER)
    unlearned = tuple(i for i in answers if i < last and not (turns[i].learned and turns[i].content.strip()))
    return Demonstration(prompt=with_words(turns[:last]), completion=turns[last].content, unlearned=unlearned)


def shown_conversation(row: Row) -> Iterator[Demonstration]:
    """The demonstration in a column of messages."""
    refuse_rejected(row)
    column = next(name for name in CONVERSATIONS if name in row)
    yield demonstration(whole(row, conversation(row[column], column, alternating=True), column))


def asked_conversation(row: Row) -> Iterator[Prompt]:
    """What a column of messages asks: up to the turn that the row's own prompt names, else all but its last answer."""
    column = next(name for name in CONVERSATIONS if name in row)
    turns = whole(row, conversation(row[column], column, alternating=True), column)
    asked = next((row[name] for name in ASKED if isinstance(row.get(name), str)), None)
    if asked is not None:
        named = [
            i
            for i, turn in enumerate(turns)
            if turn.role == "user" and squeezed(turn.content) == squeezed(asked)
        ]
        turns = turns[: named[0] + 1] if named else turns
    yield with_words(turns[:-1] if turns[-1].role == "assistant" else turns)


def waits(row: Row) -> bool:
    """Whether a row's conversation ends with a question that the column of an answer beside it answers."""
    given = next((row[name] for name in CONVERSATIONS if name in row), None)
    last = given[-1] if isinstance(given, list) and given else None
    if not isinstance(last, dict) or not any(name in row for name in ANSWERS):
        return False
    role = next((last[key] for key in ROLE_KEYS if isinstance(last.get(key), str)), "")
    return ROLE_NAMES.get(role.lower()) == "user"


def is_conversation(row: Row) -> bool:
    """Whether a row's conversation holds its answer."""
    return any(name in row for name in CONVERSATIONS) and not waits(row)


def is_only_conversation(row: Row) -> bool:
    """Whether what a row says of its answer, such as a rating, can only be of that in its conversation."""
    return is_conversation(row) and not any(name in row for name in ANSWERS)


def is_asked(row: Row) -> bool:
    """Whether a row asks something that the column of an answer answers, and is no conversation that holds its answer."""
    return waits(row) or any(name in row for name in (*ASKED, "input"))


def _answering(row: Row, column: str) -> Iterator[Demonstration]:
    """The demonstration in a conversation that ends with a question, and the column of its answer."""
    asking = next(name for name in CONVERSATIONS if name in row)
    turns = whole(row, conversation(row[asking], asking), asking)
    given = row[column]
    if isinstance(given, str):
        yield demonstration([*turns, Turn("assistant", own_words(row, given))])
        return
    if not isinstance(given, dict | list):
        text(given, column)
    said = conversation(given, column)
    yield demonstration([*turns, *said] if said[0].role == "assistant" else whole(row, said, column))


def shown_answer(row: Row) -> Iterator[Demonstration]:
    """The demonstration in a prompt and the column of its answer."""
    refuse_rejected(row)
    column = next((name for name in ANSWERS if name in row), None)
    if column is None:
        raise BadRow(f'"completion" is missing (columns found: {", ".join(row)}); see docs/data.md')
    if waits(row):
        yield from _answering(row, column)
        return
    given = row[column]
    if isinstance(given, str):
        prompt, completion = prompt_of(row), own_words(row, given)
        if not completion.strip():
            raise LeftOut(NO_ANSWER)
        yield Demonstration(prompt=prompt, completion=completion)
        return
    if not isinstance(given, dict | list):
        text(given, column)
    turns = conversation(given, column)
    if turns[0].role != "assistant":
        yield demonstration(whole(row, turns, column))
    else:
        yield demonstration([*as_turns(prompt_of(row)), *turns])


def own_words(row: Row, answer: str) -> str:
    """An answer without the spaces around it and the markers of its end where the row's prompt is one text with markers."""
    if answer[:2] == "[{":
        refuse_python(answer, "the answer")
    words = unended(answer)
    asked = next((row[name] for name in ASKED if name in row), None)
    if words == answer or not isinstance(asked, str) or marked(asked, "prompt") is None:
        return answer
    return words


def asked(row: Row) -> Iterator[Prompt]:
    """The prompt of a row's own column, or the conversation that waits for its answer."""
    if waits(row):
        yield from asked_conversation(row)
    else:
        yield prompt_of(row)


def asked_turns(row: Row) -> Iterator[Prompt]:
    """The first of the questions in `turns`, as MT-bench and Arena-Hard have them."""
    turns = row["turns"]
    if not isinstance(turns, list) or not turns:
        raise BadRow('"turns" must be a list of questions')
    first = turns[0]["content"] if isinstance(turns[0], dict) and "content" in turns[0] else turns[0]
    opening = text(first, "turns")
    if not opening.strip():
        raise LeftOut("without a prompt")
    yield opening


def instance(row: Row) -> Row:
    """A self-instruct task with the input and output of its first instance."""
    instances = row["instances"]
    if not isinstance(instances, list) or not instances or not isinstance(instances[0], dict):
        raise BadRow('"instances" must be a list of {input, output}')
    return row.inner({**_judged(row), "instruction": row.get("instruction"), **instances[0]})


def _judged(row: Row) -> dict[str, Any]:
    """The columns that say whether the answer is to be learned, for the row that holds it."""
    return {name: row[name] for name in JUDGED if name in row}


def nested(row: Row) -> Row:
    """LangSmith's example, `inputs` and `outputs`, as columns of one row."""
    asked_of, answered = row.get("inputs"), row.get("outputs") or {}
    if not isinstance(asked_of, dict) or not isinstance(answered, dict):
        raise BadRow('"inputs" and "outputs" must be objects')
    columns = row.inner({**_judged(row), **asked_of})
    if "messages" in columns:
        columns["prompt"] = columns.pop("messages")
    answer = [value for value in answered.values() if value is not None]
    if len(answer) == 1:
        columns["completion"] = answer[0]
    elif answer:
        named = next((name for name in ANSWERS if name in answered), None)
        if named is None:
            raise BadRow(f'cannot tell which of {", ".join(answered)} in "outputs" is the answer')
        columns["completion"] = answered[named]
    return row.changed(columns)


def transcript(row: Row) -> Iterator[Prompt]:
    """What a red team's transcript asked last."""
    turns = marked(text(row["transcript"], "transcript"), "transcript")
    if turns is None:
        raise BadRow('"transcript" has no "\\n\\nHuman:" turns')
    yield with_words(turns[:-1] if turns[-1].role == "assistant" else turns)


def shown_text(row: Row) -> Iterator[Demonstration]:
    """The demonstration in one text with markers, as openassistant-guanaco has them."""
    refuse_rejected(row)
    turns = marked(text(row["text"], "text"), "text")
    if turns is None:
        raise BadRow('"text" alone is no demonstration: nothing says where the prompt ends; see docs/data.md')
    yield demonstration(turns)


def asked_text(row: Row) -> Iterator[Prompt]:
    """What a text with markers asks last."""
    turns = marked(text(row["text"], "text"), "text")
    if turns is None:
        raise BadRow('"text" alone is no prompt: nothing says where it ends; see docs/data.md')
    yield with_words(turns[:-1] if turns[-1].role == "assistant" else turns)


def joined_text(row: Row) -> Iterator[str]:
    """A document of a `text` column."""
    document = text(row["text"], "text")
    if not document.strip():
        raise LeftOut("without a text")
    yield document


def demonstration_text(found: Demonstration) -> str:
    """A demonstration as one document."""
    return "\n".join([*(one["content"] for one in as_messages(found.prompt)), found.completion])
