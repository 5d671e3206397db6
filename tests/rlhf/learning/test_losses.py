import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.learning.losses import (
    clip_fraction,
    entropy,
    lm_loss,
    policy_loss,
    ranking_loss,
    ranking_losses,
    value_loss,
)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    # Schulman et al. 2017, figure 1: the gain ends at 1 + ε, the harm does not
    [(1.5, 1, -1.2, 0), (0.5, 1, -0.5, -0.5), (1.5, -1, 1.5, 1.5), (0.5, -1, 0.8, 0), (1.1, 2, -2.2, -2.2)],
)
def test_policy_loss_and_its_slope_by_hand(ratio: float, advantage: float, loss: float, slope: float) -> None:
    old = torch.tensor([[-1.0]])
    new = (old + math.log(ratio)).requires_grad_()
    given = policy_loss(new, old, torch.tensor([[float(advantage)]]), clip=0.2)
    given.backward()
    assert given.item() == pytest.approx(loss, rel=1e-5)
    assert new.grad is not None and new.grad.item() == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize(
    ("value", "old", "target", "loss"),
    [
        (1.0, 0.0, 2.0, 0.5 * 1.8**2),  # moved too far towards the target: no reward for more than the clip
        (1.0, 0.0, 0.0, 0.5 * 1.0**2),  # moved away: pays in full
        (0.1, 0.0, 2.0, 0.5 * 1.9**2),  # within the clip
        (-1.0, 0.0, 1.0, 0.5 * 2.0**2),
    ],
)
def test_value_loss_by_hand(value: float, old: float, target: float, loss: float) -> None:
    given = value_loss(torch.tensor([[value]]), torch.tensor([[old]]), torch.tensor([[target]]), clip=0.2)
    assert given.shape == (1, 1) and given.item() == pytest.approx(loss, rel=1e-5)


def test_clip_fraction_by_hand() -> None:
    ratio = torch.tensor([[1.0, 1.19, 1.21, 0.81, 0.79]])
    assert clip_fraction(ratio.log(), torch.zeros(1, 5), clip=0.2).tolist() == [[0, 0, 1, 0, 1]]


def test_lm_loss_by_hand() -> None:
    logits = torch.tensor([[0.25, 0.5, 0.25], [0.1, 0.1, 0.8], [0.3, 0.3, 0.4]]).log()
    losses = lm_loss(logits, torch.tensor([1, 2, -100]))
    assert losses.tolist() == pytest.approx([math.log(2), -math.log(0.8), 0.0], abs=1e-6)


def test_losses_of_bfloat16_logits_are_float32() -> None:
    logits = torch.randn(4, 9, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert lm_loss(logits, torch.arange(4)).dtype == torch.float32
    torch.testing.assert_close(lm_loss(logits, torch.arange(4)), lm_loss(logits.float(), torch.arange(4)))
    torch.testing.assert_close(entropy(logits), entropy(logits.float()))


def test_ranking_loss_by_hand() -> None:
    # the best against each of two tied ones: softplus(−1) and softplus(1)
    loss = ranking_loss(torch.tensor([1.0, 0.0, 2.0]), torch.tensor([0, 1, 1]))
    assert loss.item() == pytest.approx((math.log1p(math.exp(-1)) + math.log1p(math.exp(1))) / 2)


def test_a_comparison_is_a_ranking_of_two() -> None:
    loss = ranking_loss(torch.tensor([0.3, 1.0]), torch.tensor([0, 1]))
    assert loss.item() == pytest.approx(-math.log(1 / (1 + math.exp(0.7))))


def test_a_ranking_of_ties_alone_has_loss_0_and_no_gradient() -> None:
    scores = torch.tensor([0.3, 1.0], requires_grad=True)
    loss = ranking_loss(scores, torch.tensor([2, 2]))
    loss.backward()
    assert loss.item() == 0 and scores.grad is not None and scores.grad.tolist() == [0, 0]


def test_scores_far_apart_stay_finite() -> None:
    scores = torch.tensor([-500.0, 500.0], requires_grad=True)
    loss = ranking_loss(scores, torch.tensor([0, 1]))
    loss.backward()
    assert loss.item() == 1000 and scores.grad is not None and scores.grad.tolist() == [-1, 1]


rankings = st.lists(
    st.tuples(st.floats(-5, 5, width=32), st.integers(0, 3)), min_size=1, max_size=5
)  # (score, rank) of each completion


@settings(max_examples=50)
@given(st.lists(rankings, min_size=1, max_size=4), st.integers(0, 2))
def test_a_batch_of_rankings_agrees_with_all_pairs_one_by_one(batch: list, extra: int) -> None:
    K = max(map(len, batch)) + extra
    scores, ranks = torch.full((len(batch), K), math.nan), torch.full((len(batch), K), -7)
    present = torch.zeros(len(batch), K, dtype=torch.bool)
    slow = []
    for b, ranking in enumerate(batch):
        for k, (score, rank) in enumerate(ranking):
            scores[b, k], ranks[b, k], present[b, k] = score, rank, True
        pairs = [math.log1p(math.exp(l - w)) for w, rw in ranking for l, rl in ranking if rw < rl]  # noqa: E741
        slow.append(sum(pairs) / len(pairs) if pairs else 0.0)
    scores.requires_grad_()
    losses = ranking_losses(scores, ranks, present)
    torch.testing.assert_close(losses, torch.tensor(slow), atol=1e-5, rtol=1e-5)
    losses.sum().backward()
    assert scores.grad is not None and bool((scores.grad[~present] == 0).all())
    assert bool(scores.grad.isfinite().all())


def test_entropy_by_hand() -> None:
    assert entropy(torch.zeros(2, 3, 8)).tolist() == [[pytest.approx(math.log(8))] * 3] * 2
    quarter = torch.tensor([0.25, 0.75, 0.0]).log()  # a logit of −inf
    wanted = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert entropy(quarter).item() == pytest.approx(wanted)
