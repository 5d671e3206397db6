"""What a model makes of a text that is given: the probability of each of its tokens."""

from collections.abc import Generator, Iterator
from itertools import pairwise

import torch
from torch import Tensor

from rlhf.models.tokenizer import AnyTokenizer
from rlhf.serving.completions import TokenInfo
from rlhf.serving.engine import Engine
from rlhf.serving.prompts import check_length

CHUNK = 256  # tokens read between two steps of the answers under way


def score_text(
    engine: Engine, tokens: list[int], alternatives: int
) -> Generator[None, None, tuple[bytes, tuple[TokenInfo, ...]]]:
    """The first token's bytes, and each later token as the model sees it behind those before it, at temperature 1.

    A generator that pauses between chunks and returns the tokens. Raises InputError for a text longer than the
    model's context.
    """
    check_length(tokens, engine.context, room=0)
    infos: list[TokenInfo] = []
    for logprobs in logprobs_after(engine, tokens[:-1]):
        after = tokens[len(infos) + 1 : len(infos) + 1 + len(logprobs)]
        infos += token_infos(engine.tokenizer, after, logprobs, alternatives)
        yield
    return engine.tokenizer.token_bytes(tokens[0]), tuple(infos)


def logprobs_after(engine: Engine, tokens: list[int], given: int = 0) -> Iterator[Tensor]:
    """Log-probabilities (T, V), float32 on the CPU, of what follows each token, for one chunk after another.

    given: so many tokens are read only; their chunks have no rows.
    """
    starts = [*range(0, given, CHUNK), *range(given, len(tokens), CHUNK)]
    try:
        for first, last in pairwise([*starts, len(tokens)]):
            with torch.inference_mode():
                if first < given:
                    logits = engine.decoder.read([engine.scored], [tokens[first:last]])[:0]
                else:
                    logits = engine.decoder.read_each(engine.scored, tokens[first:last])
                logprobs = logits[:, : engine.num_tokens].log_softmax(-1).cpu()
            yield logprobs
    finally:
        engine.decoder.forget(engine.scored)


def token_infos(
    tokenizer: AnyTokenizer, tokens: list[int], logprobs: Tensor, alternatives: int
) -> tuple[TokenInfo, ...]:
    """Tokens with their own and the likeliest log-probabilities; logprobs (T, V), a row for each token's place."""
    best = logprobs.topk(min(alternatives, logprobs.shape[1]))
    own = logprobs.gather(1, torch.tensor(tokens)[:, None]).squeeze(1)
    rows = zip(tokens, own.tolist(), best.indices.tolist(), best.values.tolist(), strict=True)
    return tuple(
        TokenInfo(
            tokenizer.token_bytes(token),
            value,
            tuple((tokenizer.token_bytes(i), each) for i, each in zip(ids, values, strict=True)),
        )
        for token, value, ids, values in rows
    )
