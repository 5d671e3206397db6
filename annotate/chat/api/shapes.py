"""How an answer looks in OpenAI's two protocols, whole and in pieces."""

from codecs import getincrementaldecoder
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from annotate.chat.api.protocol import finish_reason
from rlhf.serving.completions import Answer, Piece, TokenInfo, text_of


@dataclass(frozen=True)
class Echo:
    """A prompt that stands in front of its answer: its text, and its tokens where their probabilities are asked for."""

    text: str = ""
    first: bytes | None = None  # the first token; nothing is before it, so it has no probability
    tokens: tuple[TokenInfo, ...] = ()
    num_tokens: int = 0  # counted where no answer counts them


REST = frozenset(bytes([byte]) for byte in range(0x80, 0xC0))  # a character's second byte and later ones


class Offsets:
    """Where each token of a choice begins in its text, the echo's first."""

    def __init__(self, echo: Echo) -> None:
        joined = (echo.first or b"") + b"".join(info.token for info in echo.tokens)
        # What the tokenizer puts before a text, a first token or a space, is no part of it.
        self.end = len(echo.text) - len(text_of(joined)) if joined else 0
        self.characters = getincrementaldecoder("utf-8")("replace")

    def next(self, token: bytes) -> int:
        """The place of the next token; of a part of a character that of the whole one."""
        is_cut = self.characters.getstate()[0] and token[:1] not in REST  # a character that is never finished
        place = self.end + bool(is_cut)
        self.end += len(self.characters.decode(token))
        return max(0, place)


class ChatShape:
    """chat.completion and its chunks."""

    kind, chunk_kind, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"

    def __init__(self, logprobs: bool, alternatives: int) -> None:
        self.logprobs, self.alternatives = logprobs, alternatives

    def whole(self, index: int, answer: Answer) -> dict[str, Any]:
        message = {"role": "assistant", "content": answer.text, "refusal": None}
        told = self._logprobs(answer.tokens) if self.logprobs else None
        reason = finish_reason(answer.reason)
        return {"index": index, "message": message, "logprobs": told, "finish_reason": reason}

    def begin(self, index: int) -> dict[str, Any]:
        return self._delta(index, {"role": "assistant", "content": ""})

    def piece(self, index: int, piece: Piece) -> dict[str, Any]:
        return self._delta(index, {"content": piece.text}, piece.tokens)

    def end(self, index: int, reason: str) -> dict[str, Any]:
        return self._delta(index, {}, reason=finish_reason(reason))

    def _delta(
        self, index: int, delta: dict[str, Any], tokens: Sequence[TokenInfo] = (), reason: str | None = None
    ) -> dict[str, Any]:
        told = self._logprobs(tokens) if self.logprobs and tokens else None
        return {"index": index, "delta": delta, "logprobs": told, "finish_reason": reason}

    def _logprobs(self, tokens: Sequence[TokenInfo]) -> dict[str, Any]:
        def one(token: bytes, logprob: float) -> dict[str, Any]:
            return {"token": text_of(token), "logprob": logprob, "bytes": list(token)}

        def full(info: TokenInfo) -> dict[str, Any]:
            likely = [one(*pair) for pair in info.alternatives[: self.alternatives]]
            return {**one(info.token, info.logprob), "top_logprobs": likely}

        return {"content": [full(info) for info in tokens], "refusal": None}


@dataclass
class TextShape:
    """text_completion, whose chunks look the same. alternatives: None for no probabilities."""

    alternatives: int | None
    echoes: list[Echo]  # by choice
    offsets: dict[int, Offsets] = field(default_factory=dict)  # by choice

    kind = chunk_kind = "text_completion"
    prefix = "cmpl"

    def whole(self, index: int, answer: Answer) -> dict[str, Any]:
        echo = self.echoes[index]
        told = self._logprobs(index, echo, answer.tokens)
        return self._choice(index, echo.text + answer.text, told, finish_reason(answer.reason))

    def begin(self, index: int) -> dict[str, Any]:
        echo = self.echoes[index]
        return self._choice(index, echo.text, self._logprobs(index, echo, ()))

    def piece(self, index: int, piece: Piece) -> dict[str, Any]:
        return self._choice(index, piece.text, self._logprobs(index, Echo(), piece.tokens))

    def end(self, index: int, reason: str) -> dict[str, Any]:
        return self._choice(index, "", None, finish_reason(reason))

    def _choice(
        self, index: int, text: str, logprobs: dict[str, Any] | None, reason: str | None = None
    ) -> dict[str, Any]:
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}

    def _logprobs(self, index: int, echo: Echo, tokens: Sequence[TokenInfo]) -> dict[str, Any] | None:
        if self.alternatives is None:
            return None
        infos = [*echo.tokens, *tokens]
        first = [] if echo.first is None else [echo.first]
        nothing = [None for _ in first]
        told = first + [info.token for info in infos]
        offsets = self.offsets.setdefault(index, Offsets(echo))
        likely = [_by_text(info, self.alternatives) for info in infos]
        return {
            "tokens": [text_of(token) for token in told],
            "token_logprobs": nothing + [info.logprob for info in infos],
            "top_logprobs": nothing + likely,
            "text_offset": [offsets.next(token) for token in told],
        }


def _by_text(info: TokenInfo, alternatives: int) -> dict[str, float]:
    """The likeliest tokens by their text; of two with the same text (parts of a character) the likelier."""
    likely: dict[str, float] = {}
    for token, logprob in info.alternatives[:alternatives]:
        likely.setdefault(text_of(token), logprob)
    return likely


Shape = ChatShape | TextShape
