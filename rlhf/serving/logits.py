"""What a request wants of the logits before its next token is drawn: a bias, and penalties for what was said."""

import torch
from torch import Tensor

from rlhf.serving.completions import Request


class LogitChanges:
    """One answer's changes; it remembers what has been said."""

    def __init__(self, request: Request, vocab_size: int) -> None:
        self.presence, self.frequency = request.presence_penalty, request.frequency_penalty
        self.bias = torch.zeros(vocab_size)
        for token, bias in request.logit_bias.items():
            self.bias[token] = bias
        self.said = torch.zeros(vocab_size)  # how often, by token

    def __call__(self, logits: Tensor) -> Tensor:
        """Logits (V,) with the changes, float32. OpenAI's definition: presence once, frequency for each time."""
        penalty = self.presence * (self.said > 0) + self.frequency * self.said
        return logits.float() + (self.bias - penalty).to(logits.device)

    def hear(self, token: int) -> None:
        """Count a token of the answer."""
        self.said[token] += 1


def logit_changes(request: Request, vocab_size: int) -> LogitChanges | None:
    """The request's changes; None where it wants none."""
    wanted = request.presence_penalty or request.frequency_penalty or request.logit_bias
    return LogitChanges(request, vocab_size) if wanted else None
