"""The linear probe that a reward model's head can start from."""

import pytest
import torch
import torch.nn.functional as F

from rlhf.learning.linear_probe import ranking_probe

ONE = torch.ones(1, 1, 2, dtype=torch.bool)


def test_one_pair_by_hand():
    """One channel, the better completion 3 above the worse: with x = 3, σ = 3, the scaled weight v minimises
    softplus(−v) + l2 v², so that σ(−v) = 2 l2 v."""
    weight = ranking_probe(torch.tensor([[[4.0], [1.0]]]), torch.tensor([[[0, 1]]]), ONE, l2=0.1)
    v = float(3 * weight)
    assert torch.sigmoid(torch.tensor(-v)).item() == pytest.approx(0.2 * v, abs=1e-4)


def test_it_finds_the_direction_that_the_rankings_were_made_of():
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(6, generator=generator)
    features = torch.randn(400, 3, 6, generator=generator) * torch.tensor([1, 10, 0.1, 1, 1, 1.0])
    ranks = (features @ truth).argsort(1, descending=True).argsort(1)[:, None]
    weight = ranking_probe(features, ranks, torch.ones_like(ranks, dtype=torch.bool), l2=1e-3)
    again = (features @ weight).argsort(1, descending=True).argsort(1)[:, None]
    assert (again == ranks).float().mean() > 0.95


def test_absent_completions_labelers_and_idle_channels_change_nothing():
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(50, 2, 4, generator=generator)
    features[..., 3] = 7.0  # the same for every completion
    ranks = torch.randint(0, 2, (50, 1, 1), generator=generator)
    ranks = torch.cat([ranks, 1 - ranks], -1)  # (50, 1, 2)
    weight = ranking_probe(features, ranks, torch.ones_like(ranks, dtype=torch.bool), l2=0.1)
    wider = F.pad(features, (0, 0, 0, 1), value=1e6)  # a third completion that is not there
    there = F.pad(
        torch.ones_like(ranks, dtype=torch.bool), (0, 1, 0, 1)
    )  # and a second labeler who said nothing
    padded = ranking_probe(wider, F.pad(ranks, (0, 1, 0, 1)), there, l2=0.1)
    assert weight[3] == 0 and weight[:3].abs().min() > 0
    torch.testing.assert_close(padded, weight, rtol=1e-3, atol=1e-4)
