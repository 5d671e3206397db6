"""Talk to a checkpoint in the terminal: answers stream in, Ctrl-C stops an answer and not the program."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from rlhf.data import Message
from rlhf.generate import SamplingSettings, stream
from rlhf.model import load_policy
from rlhf.starter.items import take_items
from rlhf.store import Entry, Store
from rlhf.tokenizer import load_tokenizer
from rlhf.training import best_device, set_threads
from stages.inputs import model_of
from stages.settings import ChatSettings

HELP = "/reset forgets the conversation, /save [FILE] keeps it, /quit ends. Ctrl-C stops an answer."


class Conversation:
    """Messages so far, and a model that answers the last one."""

    def __init__(self, settings: ChatSettings, policy: Any, tokenizer: Any) -> None:
        self.settings = settings
        self.policy = policy
        self.tokenizer = tokenizer
        self.turns = 0
        self.messages: list[Message] = []
        self.reset()

    def reset(self) -> None:
        system = self.settings.system
        self.messages = [{"role": "system", "content": system}] if system else []

    def fit(self) -> int:
        """Drop the oldest turns until an answer has room in the context; returns how many messages were dropped."""
        context = getattr(self.policy.config, "max_position_embeddings", None)
        dropped, first = 0, 1 if self.settings.system else 0
        while context and len(self.messages) > first + 1:
            used = len(self.tokenizer.encode_prompt(self.messages))
            if used + min(self.settings.max_new_tokens, context // 4) <= context:
                break
            del self.messages[first]
            dropped += 1
        return dropped

    def answer(self) -> Iterator[str]:
        """Pieces of the answer as they come, whole characters only; the conversation keeps what was given."""
        settings = self.settings
        sampling = SamplingSettings(
            max_new_tokens=settings.max_new_tokens, temperature=settings.temperature, top_p=settings.top_p
        )
        self.turns += 1
        rows = self.tokenizer.encode_prompt(self.messages)
        given: list[int] = []
        shown = ""
        try:
            for token in stream(
                self.policy, rows, sampling, stop_ids=self.tokenizer.stop_ids, seed=settings.seed + self.turns
            ):
                given.append(token)
                text = self.tokenizer.decode(given)
                # An unfinished UTF-8 sequence decodes to U+FFFD; hold it back until the rest has come.
                whole = text.rstrip("\ufffd")
                if len(whole) > len(shown) and whole.startswith(shown):
                    yield whole[len(shown) :]
                    shown = whole
        finally:
            self.messages.append({"role": "assistant", "content": self.tokenizer.decode(given).strip()})


def run(
    settings: ChatSettings, store: Store, source: TextIO | None = None, out: TextIO | None = None
) -> None:
    """Read lines from `source` (default stdin) and answer on `out` (default stdout) until /quit or the end."""
    source, out = source or sys.stdin, out or sys.stdout
    folder, entry = model_of(store, settings.policy)
    set_threads(0)
    policy, tokenizer = load_policy(folder).to(best_device()).eval(), load_tokenizer(folder)
    conversation = Conversation(settings, policy, tokenizer)
    name = entry.ref if entry else settings.policy
    print(f"{name}. {HELP}", file=sys.stderr)
    for prompt in suggestions(entry):
        print(f"  it knows things like: {prompt}", file=sys.stderr)
    going = True
    while going:
        try:
            going = _turn(source, out, conversation)
        except KeyboardInterrupt:
            # Wherever the signal falls, it ends an answer or clears a line, never the program.
            print(" …", file=out, flush=True)


def suggestions(entry: Entry | None) -> list[str]:
    """Test prompts for a model of the starter world, which has never met any other words; none for other models."""
    if entry is None or not any(name.startswith("starter") for name in entry.manifest["data"]):
        return []
    return [item.prompt for item in take_items("test", 4, 0)]


def _turn(source: TextIO, out: TextIO, conversation: Conversation) -> bool:
    """Read one line and answer it or carry it out; false at the end of the input and after /quit."""
    if source.isatty():
        print("> ", end="", file=out, flush=True)
    line = source.readline()
    if line.startswith("/"):
        return command(line.strip(), conversation, out)
    if line.strip():
        _answer(line.strip(), conversation, out)
    return bool(line)


def _answer(line: str, conversation: Conversation, out: TextIO) -> None:
    conversation.messages.append({"role": "user", "content": line})
    if dropped := conversation.fit():
        print(f"(the context is full: {dropped} of the oldest messages are forgotten)", file=sys.stderr)
    for piece in conversation.answer():
        print(piece, end="", file=out, flush=True)
    print(file=out, flush=True)


def command(line: str, conversation: Conversation, out: TextIO) -> bool:
    """Carry out a /command; false when the conversation is over."""
    name, _, argument = line.partition(" ")
    if name in ("/quit", "/exit"):
        return False
    if name == "/reset":
        conversation.reset()
        print("(forgotten)", file=out, flush=True)
    elif name == "/save":
        save(conversation.messages, Path(argument.strip() or "chat.jsonl"), out)
    else:
        print(HELP, file=out, flush=True)
    return True


def save(messages: list[Message], path: Path, out: TextIO) -> None:
    """Append the conversation to a JSONL file, one conversation per line; a failure is said, not fatal."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
    except OSError as error:
        print(f"(not saved: {path}: {error.strerror})", file=out, flush=True)
        return
    print(f"(saved to {path})", file=out, flush=True)
