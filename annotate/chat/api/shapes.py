"""How an answer looks in OpenAI's two protocols, whole and in pieces."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from annotate.chat.api.protocol import finish_reason
from rlhf.serving.completions import Answer, Piece, TokenInfo


@dataclass(frozen=True)
class Echo:
    """A prompt that stands in front of its answer: its text, and its tokens where their probabilities are asked for."""

    text: str = ""
    first: str = ""  # the first token's text; nothing is before it, so it has no probability
    tokens: tuple[TokenInfo, ...] = ()


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
        def one(text: str, logprob: float) -> dict[str, Any]:
            return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

        def full(info: TokenInfo) -> dict[str, Any]:
            likely = [one(*pair) for pair in info.alternatives[: self.alternatives]]
            return {**one(info.text, info.logprob), "top_logprobs": likely}

        return {"content": [full(info) for info in tokens], "refusal": None}


@dataclass
class TextShape:
    """text_completion, whose chunks look the same. alternatives: None for no probabilities."""

    alternatives: int | None
    echoes: list[Echo]  # by choice
    offsets: dict[int, int] = field(default_factory=dict)  # characters said, by choice

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
        texts = ([echo.first] if echo.first else []) + [info.text for info in infos]
        nothing = [None] if echo.first else []
        offsets = []
        for text in texts:
            offsets.append(self.offsets.get(index, 0))
            self.offsets[index] = offsets[-1] + len(text)
        likely = [_by_text(info, self.alternatives) for info in infos]
        return {
            "tokens": texts,
            "token_logprobs": nothing + [info.logprob for info in infos],
            "top_logprobs": nothing + likely,
            "text_offset": offsets,
        }


def _by_text(info: TokenInfo, alternatives: int) -> dict[str, float]:
    """The likeliest tokens by their text; of two with the same text (parts of a character) the likelier."""
    likely: dict[str, float] = {}
    for text, logprob in info.alternatives[:alternatives]:
        likely.setdefault(text, logprob)
    return likely


Shape = ChatShape | TextShape
