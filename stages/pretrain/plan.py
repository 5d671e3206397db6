"""What a text's size decides: the vocabulary, how often the text is read, and how much dropout that takes."""

from dataclasses import replace
from typing import Any

from stages.pretrain.loop import Best
from stages.settings import PretrainSettings

STARTER: dict[str, Any] = {"vocab_size": 1024, "tokens": 2_600_000, "dropout": 0.0}
VOCABULARIES = (512, 1024, 2048, 4096, 8192)
BYTES_PER_TOKEN = 2.5  # about what such vocabularies reach
MOST_PASSES = 16
MOST_TOKENS = 5_200_000
EARLY = 0.8  # of the training: best weights from before it say that the text was read too often


def planned(settings: PretrainSettings, num_bytes: int | None) -> PretrainSettings:
    """The settings with all that was left open decided by the bytes to learn from; None: the starter corpus."""
    chosen = STARTER if num_bytes is None else by_size(num_bytes)
    left_open = {
        "vocab_size": not settings.vocab_size,
        "tokens": not settings.tokens,
        "dropout": settings.dropout is None,
    }
    return replace(settings, **{name: value for name, value in chosen.items() if left_open[name]})


def by_size(num_bytes: int) -> dict[str, Any]:
    """Vocabulary, tokens to read and dropout for a text of that size; docs/lab-log.md has what was tried."""
    tokens = num_bytes / BYTES_PER_TOKEN
    read = max(1000, min(MOST_PASSES * tokens, MOST_TOKENS))
    return {
        "vocab_size": min(VOCABULARIES, key=lambda size: abs(size - num_bytes**0.5)),
        "tokens": round(read),
        "dropout": 0.1 if read > 2 * tokens else 0.0,
    }


def account(settings: PretrainSettings, vocab_size: int, num_tokens: int, num_held_out: int) -> str:
    """One line about what will be done, before it takes minutes."""
    return (
        f"{num_tokens:,} tokens to learn from, {num_held_out:,} held out, vocabulary {vocab_size:,}; "
        f"{settings.tokens:,} are read, {times(settings.tokens, num_tokens)}, dropout {settings.dropout:g}"
    )


def outcome(measured: dict[str, float], best: Best) -> str:
    """One line about the weights that are kept, with what to do where the best ones came early."""
    line = (
        f"{measured['loss']:.3f} nats a token, {measured['bits_per_byte']:.3f} bits a byte on held-out text"
    )
    if best.share < EARLY:
        line += (
            f"; best after {best.share:.0%} of the training, worse since then: "
            f"these weights are kept (less --tokens, more --dropout or more text would use the rest)"
        )
    return line


def times(num_read: int, num_tokens: int) -> str:
    """How often a text is read."""
    passes = num_read / num_tokens
    return f"{passes:.1f} times each" if passes >= 1 else f"{passes:.0%} of the text"
