"""What a model makes of an answer, token by token, and how far it has moved from its reference."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlhf.data import Prompt
from rlhf.errors import InputError
from rlhf.serving.completions import Explanation, TokenInfo


@torch.inference_mode()
def explain(
    model: PreTrainedModel,
    reference: PreTrainedModel | None,
    tokenizer: Any,
    prompt: Prompt,
    answer: str,
    alternatives: int = 5,
) -> Explanation:
    """Probabilities, alternatives and KL of every token of `answer`, its end included, at temperature 1.

    The answer is tokenized anew, which may cut it otherwise than sampling did. Raises InputError where prompt and
    answer do not fit the model's context.
    """
    prompt_tokens, completion_tokens = (
        tokenizer.encode_prompt(prompt),
        tokenizer.encode_completion(answer, prompt),
    )
    context = getattr(model.config, "max_position_embeddings", None)
    if context and len(prompt_tokens) + len(completion_tokens) > context + 1:
        raise InputError(
            f"conversation and answer have {len(prompt_tokens) + len(completion_tokens)} tokens, the model's context is {context}"
        )
    tokens = torch.tensor(completion_tokens)
    logprobs = _logprobs(model, prompt_tokens, completion_tokens)  # (T, V)
    infos = token_infos(tokenizer, completion_tokens, logprobs, alternatives)
    if reference is None or reference.config.vocab_size != model.config.vocab_size:
        return Explanation(infos)
    ref_logprobs = _logprobs(reference, prompt_tokens, completion_tokens)
    kl = (logprobs.exp() * (logprobs - ref_logprobs)).sum(1)
    picked = ref_logprobs.gather(1, tokens[:, None]).squeeze(1)
    return Explanation(infos, tuple(picked.tolist()), tuple(kl.tolist()))


def token_infos(
    tokenizer: Any, tokens: Sequence[int], logprobs: Tensor, alternatives: int
) -> tuple[TokenInfo, ...]:
    """Tokens with their own and the likeliest log-probabilities; logprobs (T, V), a row for each token's place."""
    best = logprobs.topk(min(alternatives, logprobs.shape[1]))
    own = logprobs.gather(1, torch.tensor(tokens)[:, None]).squeeze(1)

    def text(token: int) -> str:
        return str(tokenizer.decode([token], keep_special=True))

    rows = zip(tokens, own.tolist(), best.indices.tolist(), best.values.tolist(), strict=True)
    return tuple(
        TokenInfo(text(token), value, tuple((text(i), each) for i, each in zip(ids, values, strict=True)))
        for token, value, ids, values in rows
    )


def _logprobs(model: PreTrainedModel, prompt_tokens: list[int], completion_tokens: list[int]) -> Tensor:
    """Log-probabilities (T, V), float32 on the CPU, of what may stand at each place of the answer."""
    tokens = torch.tensor([(prompt_tokens + completion_tokens)[:-1]], device=model.device)
    logits = model(input_ids=tokens, logits_to_keep=len(completion_tokens)).logits[0]
    return logits.float().log_softmax(-1).cpu()
