"""A scalar head fitted to rankings while the trunk stands still: where fine-tuning a reward model can start.

Under a head of chance the first updates pull the trunk wherever that head points, and spoil features that were good
(Kumar et al. 2022: fit the head first, then fine-tune both). Shapes: P prompts, L labelers, K completions, C channels.

An ensemble of such heads, each fitted to rankings drawn anew with replacement on the trunk as it was trained, tells how
unsure a score is at the price of one pass. A policy that climbs mean − k · std is not paid for what they disagree on
(Coste et al. 2024; Eisenstein et al. 2023 on its limits: heads of one trunk share what the trunk gets wrong).
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlhf.learning.losses import ranking_losses
from rlhf.models.sources import file_of, find_source, reading

MAX_STEPS = 300
FILE = "heads.safetensors"  # in a reward model's folder


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


@dataclass(frozen=True)
class Heads:
    """M linear heads: weight (M, C) and bias (M,), float32."""

    weight: Tensor
    bias: Tensor

    def scores(self, states: Tensor) -> Tensor:
        """Every head's reward of B states (B, C) → (B, M) float32."""
        weight, bias = self.weight.to(states.device), self.bias.to(states.device)
        return states.float() @ weight.T + bias

    def lower_bound(self, states: Tensor, pessimism: float) -> Tensor:
        """mean − pessimism · std over the heads, (B,) float32."""
        scores = self.scores(states)
        return scores.mean(1) - pessimism * scores.std(1, unbiased=False)


def fit_heads(
    features: Tensor,
    ranks: Tensor,
    present: Tensor,
    rewards: Tensor,
    num_heads: int,
    l2: float,
    seed: int,
    *,
    conversations: Sequence[str] | None = None,
) -> Heads:
    """Heads on P prompts' features (P, K, C), each of conversations drawn with replacement; ranks, present: see `ranking_probe`.

    rewards (P, K): the reward model's own. Every head gets their mean and spread, so that heads differ in order and
    distance and not in unit. conversations: of each prompt, None where all differ; rows of one tell less than as many of
    several, so they are drawn together.
    """
    generator, there = torch.Generator().manual_seed(seed), present[:, 0]
    known, wanted = features[there], rewards[there]  # (R, C), (R,)
    together: dict[Hashable, list[int]] = {}
    for place, conversation in enumerate(conversations or range(len(features))):
        together.setdefault(conversation, []).append(place)
    of_each, weights, biases = list(together.values()), [], []
    for _ in range(num_heads):
        chosen = torch.randint(len(of_each), (len(of_each),), generator=generator).tolist()
        drawn = [place for i in chosen for place in of_each[i]]
        weight = ranking_probe(features[drawn], ranks[drawn], present[drawn], l2)
        given = known @ weight
        scale = wanted.std() / given.std().clamp(min=1e-12)
        weights.append(weight * scale)
        biases.append(wanted.mean() - given.mean() * scale)
    return Heads(torch.stack(weights), torch.stack(biases))


def save_heads(heads: Heads, folder: Path) -> None:
    """Write them beside the model."""
    save_file({"weight": heads.weight.contiguous(), "bias": heads.bias.contiguous()}, folder / FILE)


def load_heads(folder: str | Path) -> Heads | None:
    """The heads beside a reward model, in a folder or on the hub; None where there are none."""
    file = file_of(find_source(folder), FILE)
    if file is None:
        return None
    with reading(file, "these are no heads of a reward model"):
        return Heads(**load_file(file))
