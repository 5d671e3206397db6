"""What a model makes of an answer, token by token, and how far it has moved from its reference."""

from collections.abc import Generator

import torch
from torch import Tensor

from rlhf.data import Prompt
from rlhf.errors import InputError
from rlhf.models.tokenizer import same_tokens
from rlhf.serving.completions import Explanation
from rlhf.serving.engine import Engine
from rlhf.serving.prompts import TOO_LONG
from rlhf.serving.scoring import logprobs_after, token_infos


def explain(
    engine: Engine, reference: Engine | None, prompt: Prompt, answer: str, ended: bool, alternatives: int = 5
) -> Generator[None, None, Explanation]:
    """Probabilities, alternatives and KL of every token of `answer` at temperature 1, its end included where it `ended`.

    A generator that pauses between chunks and returns the explanation. The answer is tokenized anew, which may cut it
    otherwise than sampling did. Raises InputError where prompt and answer do not fit the model's context.
    """
    tokenizer = engine.tokenizer
    before, tokens = tokenizer.encode_prompt(prompt), tokenizer.encode_completion(answer, prompt)
    if not ended:  # the end token was never drawn
        tokens = [token for token in tokens if token not in tokenizer.stop_ids]
    if not tokens:
        return Explanation(())
    if engine.context and len(before) + len(tokens) > engine.context + 1:
        raise InputError(
            f"conversation and answer have {len(before) + len(tokens)} tokens, the model's context is {engine.context}",
            code=TOO_LONG,
        )
    logprobs = yield from _logprobs(engine, before, tokens)  # (T, V)
    infos = token_infos(tokenizer, tokens, logprobs, alternatives)
    if reference is None or not same_tokens(reference.tokenizer, tokenizer):
        return Explanation(infos)
    ref_logprobs = yield from _logprobs(reference, before, tokens)
    kl = (logprobs.exp() * (logprobs - ref_logprobs)).sum(1)
    picked = ref_logprobs.gather(1, torch.tensor(tokens)[:, None]).squeeze(1)
    return Explanation(infos, tuple(picked.tolist()), tuple(kl.tolist()))


def _logprobs(engine: Engine, before: list[int], tokens: list[int]) -> Generator[None, None, Tensor]:
    """Log-probabilities (T, V) of what may stand at each place of the answer."""
    chunks: list[Tensor] = []
    for logprobs in logprobs_after(engine, (before + tokens)[:-1], len(before) - 1):
        chunks.append(logprobs)
        yield
    return torch.cat(chunks)
