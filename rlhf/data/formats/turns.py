"""What a value of a file says as text or as turns of a conversation. Only text is text: the rest is refused by name."""

import math
import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from numbers import Real
from typing import Any, NamedTuple

from rlhf.data.rows import ROLES, BadRow, LeftOut, Message, Prompt, Row

ROLE_NAMES = {
    "prompter": "user", "human": "user", "user": "user",
    "gpt": "assistant", "assistant": "assistant", "ai": "assistant", "bot": "assistant", "model": "assistant",
    "chatgpt": "assistant", "chatbot": "assistant", "bing": "assistant", "bard": "assistant",
    "system": "system", "developer": "system",
}  # fmt: skip
ROLE_KEYS = ("role", "from", "speaker", "type")
CONTENT_KEYS = ("content", "value", "text")
YES: tuple[Any, ...] = (
    True, "true", "yes", "y", "1", "1.0", "accepted", "approved", "chosen", "thumbs_up", "up", "good", "desirable", "liked",
    "positive", "correct", "safe",
)  # fmt: skip
NO: tuple[Any, ...] = (
    False, "false", "no", "n", "0", "0.0", "rejected", "disapproved", "thumbs_down", "down", "bad", "undesirable", "disliked",
    "negative", "incorrect", "wrong", "unsafe",
)  # fmt: skip
NEEDS_MORE_THAN_TEXT = (
    "tool_calls", "function_call", "functioncall", "images", "image", "audio", "audios", "video", "videos", "files",
)  # fmt: skip

# Chat formats that people keep in one text, by how their turns begin.
MARKERS = {
    "Human:": re.compile(r"(?:^\s*|\n\n)(Human|Assistant):"),
    "<extra_id_1>": re.compile(r"\s*<extra_id_[01]>([^\s<]+)(?:\n|$)"),
    "<|im_start|>": re.compile(r"\s*<\|im_start\|>([^\s<]+)(?:\n|$)"),
    "### Human:": re.compile(r"\s*### (Human|Assistant):"),
}
# What never is a turn's words: a marker that was left over was not understood.
LEFT_OVER = re.compile(
    r"<\|(?:im_start|im_end|endoftext|start_header_id|end_header_id|eot_id|user|assistant|system|tool)\|>|"
    r"<(?:start|end)_of_turn>|<extra_id_\d>|\[/?INST\]"
)
UNREAD_MARKERS = re.compile(
    r"\s*(?:<s>|<bos>)?\s*(\[INST\]|<\|user\|>|<\|system\|>|<\|prompter\|>|<\|start_header_id\|>|<start_of_turn>|"
    r"<\|begin_of_text\|>|<\|Human\|>|\[\|Human\|\]|<｜User｜>)"
)
PYTHON_TURNS = re.compile(r"\[\s*\{\s*'(?:role|from|content|value)':.*\}\s*\]\s*", re.DOTALL)


class Turn(NamedTuple):
    """A message, and whether its source lets it be learned."""

    role: str
    content: str
    learned: bool = True


def spelled(value: Any) -> str:
    """What a value is, in a reader's words."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return f"a number ({value!r:.30})"
    if isinstance(value, list | tuple):
        return "a list"
    return "an object" if isinstance(value, dict) else f"a {type(value).__name__}"


def text(value: Any, column: str) -> str:
    """The value, which must be text. Raises BadRow."""
    if not isinstance(value, str):
        raise BadRow(f'"{column}" holds {spelled(value)}, not text; see docs/data.md')
    return value


def number(value: Any) -> float | None:
    """The value as a number, also one written as text, or kept as a decimal, in a table; None for anything else, NaN and infinity."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, Real | Decimal):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def whole_number(value: Any) -> int | None:
    """The value as a whole number, also 1.0 and "1"."""
    found = number(value)
    return int(found) if found is not None and found.is_integer() else None


def truth(value: Any) -> bool | None:
    """Whether the value says yes, also as 1 or as one of the words of such columns; None where it says neither."""
    if isinstance(value, str):
        value = value.strip().lower()
    return True if value in YES else False if value in NO else None  # 1 == True, and 0 == False


