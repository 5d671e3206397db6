"""What a request wants of the logits before its next token is drawn: a bias, penalties for what was said, a schema."""

import torch
from torch import Tensor

from rlhf.serving.completions import Request
from rlhf.serving.grammar import Grammar, Grammars


class LogitChanges:
    """One answer's changes; it remembers what has been said."""

    def __init__(self, request: Request, vocab_size: int, grammar: Grammar | None) -> None:
        self.grammar = grammar
        self.presence, self.frequency = request.presence_penalty, request.frequency_penalty
        self.bias = torch.zeros(vocab_size)
        for token, bias in request.logit_bias.items():
            self.bias[token] = bias
        self.said = torch.zeros(vocab_size)  # how often, by token

    def __call__(self, logits: Tensor) -> Tensor:
        """Logits (V,) with the changes, float32. OpenAI's definition: presence once, frequency for each time."""
        penalty = self.presence * (self.said > 0) + self.frequency * self.said
        changed = logits.float() + (self.bias - penalty).to(logits.device)
        return self.grammar(changed) if self.grammar else changed

    def hear(self, token: int) -> None:
        """Count a token of the answer."""
        self.said[token] += 1
        if self.grammar:
            self.grammar.hear(token)


def logit_changes(request: Request, vocab_size: int, grammars: Grammars) -> LogitChanges | None:
    """The request's changes; None where it wants none. Raises InputError for a schema that cannot be followed."""
    grammar = grammars.grammar(request.json_schema) if request.json_schema is not None else None
    wanted = request.presence_penalty or request.frequency_penalty or request.logit_bias or grammar
    return LogitChanges(request, vocab_size, grammar) if wanted else None
