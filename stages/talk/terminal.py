"""Talk to checkpoints in the terminal: answers stream, Ctrl-C stops an answer and not the program.

What is said about an answer (/good, /bad, /edit, /compare) goes into the label store, as on the chat page.
"""

import json
import random
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

import torch

from rlhf.data import Message
from rlhf.errors import InputError, RLHFError
from rlhf.inputs import locate_model
from rlhf.machine.devices import best_device, set_threads
from rlhf.models.checkpoints import load_policy
from rlhf.models.offload import load_offloaded
from rlhf.models.tokenizer import load_tokenizer
from rlhf.serving.completions import Done, Failed, Piece, Request, Started
from rlhf.serving.engine import Engine
from rlhf.serving.precision import cast
from rlhf.starter.items import take_items
from rlhf.store import Entry, Store
from stages.settings import ChatSettings
from stages.talk.line_editor import LineEditor

HELP = """\
/model [NAME]    talk to another checkpoint; without a name: which there are
/system [TEXT]   instructions in front of the conversation; without text: none
/compare [NAME]  answer the last question once more, by NAME or with another seed, and choose the better answer
/good, /bad      say what you think of the last answer
/edit [TEXT]     write the last answer better: it becomes a demonstration
/save [FILE]     append the conversation to a JSONL file (chat.jsonl)
/reset           forget the conversation
/quit            end; Ctrl-C stops an answer, Ctrl-D ends too"""
VERDICTS = {"a": "a", "b": "b", "t": "tie", "tie": "tie", "n": "both_bad", "neither": "both_bad"}
Remember = Callable[..., None]


class Models:
    """The checkpoints of a store, each loaded when first talked to."""

    def __init__(self, store: Store, precision: str, offload: bool = False) -> None:
        self.store, self.precision, self.offload = store, precision, offload
        self.engines: dict[str, Engine] = {}

    def engine(self, name: str) -> tuple[str, Engine, Entry | None]:
        """A checkpoint's full name, its engine and its entry. Raises StoreError or InputError."""
        folder, entry = locate_model(self.store, name)
        if folder not in self.engines:
            policy, packed = self._loaded(folder)
            self.engines[folder] = Engine(policy, load_tokenizer(folder), max_rows=1, packed=packed)
        return (entry.ref if entry else name), self.engines[folder], entry

    def _loaded(self, folder: str) -> tuple[Any, bool]:
        """The model, and whether its decoder packs weights into 8 bits. Raises InputError."""
        if not self.offload:
            return cast(load_policy(folder).to(best_device()), self.precision)
        if self.precision == "int8":
            raise InputError(
                "--offload computes with the file's own weights: leave --precision int8 or --offload out"
            )
        half = self.precision == "bfloat16"
        return load_offloaded(folder, torch.bfloat16 if half else torch.float32), False

    def names(self) -> list[str]:
        return [entry.ref for entry in self.store.entries() if entry.stage != "reward"]


class Said:
    """The last answer: what it was given, and how it was drawn."""

    def __init__(self, prompt: list[Message], checkpoint: str, sampling: dict[str, Any]) -> None:
        self.prompt, self.checkpoint, self.sampling = prompt, checkpoint, sampling
        self.text, self.ended = "", False


