"""What is asked of a serving engine and what it says: plain data that crosses process borders; imports no torch."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from rlhf.data import ROLES, Message
from rlhf.errors import InputError
from rlhf.settings import COLDEST

RANGES: dict[str, tuple[float, float, str]] = {
    "max_new_tokens": (1, 1 << 20, "at least 1 and at most 1048576"),
    "temperature": (0, 2, "between 0 (greedy) and 2"),
    "top_k": (0, 1 << 31, "0 (off) or more"),
    "top_p": (1e-9, 1, "above 0 and at most 1"),
    "min_p": (0, 1, "between 0 (off) and 1"),
    "repetition_penalty": (0.1, 10, "between 0.1 and 10; 1 is off"),
    "presence_penalty": (-2, 2, "between -2 and 2; 0 is off"),
    "frequency_penalty": (-2, 2, "between -2 and 2; 0 is off"),
    "seed": (0, (1 << 64) - 1, "between 0 and 2^64 − 1"),
    "alternatives": (0, 20, "between 0 and 20"),
}


@dataclass(frozen=True, kw_only=True)
class Request:
    """One answer wanted: a conversation, how to sample, and where to stop.

    prompt: a text or token ids that are read as they are, instead of messages. continue_last: the last message is the
    beginning of the answer. max_new_tokens: None lets the answer end where the model ends it or the context does.
    presence_penalty, frequency_penalty: taken from a token's logit once it has been said, and for each time it has;
    logit_bias: added to a token's logit; min_p: draw no token less probable than this share of the likeliest one.
    json_schema: the answer is JSON that follows this schema (JSON too), unless it is cut.
    owner: the account that asks, between accounts the engine is fair. drop_oldest: forget the oldest turns of a
    conversation that does not fit, instead of refusing it. alternatives: how many of the most probable tokens to
    report beside each token (0: not even the token's own probability). timeout_s: of writing; time in line and reading do not count.
    """

    messages: tuple[Message, ...] = ()
    prompt: str | tuple[int, ...] | None = None
    continue_last: bool = False
    max_new_tokens: int | None = None
    temperature: float = 0.7
    top_k: int = 0
    top_p: float = 0.95
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = field(default_factory=dict)
    json_schema: str | None = None
    seed: int = 0
    stop: tuple[str, ...] = ()
    timeout_s: float = 300.0
    drop_oldest: bool = False
    alternatives: int = 0
    owner: str = ""

    def __post_init__(self) -> None:
        """Raises InputError naming the parameter that is out of range and the range."""
        for name, (low, high, words) in RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise InputError(f"{name} is {value}; give a number {words}", param=name)
        if 0 < self.temperature < COLDEST:
            raise InputError(
                f"temperature is {self.temperature}; give 0 (greedy), or a number from {COLDEST} on",
                param="temperature",
            )
        if any(not -100 <= bias <= 100 for bias in self.logit_bias.values()):
            raise InputError("logit_bias has a number outside -100 to 100", param="logit_bias")
        if len(self.stop) > 4 or not all(self.stop):
            raise InputError("stop takes up to 4 texts, none of them empty", param="stop")
        if self.prompt is None:
            if not self.messages:
                raise InputError("messages is empty; give at least one", param="prompt")
            check_messages(self.messages)
            if self.continue_last and self.messages[-1]["role"] != "assistant":
                raise InputError(
                    "continue_final_message: the last message is not the assistant's",
                    param="continue_final_message",
                )


def check_messages(messages: Iterable[Message]) -> None:
    """Raises InputError for a message without a known role or without a text."""
    for number, message in enumerate(messages, start=1):
        if message.get("role") not in ROLES:
            raise InputError(
                f"message {number}: role is {message.get('role')!r}; it is system, user or assistant",
                param="prompt",
            )
        if not isinstance(message.get("content"), str):
            raise InputError(f"message {number}: content is not text", param="prompt")


def text_of(token: bytes) -> str:
    """A token to show; a part of a character is U+FFFD."""
    return token.decode(errors="replace")


@dataclass(frozen=True)
class TokenInfo:
    """One token as the model saw it: its bytes, its natural log-probability, and the likeliest tokens with theirs.

    Bytes, since a token may be a part of a character.
    """

    token: bytes
    logprob: float
    alternatives: tuple[tuple[bytes, float], ...]

    @property
    def text(self) -> str:
        """U+FFFD where it is a part of a character."""
        return text_of(self.token)


@dataclass(frozen=True)
class Queued:
    """The request waits; place 1 is the next to be let in."""

    place: int


@dataclass(frozen=True)
class Started:
    """The request has a slot; `dropped` of its oldest messages were left out."""

    prompt_tokens: int
    dropped: int


@dataclass(frozen=True)
class Piece:
    """More of the answer: whole characters only, and what is known of the tokens that came with it."""

    text: str
    tokens: tuple[TokenInfo, ...] = ()


@dataclass(frozen=True)
class Done:
    """The end of an answer. reason: stop, length, time, cancelled."""

    reason: str
    completion_tokens: int


@dataclass(frozen=True)
class Failed:
    """There will be no (more) answer; kind: input (the request's fault), busy (the line is full), closed or engine.

    param, code: of the request's fault, see InputError.
    """

    error: str
    kind: str = "engine"
    param: str = ""
    code: str = ""

    @classmethod
    def of_request(cls, error: InputError) -> "Failed":
        """A request's fault; without a parameter it is that of the text that was to be read."""
        return cls(str(error), "input", error.param or "prompt", error.code)


@dataclass(frozen=True)
class Result:
    """What a call that is no answer gave: a score, an explanation, a status."""

    value: Any


Event = Queued | Started | Piece | Done | Failed | Result


@dataclass(frozen=True)
class Explanation:
    """An answer as a model sees it, and how far that is from a reference.

    ref_logprobs: the reference's log-probability of each token. kl: KL(model ‖ reference) of the whole distribution
    each token was drawn from, in nats, at temperature 1. Both are None without a reference of the same vocabulary.
    """

    tokens: tuple[TokenInfo, ...]
    ref_logprobs: tuple[float, ...] | None = None
    kl: tuple[float, ...] | None = None


@dataclass
class Answer:
    """A finished answer, put together from its events."""

    text: str = ""
    tokens: list[TokenInfo] = field(default_factory=list)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    dropped: int = 0
    reason: str = ""

    def add(self, event: Any) -> None:
        """Take one event in; a failure leaves no trace here."""
        if isinstance(event, Started):
            self.prompt_tokens, self.dropped = event.prompt_tokens, event.dropped
        elif isinstance(event, Piece):
            self.text += event.text
            self.tokens += event.tokens
        elif isinstance(event, Done):
            self.reason, self.completion_tokens = event.reason, event.completion_tokens
