"""What the model reads for a request, and how many tokens its answer may have."""

from rlhf.data import Message
from rlhf.errors import InputError
from rlhf.models.checkpoints import check_known
from rlhf.models.tokenizer import AnyTokenizer, Tokenizer
from rlhf.serving.completions import Request

TOO_LONG = "context_length_exceeded"
NO_CONTEXT_TOKENS = 2048  # longest answer of a model that states no context, where the request states none


def encode_text(tokenizer: AnyTokenizer, text: str) -> list[int]:
    """A text without a chat around it, behind the first token of models that were trained with one.

    Whoever writes the whole of what the model reads may write its special tokens too, as in vLLM and llama.cpp.
    """
    if isinstance(tokenizer, Tokenizer):
        return tokenizer.encode_with_special(text)
    tokens: list[int] = tokenizer.tokenizer(text, add_special_tokens=False)["input_ids"]
    first = list(tokenizer.first_ids)
    return tokens if tokens[: len(first)] == first else first + tokens


def fit(
    tokenizer: AnyTokenizer, num_tokens: int, context: int | None, request: Request
) -> tuple[list[int], int]:
    """The prompt's tokens, and how many of the oldest messages were left out to make room for an answer.

    num_tokens: that the model reads and the tokenizer knows. Raises InputError for a prompt that does not fit, that is empty, or with a token that the model has not.
    """
    if request.prompt is not None:
        prompt, dropped = given_tokens(tokenizer, num_tokens, request.prompt), 0
    else:
        prompt, dropped = _fit_messages(tokenizer, context, request)
        check_known(prompt, num_tokens, "prompt")
    check_length(prompt, context, room=1)
    check_known([*request.logit_bias], num_tokens, "logit_bias")
    return prompt, dropped


def check_length(prompt: list[int], context: int | None, room: int) -> None:
    """Raises InputError for an empty prompt, and for one that leaves no room for so many more tokens in the context."""
    if not prompt:
        raise InputError("prompt is empty; give at least one token")
    if context is not None and len(prompt) + room > context:
        raise InputError(
            f"the prompt has {len(prompt)} tokens and the model's context is {context}; shorten it",
            code=TOO_LONG,
        )


def longest_answer(context: int | None, prompt: list[int], request: Request) -> int:
    """New tokens, at most: what the request asks for and what the context has room for."""
    room = context - len(prompt) if context else request.max_new_tokens or NO_CONTEXT_TOKENS
    return min(request.max_new_tokens or room, room)


def given_tokens(tokenizer: AnyTokenizer, num_tokens: int, prompt: str | tuple[int, ...]) -> list[int]:
    """The tokens of a text without a chat, or those given. Raises InputError for a token that the model has not."""
    if isinstance(prompt, str):
        tokens = encode_text(tokenizer, prompt) or [tokenizer.document_end_id]
    else:
        tokens = list(prompt)
    check_known(tokens, num_tokens, "prompt")
    return tokens


def _fit_messages(tokenizer: AnyTokenizer, context: int | None, request: Request) -> tuple[list[int], int]:
    messages: list[Message] = list(request.messages)
    begun = messages.pop()["content"] if request.continue_last else ""
    first = 1 if messages and messages[0]["role"] == "system" else 0
    wanted = (context or 0) // 4
    room = min(request.max_new_tokens or wanted, wanted)
    while True:
        prompt = tokenizer.encode_prompt(messages) + tokenizer.encode_continuation(begun)
        too_long = context is not None and len(prompt) + room > context
        if not (too_long and request.drop_oldest and len(messages) > first + 1):
            break
        del messages[first]
        while len(messages) > first + 1 and messages[first]["role"] == "assistant":
            del messages[first]  # a conversation starts with its user
    return prompt, len(request.messages) - len(messages) - bool(request.continue_last)