class Conversation:
    """Messages so far, and the checkpoint that answers the last one."""

    def __init__(self, settings: ChatSettings, models: Models) -> None:
        self.settings, self.models = settings, models
        self.name, self.engine, self.entry = models.engine(settings.policy)
        self.system = settings.system or ""
        self.turns = 0
        self.messages: list[Message] = []
        self.last: Said | None = None

    def reset(self) -> None:
        self.messages, self.last = [], None

    def prompt(self) -> list[Message]:
        system: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        return system + self.messages

    def answer(self, told: Callable[[str], None], model: str | None = None) -> Iterator[str]:
        """Pieces of an answer by the conversation's checkpoint or `model`; `last` holds what was given.

        told: hears of turns that did not fit. Raises InputError for a prompt that cannot be answered.
        """
        name, engine, _ = self.models.engine(model or self.name)
        settings, self.turns = self.settings, self.turns + 1
        sampling: dict[str, Any] = {
            "temperature": settings.temperature, "top_p": settings.top_p, "top_k": settings.top_k,
            "repetition_penalty": settings.repetition_penalty, "max_new_tokens": settings.max_new_tokens,
            "seed": settings.seed + self.turns,
        }  # fmt: skip
        prompt = self.prompt()
        request = Request(messages=tuple(prompt), drop_oldest=True, **sampling)
        self.last = said = Said(prompt, name, sampling)
        for event in engine.stream(request):
            if isinstance(event, Failed):
                raise InputError(event.error)
            if isinstance(event, Started) and event.dropped:
                first = 1 if self.system else 0
                said.prompt = prompt[:first] + prompt[first + event.dropped :]
                told(f"(the context is full: the {event.dropped} oldest messages were left out)")
            elif isinstance(event, Piece):
                said.text += event.text
                yield event.text
            elif isinstance(event, Done):
                said.ended = event.reason == "stop"


