"""A conversation with checkpoints: what was said, how answers are drawn, and how fast the last one came."""

import dataclasses
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from rlhf.data import Message
from rlhf.errors import InputError
from rlhf.inputs import locate_model
from rlhf.machine.devices import best_device
from rlhf.models.checkpoints import load_policy
from rlhf.models.offload import load_offloaded
from rlhf.models.tokenizer import load_tokenizer
from rlhf.serving.completions import Done, Failed, Piece, Request, Started
from rlhf.serving.engine import Engine
from rlhf.serving.precision import cast
from rlhf.store import Entry, Store
from stages.talking_settings import ChatSettings

SAMPLING: dict[str, type] = {
    "temperature": float, "top_p": float, "top_k": int, "min_p": float, "repetition_penalty": float,
    "max_new_tokens": int, "seed": int,
}  # fmt: skip


class Models:
    """The checkpoints of a store, each loaded when first talked to."""

    def __init__(
        self,
        store: Store,
        precision: str,
        offload: bool = False,
        template_kwargs: Mapping[str, str] | None = None,
    ) -> None:
        """template_kwargs: what the chat templates of checkpoints are given, by name."""
        self.store, self.precision, self.offload = store, precision, offload
        self.template_kwargs = dict(template_kwargs or {})
        self.engines: dict[str, Engine] = {}

    def engine(self, name: str) -> tuple[str, Engine, Entry | None]:
        """A checkpoint's full name, its engine and its entry. Raises StoreError or InputError."""
        folder, entry = locate_model(self.store, name)
        if folder not in self.engines:
            policy, packed = self._loaded(folder)
            tokenizer = load_tokenizer(folder, self.template_kwargs.get(name, ""))
            self.engines[folder] = Engine(policy, tokenizer, max_rows=1, packed=packed)
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
        """What can be talked to; damaged entries are said and left out."""
        entries = self.store.entries(damaged=lambda error: print(f"left out: {error}", file=sys.stderr))
        return [entry.ref for entry in entries if entry.stage != "reward"]


class Said:
    """The last answer: what it was given, how it was drawn, and when its tokens came."""

    def __init__(self, prompt: list[Message], checkpoint: str, sampling: dict[str, Any]) -> None:
        self.prompt, self.checkpoint, self.sampling = prompt, checkpoint, sampling
        self.text, self.ended = "", False
        self.prompt_tokens = self.num_tokens = 0
        self.begun_at, self.first_s, self.whole_s = time.monotonic(), 0.0, 0.0

    def timings(self) -> str:
        """One line: tokens read and written, and how fast."""
        writing_s = self.whole_s - self.first_s
        speed = (
            f", then {(self.num_tokens - 1) / writing_s:.1f} tokens/s"
            if writing_s and self.num_tokens > 1
            else ""
        )
        return (
            f"({self.prompt_tokens} tokens read, {self.num_tokens} written; "
            f"{self.first_s:.2f} s to the first{speed})"
        )


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

    def set(self, name: str, value: str) -> None:
        """Change how answers are drawn from now on; `none` takes a limit away. Raises InputError."""
        if name not in SAMPLING:
            raise InputError(f"{name}: no such setting; there are {', '.join(SAMPLING)}")
        try:
            given = None if value == "none" else SAMPLING[name](value)
        except ValueError:
            raise InputError(f"{name} is {value!r}; give a number") from None
        if given is None and name != "max_new_tokens":
            raise InputError(f"{name} needs a number")
        changed: Any = {name: given}
        self.settings = dataclasses.replace(self.settings, **changed)

    def load(self, messages: list[Message]) -> None:
        """Go on with an earlier conversation; a system text stands in front of it."""
        first = 1 if messages and messages[0]["role"] == "system" else 0
        self.system = messages[0]["content"] if first else ""
        self.messages, self.last = messages[first:], None

    def prompt(self) -> list[Message]:
        system: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        return system + self.messages

    def answer(
        self, told: Callable[[str], None], model: str | None = None, prompt: list[Message] | None = None
    ) -> Iterator[str]:
        """Pieces of an answer by the conversation's checkpoint or `model`; `last` holds what was given.

        told: hears of turns that did not fit. prompt: what to answer in place of the conversation so far. Raises
        InputError for a prompt that cannot be answered.
        """
        name, engine, _ = self.models.engine(model or self.name)
        self.turns += 1
        sampling = {name: getattr(self.settings, name) for name in SAMPLING}
        sampling["seed"] += self.turns
        prompt = self.prompt() if prompt is None else prompt
        request = Request(messages=tuple(prompt), drop_oldest=True, **sampling)
        self.last = said = Said(prompt, name, sampling)
        for event in engine.stream(request):
            if isinstance(event, Failed):
                raise InputError(event.error)
            if isinstance(event, Started):
                said.prompt_tokens = event.prompt_tokens
            if isinstance(event, Started) and event.dropped:
                first = 1 if prompt[0]["role"] == "system" else 0
                said.prompt = prompt[:first] + prompt[first + event.dropped :]
                told(f"(the context is full: the {event.dropped} oldest messages were left out)")
            elif isinstance(event, Piece):
                said.first_s = said.first_s or time.monotonic() - said.begun_at
                said.text += event.text
                yield event.text
            elif isinstance(event, Done):
                said.ended, said.num_tokens = event.reason == "stop", event.completion_tokens
                said.whole_s = time.monotonic() - said.begun_at
