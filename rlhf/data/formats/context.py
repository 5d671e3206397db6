"""What a row says before the answer: its prompt, and the system text, history and context in other columns."""

from collections.abc import Sequence
from typing import Any

from rlhf.data.formats.turns import (
    Turn,
    as_prompt,
    as_turns,
    conversation,
    marked,
    spelled,
    squeezed,
    stands_in,
    text,
)
from rlhf.data.rows import BadRow, LeftOut, Prompt, Row

ASKED = ("prompt", "instruction", "question", "query", "problem", "user_input", "inputs", "goal")
SYSTEM = ("system", "system_prompt", "system_message")
MORE = ("input", "context")
CONVERSATIONS = ("messages", "conversations", "conversation", "conversation_input", "dialogue", "dialog")
SAID_BEFORE = frozenset((*SYSTEM, "history", "context"))
CONTEXT = (*SYSTEM, "history", *MORE)
# Columns that may change what an answer means. A format that has no use for one refuses it by name.
MAY_MATTER = (
    *CONTEXT, "contexts", "passage", "passages", "document", "documents", "background", "persona", "tools", "functions",
    "image", "images", "video", "videos", "audio", "audios",
)  # fmt: skip
EMPTY: tuple[Any, ...] = ("", "[]", "{}", "null", [], {}, None)


def prompt_of(row: Row) -> Prompt:
    """The prompt of a row's own column, behind its system text and history. Raises BadRow, LeftOut for one without words."""
    column = next((name for name in (*ASKED, "input") if name in row), None)
    if column is None:
        found = next((name for name in CONVERSATIONS if name in row), None)
        if found is None:
            raise BadRow(f'"prompt" is missing (columns found: {", ".join(row)}); see docs/data.md')
        return with_words(with_system(row, conversation(row[found], found, alternating=True)))
    before = said_before(row)
    turns = _asked(row, column)
    if isinstance(turns, str):
        if not turns.strip():
            raise LeftOut("without a prompt")
        return turns if not before else as_prompt([*before, Turn("user", turns)])
    return with_words(with_system(row, turns))


def with_words(turns: Sequence[Turn]) -> Prompt:
    """The turns as a prompt. Raises LeftOut for one whose last turn is blank or that nobody said anything in."""
    if not turns or not turns[-1].content.strip() or not any(turn.role != "system" for turn in turns):
        raise LeftOut("without a prompt")
    return as_prompt(turns)


def _asked(row: Row, column: str) -> str | list[Turn]:
    """What a prompt's column says by itself: plain text, or turns."""
    value = row[column]
    if isinstance(value, list):
        return conversation(value, column)
    content = text(value, column)
    if turns := marked(content, column):
        return turns[:-1] if turns[-1].role == "assistant" and not turns[-1].content else turns
    for name in MORE:
        more = row.get(name)
        if name == column or more in EMPTY:
            continue
        if isinstance(more, str):
            if not stands_in(more, content):
                content = f"{content}\n\n{more}" if content.strip() else more
        elif name == "input" or not isinstance(more, list):  # a context may be turns: said_before
            raise BadRow(f'"{name}" holds {spelled(more)}, not text; see docs/data.md')
    return content


def said_before(row: Row) -> list[Turn]:
    """The turns of a row's system text, its history and a context that is a conversation."""
    if SAID_BEFORE.isdisjoint(row):
        return []
    turns = []
    for name in SYSTEM:
        if row.get(name) not in EMPTY and (said := text(row[name], name)).strip():
            turns.append(Turn("system", said))
    if len(turns) > 1:
        raise BadRow(
            f"two system texts; leave one of {', '.join(name for name in SYSTEM if name in row)} out"
        )
    for name in ("history", "context"):
        value = row.get(name)
        if isinstance(value, str) and name == "history" and value.strip():
            raise BadRow('"history" is one text, and nobody knows whose words; give it as messages')
        if value not in EMPTY and not isinstance(value, str):
            turns += conversation(value, name)
    return turns


def with_system(row: Row, turns: list[Turn]) -> list[Turn]:
    """A conversation behind the system text and history of the row's other columns, if it does not hold them itself."""
    before = said_before(row)
    if not before:
        return turns
    if before[0].role == "system" and turns[0].role == "system":
        if squeezed(before[0].content) != squeezed(turns[0].content):
            raise BadRow(
                "a column and the conversation hold two different system texts; leave one of them out"
            )
        before = before[1:]
    return [*before, *turns]


def whole(row: Row, given: list[Turn], column: str) -> list[Turn]:
    """The whole conversation that ends in `column`: what it holds, or that behind the row's prompt where it only goes on.

    Where both hold the beginning, the conversation wins. Raises BadRow for a prompt that is no part of it.
    """
    asked = next((name for name in ASKED if name in row), None)
    if asked is None or asked == column:
        others = [name for name in CONVERSATIONS if name in row and name != column]
        if given[0].role == "assistant" and others:
            return [*as_turns(prompt_of(row)), *given]
        return with_system(row, given)
    said = _asked(row, asked)
    prompt = [Turn("user", said)] if isinstance(said, str) else said
    if given[0].role == "assistant" or (prompt[-1].role == "assistant" and not _holds(given, prompt)):
        return [*with_system(row, prompt), *given]
    if not _holds(given, prompt):
        raise BadRow(f'"{asked}" is no part of the conversation in "{column}"; name one of them with --map')
    return with_system(row, given)


def _holds(conversation: Sequence[Turn], prompt: Sequence[Turn]) -> bool:
    """Whether the prompt's turns stand in the conversation, or its text is that of the conversation's questions."""
    inner = [(turn.role, squeezed(turn.content)) for turn in prompt]
    outer = [(turn.role, squeezed(turn.content)) for turn in conversation]
    if any(outer[i : i + len(inner)] == inner for i in range(len(outer) - len(inner) + 1)):
        return True
    asked = [turn.content for turn in conversation if turn.role == "user"]
    return len(inner) == 1 and bool(asked) and all(stands_in(said, prompt[0].content) for said in asked)
