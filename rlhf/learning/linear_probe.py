"""A scalar head fitted to rankings while the trunk stands still: where fine-tuning a reward model can start.

Under a head of chance the first updates pull the trunk wherever that head points, and spoil features that were good
(Kumar et al. 2022: fit the head first, then fine-tune both). Shapes: P prompts, L labelers, K completions, C channels.
"""

import torch
from torch import Tensor

from rlhf.learning.losses import ranking_losses

MAX_STEPS = 300


def ranking_probe(features: Tensor, ranks: Tensor, present: Tensor, l2: float) -> Tensor:
    """The weight w (C,), float32, of the scores features · w that explain the rankings best.

    features (P, K, C) float, ranks (P, L, K) with 0 best, present (P, L, K) bool. Minimises the mean ranking loss
    (Ouyang et al. 2022, eq. 1) plus l2 · Σ (σ_c w_c)², σ_c being the spread of channel c between two completions of
    a prompt; a channel that tells none apart gets 0. The minimum is unique for l2 > 0.
    """
    num_labelers = present.any(-1).sum(1)  # (P,)
    spread = _spread(features, present[:, 0])  # (C,)
    scale = torch.where(spread > 0, 1 / spread, 0.0)
    scaled = features * scale  # (P, K, C)
    weight = torch.zeros(features.shape[-1], requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=MAX_STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        scores = (scaled @ weight)[:, None].expand(ranks.shape)  # (P, L, K)
        losses = ranking_losses(scores.flatten(0, 1), ranks.flatten(0, 1), present.flatten(0, 1))
        loss = losses.sum() / num_labelers.sum() + l2 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weight.detach() * scale


def _spread(features: Tensor, present: Tensor) -> Tensor:
    """Root mean square difference (C,) of two completions of one prompt; features (P, K, C), present (P, K)."""
    counts = present.sum(1)[:, None]  # (P, 1)
    known = torch.where(present[..., None], features, 0.0)
    centred = torch.where(present[..., None], known - (known.sum(1) / counts)[:, None], 0.0)
    freedom = (counts - 1).sum().clamp(min=1)
    return (2 * centred.square().sum((0, 1)) / freedom).sqrt()
