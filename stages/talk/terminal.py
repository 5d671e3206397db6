"""Talk to checkpoints in the terminal: answers stream, Ctrl-C stops an answer and not the program.

What is said about an answer (/good, /bad, /edit, /compare) goes into the label store, as on the chat page.
"""

import sys
from collections.abc import Callable, Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import TextIO

from rlhf.data import Message
from rlhf.errors import InputError, RLHFError
from rlhf.machine.devices import set_threads
from rlhf.starter.items import take_items
from rlhf.store import Entry, Store
from stages.talk.conversation import SAMPLING, Conversation, Models
from stages.talk.feedback import Feedback
from stages.talk.line_editor import LineEditor
from stages.talk.saved import load, save
from stages.talking_settings import ChatSettings

HELP = """\
\"\"\"              begins and ends a text of several lines
/model [NAME]    talk to another checkpoint; without a name: which there are
/system [TEXT]   instructions in front of the conversation; without text: none
/set [NAME VALUE]  how answers are drawn, such as temperature 0.3; max_new_tokens none: until they end
/regenerate      answer the last question once more, in place of the last answer
/compare [NAME]  answer the last question once more, by NAME or with another seed, and choose the better answer
/good, /bad      say what you think of the last answer
/edit [TEXT]     write the last answer better: it becomes a demonstration
/show            the conversation so far
/timings         tell after each answer how fast it came, or stop telling
/save [FILE]     append the conversation to a JSONL file (chat.jsonl)
/load [FILE]     go on with the last conversation of such a file
/reset           forget the conversation
/quit            end; Ctrl-C stops an answer, Ctrl-D ends too"""


class Terminal:
    """Reads lines, and answers them or carries them out."""

    def __init__(self, conversation: Conversation, lines: LineEditor, out: TextIO, labels_url: str) -> None:
        self.conversation, self.lines, self.out = conversation, lines, out
        self.timed = False
        self.feedback = Feedback(conversation, lines, self.say, self.note, labels_url)

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
        line = self.lines.read_text("> ")
        if line is None:
            return False
        text = line.strip()
        if text.startswith("/") and "\n" not in text:
            return self.command(text)
        if text:
            self.ask(text)
        return True

    def ask(self, text: str) -> None:
        before = list(self.conversation.messages)
        self.conversation.messages.append({"role": "user", "content": text})
        self.answer(before)

    def regenerate(self, _: str) -> None:
        """Answer the last question once more, in place of the last answer."""
        messages = self.conversation.messages
        if not messages or messages[-1]["role"] != "assistant":
            raise InputError("there is no answer yet")
        before = list(messages)
        messages.pop()
        self.answer(before)

    def answer(self, before: list[Message]) -> None:
        """Answer the last message; where that fails the conversation is what it was before."""
        conversation, last = self.conversation, self.conversation.last
        try:
            self.stream(conversation.answer(self.note))
        except RLHFError:
            conversation.messages, conversation.last = before, last
            raise
        finally:
            said, messages = conversation.last, conversation.messages
            if said is not None and said is not last and messages[-1]["role"] == "user":
                messages.append({"role": "assistant", "content": said.text.strip()})
        if self.timed and conversation.last:
            self.note(conversation.last.timings())

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
        feedback = self.feedback
        commands: dict[str, Callable[[str], None]] = {
            "/model": self.model, "/system": self.system, "/set": self.set, "/show": self.show,
            "/regenerate": self.regenerate, "/timings": self.timings, "/reset": self.reset,
            "/save": self.save, "/load": self.load, "/compare": feedback.compare, "/edit": feedback.edit,
            "/good": lambda _: feedback.thumb(True), "/bad": lambda _: feedback.thumb(False),
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

    def set(self, argument: str) -> None:
        name, _, value = argument.partition(" ")
        if value:
            self.conversation.set(name, value.strip())
        elif name:
            raise InputError(f"/set {name} VALUE")
        settings = self.conversation.settings
        self.say(f"({', '.join(f'{each} {getattr(settings, each)}' for each in SAMPLING)})".lower())

    def show(self, _: str) -> None:
        """The conversation so far."""
        for message in self.conversation.prompt():
            self.say(f"{message['role']}: {message['content']}")

    def timings(self, _: str) -> None:
        self.timed = not self.timed
        self.say("(timings follow each answer)" if self.timed else "(no timings)")

    def save(self, argument: str) -> None:
        path = Path(argument or "chat.jsonl")
        save(path, self.conversation.prompt())
        self.say(f"(saved to {path})")

    def load(self, argument: str) -> None:
        path = Path(argument or "chat.jsonl")
        self.conversation.load(load(path))
        self.say(f"({len(self.conversation.messages)} messages of {path})")


def run(
    settings: ChatSettings,
    store: Store,
    labels_url: str,
    source: TextIO | None = None,
    out: TextIO | None = None,
) -> None:
    """Read lines from `source` (default stdin) and answer on `out` (default stdout) until /quit or the end."""
    set_threads(0)
    # What is no text, or no letter of this terminal, ends no conversation.
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    given = {settings.policy: settings.template_kwargs}
    models = Models(store, settings.precision, settings.offload, given)
    conversation = Conversation(settings, models)
    words = [line.split()[0].rstrip(",") for line in HELP.splitlines()[1:]] + ["/bad", "/help", *SAMPLING]
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
