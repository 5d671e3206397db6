"""Conversations in a JSONL file, one a line, as `rlhf sft --data` reads them."""

import json
from pathlib import Path

from rlhf.data import ROLES, Message
from rlhf.durable import append_lines
from rlhf.errors import InputError


def save(path: Path, messages: list[Message]) -> None:
    """Append a conversation. Raises InputError."""
    try:
        append_lines(path, [json.dumps({"messages": messages}, ensure_ascii=False)])
    except OSError as error:
        raise InputError(f"not saved: {path}: {error.strerror}") from None


def load(path: Path) -> list[Message]:
    """The last conversation of a file. Raises InputError."""
    try:
        lines = [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
        messages = json.loads(lines[-1])["messages"]
        return [_message(given) for given in messages]
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, IndexError):
        raise InputError(f'{path}: the last line is no conversation: {{"messages": [...]}}') from None


def _message(given: dict[str, str]) -> Message:
    role, content = given["role"], given["content"]
    if role not in ROLES or not isinstance(content, str):
        raise ValueError
    return {"role": role, "content": content}
