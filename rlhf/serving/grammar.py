"""Answers that follow a JSON schema: llguidance says which tokens may come next."""

from typing import Any

import torch
from torch import Tensor

from rlhf.errors import EngineError, InputError, first_line, is_panic
from rlhf.models.tokenizer import AnyTokenizer, Tokenizer
from rlhf.packages import how_to_install

TOO_COMPLEX = "the schema allows nothing here, or is too complex"
# Spaces and line breaks between JSON's parts would be up to the model, and small ones never stop writing them.
LAYOUT: Any = {"whitespace_flexible": False}


class Grammar:
    """A schema's state in one answer."""

    def __init__(self, matcher: Any) -> None:
        """Raises EngineError for a schema of which nothing can be begun."""
        self.matcher = matcher
        self.said: list[int] = []  # that the matcher has not heard of
        self.allowed: Tensor | None = self._allowed()  # tokens that may come next (V,), where that is known

    def __call__(self, logits: Tensor) -> Tensor:
        """Logits (V,) with −inf for every token that would break the schema. Raises EngineError where it gives up."""
        if self.allowed is None:
            self.allowed = self._allowed()
        return logits.masked_fill(~self.allowed[: len(logits)].to(logits.device), float("-inf"))

    def _allowed(self) -> Tensor:
        try:
            for token in self.said:
                self.matcher.consume_token(token)
            allowed = self.matcher.compute_logit_bias()
        except BaseException as problem:
            if is_panic(problem):
                raise EngineError(f"{TOO_COMPLEX}: {first_line(problem)}") from None
            raise
        if self.matcher.is_error():
            raise EngineError(f"{TOO_COMPLEX}: {first_line(self.matcher.get_error())}")
        self.said = []
        return torch.frombuffer(bytearray(allowed), dtype=torch.uint8).bool()

    def hear(self, token: int) -> None:
        """Take in a token of the answer."""
        self.said.append(token)
        self.allowed = None


class Grammars:
    """Schemas for one tokenizer, whose vocabulary is read when the first one comes."""

    def __init__(self, tokenizer: AnyTokenizer) -> None:
        self.tokenizer = tokenizer
        self.vocabulary: Any = None

    def grammar(self, schema: str) -> Grammar:
        """A schema (JSON) at its beginning.

        Raises InputError for one that llguidance does not take, and where it is not installed.
        """
        try:
            from llguidance import LLMatcher
        except ImportError:
            raise InputError(
                f"response_format needs llguidance, which is not installed here: {how_to_install('llguidance')}",
                param="json_schema",
            ) from None
        if self.vocabulary is None:
            self.vocabulary = _vocabulary(self.tokenizer)
        try:
            grammar = LLMatcher.grammar_from_json_schema(schema, overrides=LAYOUT)
            problem = LLMatcher.validate_grammar(grammar, self.vocabulary)
            if not problem:
                return Grammar(LLMatcher(self.vocabulary, grammar))
        except (ValueError, EngineError) as error:
            problem = str(error)
        except BaseException as error:
            if not is_panic(error):
                raise
            problem = str(error)
        raise InputError(
            f"response_format: the schema cannot be followed: {first_line(problem)}", param="json_schema"
        )


def _vocabulary(tokenizer: AnyTokenizer) -> Any:
    """The tokenizer as llguidance knows it. Raises InputError for one that it cannot read."""
    if isinstance(tokenizer, Tokenizer):
        from llguidance.tiktoken import lltokenizer_from_encoding

        return lltokenizer_from_encoding(
            tokenizer.encoding, n_vocab=tokenizer.vocab_size, eos_token=tokenizer.eos_id
        )
    from llguidance.hf import from_tokenizer

    try:
        return from_tokenizer(tokenizer.tokenizer, n_vocab=tokenizer.vocab_size, eos_token=tokenizer.eos_id)
    except ValueError as problem:
        raise InputError(
            f"response_format: this model's tokenizer cannot be used for it ({first_line(problem)})",
            param="json_schema",
        ) from None