def is_learned(weight: Any) -> bool:
    """Whether what has this weight, perhaps none, is learned: unless it is 0. Raises BadRow for what is no weight."""
    if weight is None or isinstance(weight, bool):
        return weight is not False
    if (found := number(weight)) is None:
        raise BadRow(f'"weight" is {weight!r:.40}, which is no number')
    return found != 0


def labeler_of(row: Row, column: str = "labeler") -> str:
    """Who gave a row's answer: a name, or a number as text; "" for nobody. Raises BadRow for anything else."""
    value = row.get(column)
    if value is None or isinstance(value, str):
        return value if value and value.strip() else ""
    if (found := whole_number(value)) is None:
        raise BadRow(f'"{column}" holds {spelled(value)}, not a name')
    return f"{found}"


def message(value: Any, column: str) -> Turn:
    """A turn from one message object in any spelling we know. Raises BadRow."""
    if not isinstance(value, dict):
        raise BadRow(f'"{column}" must hold messages of {{role, content}}, not {spelled(value)}')
    for name in NEEDS_MORE_THAN_TEXT:
        if value.get(name):
            raise BadRow(f'a message in "{column}" has "{name}"; only text can be learned')
    role = next((value[key] for key in ROLE_KEYS if isinstance(value.get(key), str)), None)
    known = ROLE_NAMES.get(role.lower()) if role is not None else None
    if known is None:
        raise BadRow(
            f'a message in "{column}" needs a role of {", ".join(ROLES)}, not {role or "nothing"!s:.40}'
        )
    given = [value[key] for key in CONTENT_KEYS if key in value]
    if not given:
        raise BadRow(f'a message in "{column}" has no text')
    # Null is what a blank text is: an answer that nobody gave.
    said = next((one for one in given if one is not None), "")
    is_left = (
        value.get("train") is False or value.get("loss") is False
    )  # axolotl and others spell the weight so
    return Turn(known, content(said, column), not is_left and is_learned(value.get("weight")))


def content(value: Any, column: str) -> str:
    """The text of a message: text, or parts that are all text."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        raise BadRow(f'a message in "{column}" holds {spelled(value)}, not text')
    return "".join(_part(part, column) for part in value)


def _part(part: Any, column: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind not in ("text", "input_text", "output_text") or not isinstance(part.get("text"), str):
        raise BadRow(f'a message in "{column}" has a part of type {kind!s:.30}; only text can be learned')
    return part["text"]


def conversation(value: Any, column: str, alternating: bool = False) -> list[Turn]:
    """Turns of a list of messages, of one message, or of pairs of question and answer.

    alternating: texts by turns of user and assistant are taken too, as LIMA has them.
    """
    if isinstance(value, dict):
        return [message(value, column)]
    if value == []:
        raise LeftOut("without a conversation")
    if not isinstance(value, list):
        raise BadRow(f'"{column}" must be a list of at least one {{role, content}}, not {spelled(value)}')
    if alternating and all(isinstance(one, str) for one in value):
        return [Turn(("user", "assistant")[i % 2], one) for i, one in enumerate(value)]
    if all(isinstance(one, list | tuple) for one in value):
        return exchanges(value, column)
    if all(isinstance(one, dict) and {"input", "output"} <= one.keys() for one in value):
        return exchanges([(one["input"], one["output"]) for one in value], column)
    turns = [message(one, column) for one in value]
    # A blank column `system` is nothing, too.
    said = [turn for turn in turns if turn.role != "system" or turn.content.strip()]
    if not said:
        raise LeftOut("without a conversation")
    return said


def exchanges(pairs: Iterable[Sequence[Any]], column: str) -> list[Turn]:
    """Turns of pairs of what was asked and answered, as alpaca's `history` has them."""
    turns = []
    for pair in pairs:
        if len(pair) != 2:
            raise BadRow(f'"{column}" must hold pairs of a question and its answer')
        turns += [Turn("user", text(pair[0], column)), Turn("assistant", text(pair[1], column))]
    return turns


