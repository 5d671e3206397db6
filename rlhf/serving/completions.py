"""What is asked of a serving engine and what it says: plain data that crosses process borders; imports no torch."""

from dataclasses import dataclass, field
from typing import Any

from rlhf.data import Message
from rlhf.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Request:
    """One answer wanted: a conversation, how to sample, and where to stop.

    owner: the account that asks, between accounts the engine is fair. drop_oldest: forget the oldest turns of a
    conversation that does not fit, instead of refusing it. alternatives: how many of the most probable tokens to
    report beside each token (0: not even the token's own probability). timeout_s counts from the first token's turn.
    """

    messages: tuple[Message, ...]
    max_new_tokens: int = 128
    temperature: float = 0.7
    top_k: int = 0
    top_p: float = 0.95
    repetition_penalty: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    timeout_s: float = 300.0
    drop_oldest: bool = False
    alternatives: int = 0
    owner: str = ""

    def __post_init__(self) -> None:
        """Raises InputError naming the parameter that is out of range and the range."""
        ranges: dict[str, tuple[float, float, str]] = {
            "max_new_tokens": (1, 1 << 20, "at least 1"),
            "temperature": (0, 2, "between 0 (greedy) and 2"),
            "top_k": (0, 1 << 31, "0 (off) or more"),
            "top_p": (1e-9, 1, "above 0 and at most 1"),
            "repetition_penalty": (0.1, 10, "between 0.1 and 10; 1 is off"),
            "seed": (0, (1 << 64) - 1, "between 0 and 2^64 − 1"),
            "alternatives": (0, 20, "between 0 and 20"),
        }
        for name, (low, high, words) in ranges.items():
            if not low <= getattr(self, name) <= high:
                raise InputError(f"{name} is {getattr(self, name)}; give a number {words}")
        if not self.messages:
            raise InputError("messages is empty; give at least one")
        for number, message in enumerate(self.messages, start=1):
            if message.get("role") not in ("system", "user", "assistant"):
                raise InputError(
                    f"message {number}: role is {message.get('role')!r}; it is system, user or assistant"
                )
            if not isinstance(message.get("content"), str):
                raise InputError(f"message {number}: content is not text")
        if len(self.stop) > 4 or not all(self.stop):
            raise InputError("stop takes up to 4 texts, none of them empty")


@dataclass(frozen=True)
class TokenInfo:
    """One token as the model saw it: its text, its natural log-probability, and the likeliest tokens with theirs."""

    text: str
    logprob: float
    alternatives: tuple[tuple[str, float], ...]


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
    """There will be no (more) answer; kind: input (the request's fault), busy (the line is full) or engine."""

    error: str
    kind: str = "engine"


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
