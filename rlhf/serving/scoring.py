"""What a model makes of a text that is given: the probability of each of its tokens."""

from collections.abc import Generator
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from rlhf.errors import InputError
from rlhf.models.tokenizer import AnyTokenizer
from rlhf.serving.completions import TokenInfo
from rlhf.serving.explain import token_infos

CHUNK = 256  # tokens read between two steps of the answers under way


def score_text(
    model: PreTrainedModel, tokenizer: AnyTokenizer, tokens: list[int], alternatives: int
) -> Generator[None, None, tuple[str, tuple[TokenInfo, ...]]]:
    """The first token's text, and each later token as the model sees it behind those before it, at temperature 1.

    A generator that pauses between chunks and returns the tokens. Raises InputError for a text longer than the
    model's context.
    """
    context = getattr(model.config, "max_position_embeddings", None)
    if context and len(tokens) > context:
        raise InputError(
            f"the prompt has {len(tokens)} tokens and the model's context is {context}; shorten it"
        )
    cache = DynamicCache(config=model.config)
    infos: list[TokenInfo] = []
    for first in range(0, len(tokens) - 1, CHUNK):
        chunk = tokens[first : min(first + CHUNK, len(tokens) - 1)]
        logprobs = _logprobs(model, chunk, first, cache)[:, : tokenizer.vocab_size]
        infos += token_infos(tokenizer, tokens[first + 1 : first + 1 + len(chunk)], logprobs, alternatives)
        yield
    return tokenizer.decode(tokens[:1], keep_special=True), tuple(infos)


@torch.inference_mode()
def _logprobs(model: PreTrainedModel, chunk: list[int], first: int, cache: Any) -> Tensor:
    """Log-probabilities (T, V), float32 on the CPU, of what follows each token of a chunk that begins at `first`."""
    row = torch.tensor([chunk], device=model.device)
    positions = torch.arange(first, first + len(chunk), device=model.device)[None]
    mask = torch.ones(1, first + len(chunk), dtype=torch.bool, device=model.device)
    output = model(
        input_ids=row, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
    )
    return output.logits[0].float().log_softmax(-1).cpu()
