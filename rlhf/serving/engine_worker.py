"""The engine process: takes commands from a pipe, lets every model's engine make a step, sends back what they say.

Commands are ("submit", key, folder, Request, follows), ("cancel", key) and ("call", key, name, arguments). torch is imported
by the process itself, so that the one that starts it needs none.
"""

import os
import signal
import sys
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rlhf.data import Message, Prompt
from rlhf.errors import EngineError, InputError, is_panic
from rlhf.serving.completions import Event, Failed, Result, text_of
from rlhf.serving.telling import Teller

MAX_MODELS = 4  # in memory at a time


def work(
    connection: Any,
    progress: Any,
    max_rows: int,
    max_waiting: int,
    precision: str,
    template_kwargs: Mapping[str, str],
) -> None:
    """Serve until the other side of the pipe is gone.

    progress: two numbers shared with that side, which outlive this process: the keys of the command that was begun last
    and of the one done last.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which closes the pipe
    # The web process needs a core now and then: threads that spin while they wait for each other would starve it.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    models = Models(max_rows, max_waiting, precision, template_kwargs)
    teller = Teller(connection.send)
    teller.tell()  # that it is there
    try:
        while True:
            if not models.busy:
                models.watch.last = None  # waiting for work is no slow step
                teller.tell_all()
            while connection.poll(0 if models.busy else None):
                command = connection.recv()
                if command[0] != "cancel":
                    progress[0] = int(command[1])
                models.handle(command)
                progress[1] = progress[0]
            teller.take(models.step())
    except (EOFError, OSError):
        return


def _failed(error: BaseException) -> Failed:
    """What the one who asked is told; an error that nobody expects leaves its traceback on stderr.

    Raises again what ends the process: no Exception, and no panic of native code, behind which Python is sound.
    """
    if not isinstance(error, Exception) and not is_panic(error):
        raise error
    if isinstance(error, InputError):
        return Failed.of_request(error)
    if isinstance(error, EngineError):
        print(f"error: {error}", file=sys.stderr, flush=True)
        return Failed(str(error))
    traceback.print_exception(error)
    return Failed(f"{type(error).__name__}: {error}")


@contextmanager
def _not_the_requests_fault() -> Iterator[None]:
    """What is wrong with a checkpoint is wrong here, whoever asks for it."""
    try:
        yield
    except InputError as error:
        raise EngineError(str(error)) from None


class Models:
    """The engines of the models in use; the one not used for longest goes when there are too many."""

    def __init__(
        self,
        max_rows: int,
        max_waiting: int,
        precision: str,
        template_kwargs: Mapping[str, str],
    ) -> None:
        from rlhf.machine.devices import best_device, set_threads
        from rlhf.machine.threads import ThreadWatch

        set_threads(0)
        self.watch = ThreadWatch()
        self.precision, self.template_kwargs = precision, template_kwargs
        self.device = best_device()
        self.max_rows, self.max_waiting = max_rows, max_waiting
        self.engines: dict[str, Any] = {}  # by folder, the latest used last
        self.scorers: dict[str, Any] = {}
        self.owners: dict[str, str] = {}  # request → folder
        self.events: list[tuple[str, Event]] = []
        self.texts: dict[str, Generator[None, None, Any]] = {}  # texts that are scored, by who asked
        self.calls: dict[str, Callable[..., Any]] = {
            "score": self.score,
            "explain": self.explain,
            "tokenize": self.tokenize,
            "detokenize": self.detokenize,
            "count_tokens": self.count_tokens,
            "score_text": self.score_text,
        }

    @property
    def busy(self) -> bool:
        return bool(self.events or self.texts) or any(
            engine.num_requests or engine.events for engine in self.engines.values()
        )

    def handle(self, command: tuple[Any, ...]) -> None:
        """Carry out one command; a failure is told to whoever asked."""
        name, key, *arguments = command
        if name == "cancel":
            self.texts.pop(key, None)
            folder = self.owners.get(key)
            if folder in self.engines:
                self.engines[folder].cancel(key)
            return
        try:
            if name == "submit":
                folder, request, follows = arguments
                self.engine(folder).submit(key, request, follows)
                self.owners[key] = folder
            else:
                function, values = arguments
                result = self.calls[function](*values)
                if isinstance(result, Generator):
                    self.texts[key] = result
                else:
                    self.events.append((key, Result(result)))
        except BaseException as error:
            self.events.append((key, _failed(error)))

    def _read_a_text(self) -> None:
        """Go on with the text that has waited longest; the answers under way are held up by one piece of it."""
        key, text = next(iter(self.texts.items()))
        try:
            next(text)
            return
        except StopIteration as ended:
            self.events.append((key, Result(ended.value)))
        except BaseException as error:
            self.events.append((key, _failed(error)))
        del self.texts[key]

    def step(self) -> list[tuple[str, Event]]:
        """A token for every answer under way, whatever the model; returns what there is to tell."""
        if self.texts:
            self._read_a_text()
        events: list[tuple[str, Event]] = []
        for folder, engine in list(self.engines.items()):
            if not (engine.num_requests or engine.events):
                continue
            try:
                events += engine.step()
                self.watch.step()
            except BaseException as error:  # out of memory, most likely: the other models go on
                del self.engines[folder]
                failed = _failed(error)
                events += [(key, failed) for key, owner in self.owners.items() if owner == folder]
        events += self.events
        self.events = []
        for key, event in events:
            if hasattr(event, "reason") or isinstance(event, Failed):
                self.owners.pop(key, None)
        return events

    def engine(self, folder: str) -> Any:
        """The folder's engine, loaded where needed. Raises EngineError where there is no model that can be loaded."""
        from rlhf.machine.memory import give_back_freed_memory
        from rlhf.models.checkpoints import load_policy
        from rlhf.models.tokenizer import load_tokenizer
        from rlhf.serving.engine import Engine
        from rlhf.serving.precision import cast

        found = self.engines.pop(folder, None)
        if found is None:
            self._make_room()
            print(f"loading {folder}", file=sys.stderr, flush=True)
            with _not_the_requests_fault():
                model, packed = cast(load_policy(folder).to(self.device), self.precision)
                tokenizer = load_tokenizer(folder, self.template_kwargs.get(folder, ""))
                found = Engine(model, tokenizer, self.max_rows, self.max_waiting, packed)
            del model  # whose weights a decoder may hold in another order or format
            give_back_freed_memory()
        self.engines[folder] = found
        return found

    def _make_room(self) -> None:
        idle = [
            folder for folder, engine in self.engines.items() if not (engine.num_requests or engine.events)
        ]
        for folder in idle[: max(0, len(self.engines) + 1 - MAX_MODELS)]:
            del self.engines[folder]

    def score(self, folder: str, rows: Sequence[tuple[Prompt, str]]) -> list[float]:
        """The reward that the reward model in `folder` gives each (prompt, answer)."""
        from rlhf.learning.rewards import score_completions
        from rlhf.models.checkpoints import load_scalar
        from rlhf.models.tokenizer import load_tokenizer

        if folder not in self.scorers:
            with _not_the_requests_fault():
                self.scorers = {folder: (load_scalar(folder).to(self.device), load_tokenizer(folder))}
        model, tokenizer = self.scorers[folder]
        return score_completions(model, tokenizer, rows)

    def tokenize(
        self, folder: str, prompt: str | Sequence[Message]
    ) -> tuple[list[int], list[str], int | None]:
        """The tokens of a text or of a conversation, the text of each, and the model's context."""
        from rlhf.serving.prompts import encode_text

        engine = self.engine(folder)
        tokenizer = engine.tokenizer
        if isinstance(prompt, str):
            tokens = encode_text(tokenizer, prompt)
        else:
            tokens = tokenizer.encode_prompt(list(prompt))
        return tokens, [text_of(tokenizer.token_bytes(token)) for token in tokens], engine.context

    def count_tokens(self, folder: str, prompt: str | tuple[int, ...]) -> int:
        """How many tokens the model reads of a prompt without a chat."""
        from rlhf.serving.prompts import given_tokens

        engine = self.engine(folder)
        return len(given_tokens(engine.tokenizer, engine.num_tokens, prompt))

    def detokenize(self, folder: str, tokens: Sequence[int]) -> str:
        """The text of tokens, special ones too."""
        from rlhf.serving.prompts import given_tokens

        engine = self.engine(folder)
        known = given_tokens(engine.tokenizer, engine.num_tokens, tuple(tokens))
        return str(engine.tokenizer.decode(known, keep_special=True))

    def score_text(self, folder: str, prompt: str | tuple[int, ...], alternatives: int) -> Any:
        """The first token's bytes, and each later token of a text with its probability."""
        from rlhf.serving.prompts import given_tokens
        from rlhf.serving.scoring import score_text

        engine = self.engine(folder)
        return score_text(engine, given_tokens(engine.tokenizer, engine.num_tokens, prompt), alternatives)

    def explain(self, folder: str, reference: str | None, prompt: Prompt, answer: str, ended: bool) -> Any:
        """What the model in `folder` makes of an answer, beside the one in `reference`."""
        from rlhf.serving.explain import explain

        beside = self.engine(reference) if reference else None
        return explain(self.engine(folder), beside, prompt, answer, ended)