class Terminal:
    """Reads lines, answers them or carries them out, and keeps feedback."""

    def __init__(self, conversation: Conversation, lines: LineEditor, out: TextIO, labels_url: str) -> None:
        self.conversation, self.lines, self.out, self.labels_url = conversation, lines, out, labels_url

    def run(self) -> None:
        """Until /quit or the end of the input. Wherever Ctrl-C falls, it ends an answer or clears a line."""
        going = True
        while going:
            try:
                going = self.turn()
            except KeyboardInterrupt:
                self.say(" …")
            except RLHFError as error:
                self.say(f"(error: {error})")

    def say(self, line: str) -> None:
        print(line, file=self.out, flush=True)

    def turn(self) -> bool:
        """Read one line and answer it or carry it out; false at the end of the input and after /quit."""
        line = self.lines.read("> ")
        if line is None:
            return False
        text = line.strip()
        if text.startswith("/"):
            return self.command(text)
        if text:
            self.ask(text)
        return True

    def ask(self, text: str) -> None:
        conversation = self.conversation
        conversation.messages.append({"role": "user", "content": text})
        before = conversation.last
        try:
            self.stream(conversation.answer(self.note))
        except RLHFError:
            conversation.messages.pop()  # nothing was answered, so nothing was asked
            raise
        finally:
            if (
                conversation.last is not before
                and conversation.messages[-1:]
                and conversation.messages[-1]["role"] == "user"
            ):
                self.keep_turn()

    def keep_turn(self) -> None:
        assert self.conversation.last is not None
        said = {"role": "assistant", "content": self.conversation.last.text.strip()}
        self.conversation.messages.append(said)

    def stream(self, pieces: Iterator[str]) -> None:
        for piece in pieces:
            print(piece, end="", file=self.out, flush=True)
        print(file=self.out, flush=True)

    def note(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def command(self, line: str) -> bool:
        """Carry out a /command; false when the conversation is over."""
        name, _, argument = line.partition(" ")
        if name in ("/quit", "/exit"):
            return False
        commands: dict[str, Callable[[str], None]] = {
            "/model": self.model, "/system": self.system, "/compare": self.compare, "/edit": self.edit,
            "/good": lambda _: self.thumb(True), "/bad": lambda _: self.thumb(False),
            "/save": self.save, "/reset": self.reset,
        }  # fmt: skip
        commands.get(name, lambda _: self.say(HELP))(argument.strip())
        return True

    def reset(self, _: str) -> None:
        self.conversation.reset()
        self.say("(forgotten)")

    def system(self, text: str) -> None:
        self.conversation.system = text
        self.say("(system text set)" if text else "(no system text)")

    def model(self, name: str) -> None:
        conversation = self.conversation
        if name:
            conversation.name, conversation.engine, conversation.entry = conversation.models.engine(name)
        there = [] if name else [f"  {one}" for one in conversation.models.names()]
        self.say("\n".join([f"(talking to {conversation.name})", *there]))

    def save(self, argument: str) -> None:
        """Append the conversation to a JSONL file, one conversation per line; a failure is said, not fatal."""
        path = Path(argument or "chat.jsonl")
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"messages": self.conversation.prompt()}, ensure_ascii=False) + "\n")
        except OSError as error:
            self.say(f"(not saved: {path}: {error.strerror})")
            return
        self.say(f"(saved to {path})")

    # Feedback

    def answered(self) -> Said:
        """The last answer. Raises InputError where there is none."""
        if self.conversation.last is None or not self.conversation.last.text.strip():
            raise InputError("there is no answer yet")
        return self.conversation.last

    def thumb(self, up: bool) -> None:
        said = self.answered()
        self.remember("record_thumb", said.prompt, said, up)
        self.say("(kept: good)" if up else "(kept: bad)")

    def edit(self, text: str) -> None:
        said = self.answered()
        better = text or (self.lines.read("better: ", said.text.strip()) or "").strip()
        if not better or better == said.text.strip():
            self.say("(unchanged)")
            return
        self.remember("record_rewrite", said.prompt, said, better)
        self.conversation.messages[-1]["content"] = better
        self.say("(kept as a demonstration; the conversation goes on with it)")

    def compare(self, name: str) -> None:
        """Another answer to the last question; both in random order, without names until the choice."""
        conversation, first = self.conversation, self.answered()
        if name:
            conversation.models.engine(name)  # a wrong name is said before anything is lost
        answer = conversation.messages.pop()
        try:
            for _ in conversation.answer(self.note, name or None):
                pass
            assert conversation.last is not None
            both = [first, conversation.last]
            random.SystemRandom().shuffle(both)
            for letter, said in zip("AB", both, strict=True):
                self.say(f"{letter}: {said.text.strip()}")
            verdict = VERDICTS.get(
                (self.lines.read("better? a, b, t (tie), n (neither): ") or "").strip().lower()
            )
            if verdict is None:
                self.say("(no choice kept)")
                conversation.last = first
                return
            self.remember("record_comparison", first.prompt, *both, verdict)
            conversation.last = both[1] if verdict == "b" else both[0]
            answer = {"role": "assistant", "content": conversation.last.text.strip()}
            self.say(f"(kept: {verdict}; A was {both[0].checkpoint}, B was {both[1].checkpoint})")
        finally:
            conversation.messages.append(answer)

    def remember(self, how: str, prompt: list[Message], *said: Any) -> None:
        """Write feedback into the label store, under the account of this machine."""
        from annotate.chat import feedback
        from annotate.labels import LabelStore
        from annotate.store.accounts import local_account

        given = [
            feedback.ChatAnswer(
                text=one.text.strip(), checkpoint=one.checkpoint, sampling=one.sampling, ended=one.ended
            )
            if isinstance(one, Said)
            else one
            for one in said
        ]
        with LabelStore(self.labels_url) as labels:
            name = local_account(labels.database).name
            getattr(feedback, how)(labels.database, name, uuid.uuid4().hex, prompt, *given)


def run(
    settings: ChatSettings,
    store: Store,
    labels_url: str,
    source: TextIO | None = None,
    out: TextIO | None = None,
) -> None:
    """Read lines from `source` (default stdin) and answer on `out` (default stdout) until /quit or the end."""
    set_threads(0)
    models = Models(store, settings.precision, settings.offload)
    conversation = Conversation(settings, models)
    words = [line.split()[0].rstrip(",") for line in HELP.splitlines()] + ["/bad", "/help"]
    lines = LineEditor(source or sys.stdin, [*words, *models.names()])
    print(f"{conversation.name}. /help lists the commands.", file=sys.stderr)
    for prompt in suggestions(conversation.entry):
        print(f"  it knows things like: {prompt}", file=sys.stderr)
    Terminal(conversation, lines, out or sys.stdout, labels_url).run()


def suggestions(entry: Entry | None) -> list[str]:
    """Test prompts for a model of the starter world, which has never met any other words; none for other models."""
    if entry is None or not any(name.startswith("starter") for name in entry.manifest["data"]):
        return []
    return [item.prompt for item in take_items("test", 4, 0)]