def marked(value: str, column: str, answer: bool = False) -> list[Turn] | None:
    r"""Turns of a text that keeps a conversation by markers such as `\n\nHuman:`; None where it has none.

    A text that begins with the markers of a format we do not take apart raises BadRow, and so does one with words
    before its first marker, for nobody knows whose they are. The first turn of `<extra_id_1>` may lack its marker.
    answer: the text is an answer, which may mention markers unless it begins with one.
    """
    if value[:2] == "[{":
        refuse_python(value, column)
    for mark, pattern in MARKERS.items():
        if mark in value and (not answer or pattern.match(value)):
            found = list(pattern.finditer(value))
            if _is_dialogue(mark, value, [one.group(1).lower() for one in found]):
                return _turns_between(value, found, column, mark)
    if found_unread := UNREAD_MARKERS.match(value):
        raise BadRow(
            f'"{column}" is in a chat format ({found_unread.group(1)}) that is not read; give it as messages'
        )
    return None


def refuse_python(value: str, column: str) -> None:
    """Raises BadRow for a text that is a list of messages as Python writes it."""
    if PYTHON_TURNS.fullmatch(value):
        raise BadRow(f'"{column}" holds a conversation in Python\'s spelling; save the set as JSON lines')


def _is_dialogue(mark: str, value: str, roles: list[str]) -> bool:
    """A text that merely mentions people or assistants is no dialogue; one of each side in order is."""
    if mark.startswith("<|") or mark.startswith("<extra"):
        return bool(roles)
    if not roles or roles[0] != "human":
        return False
    return "assistant" in roles or value.startswith(("\n\nHuman:", "### Human:"))


def _turns_between(value: str, found: list[re.Match[str]], column: str, mark: str) -> list[Turn]:
    first = value[: found[0].start()].strip()
    turns = [Turn("user", first)] if first and mark == "<extra_id_1>" else []
    if first and not turns:
        raise BadRow(f'"{column}" has words before its first "{mark}"; give them as a system message')
    for one, following in zip(found, [*found[1:], None], strict=True):
        role = ROLE_NAMES.get(one.group(1).lower())
        if role is None:
            raise BadRow(
                f'"{column}" has a turn of {one.group(1):.40}; only {", ".join(ROLES)} and their other names can be learned'
            )
        turns.append(Turn(role, unended(value[one.end() : following.start() if following else len(value)])))
    for turn in turns:
        if left_over := LEFT_OVER.search(turn.content):
            raise BadRow(f'"{column}" has {left_over.group()} within a turn; give it as messages')
    return [turn for turn in turns if turn.role != "system" or turn.content]


def unended(said: str) -> str:
    """What a turn of a text with markers says, without spaces around it and the markers of its end."""
    said, whole = said.strip(), ""
    # </s> may also end words that <s> strikes out.
    ends = ("<|endoftext|>",) if "<s>" in said else ("<|endoftext|>", "</s>")
    while said != whole:
        whole = said
        for end in ends:
            said = said.removesuffix(end).rstrip()
    return said.removesuffix("<|im_end|>").rstrip()


def as_prompt(turns: Sequence[Turn]) -> list[Message]:
    """The turns as messages."""
    return [{"role": turn.role, "content": turn.content} for turn in turns]


def as_turns(prompt: Prompt) -> list[Turn]:
    """The messages as turns."""
    if isinstance(prompt, str):
        return [Turn("user", prompt)]
    return [Turn(one["role"], one["content"]) for one in prompt]


def squeezed(said: str) -> str:
    """A text with its spaces and line ends made one, to compare what two columns say."""
    return " ".join(said.split())


def stands_in(part: str, whole: str) -> bool:
    """Whether a text's lines stand in another one after the other, the first perhaps behind a label such as `Context:`.

    Letters in the middle of a line are no such place: most inputs of one word stand somewhere in their instruction.
    """
    inner, outer = ([squeezed(line) for line in said.splitlines() if line.strip()] for said in (part, whole))
    return not inner or any(
        (outer[i] == inner[0] or outer[i].endswith(f": {inner[0]}"))
        and outer[i + 1 : i + len(inner)] == inner[1:]
        for i in range(len(outer) - len(inner) + 1)
    )
