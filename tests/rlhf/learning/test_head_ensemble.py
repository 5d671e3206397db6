"""Heads on one trunk: their lower bound by hand, what they agree on and what not, kept in a file."""

import pytest
import torch

from rlhf.errors import InputError
from rlhf.learning.linear_probe import Heads, fit_heads, load_heads, save_heads
from rlhf.learning.reward_sources import RewardSource, combined_reward
from tests.tiny_ppo import TOKENIZER, count_e, scalar


def test_the_lower_bound_by_hand(tmp_path):
    heads = Heads(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0.5, -0.5]))
    states = torch.tensor([[3.0, 1.0], [1.0, 2.0]])
    assert heads.scores(states).tolist() == [[3.5, 0.5], [1.5, 1.5]]
    # Means 2 and 1.5, standard deviations 1.5 and 0.
    assert heads.lower_bound(states, 2.0).tolist() == [-1.0, 1.5]
    save_heads(heads, tmp_path)
    (tmp_path / "none").mkdir()
    assert torch.equal(load_heads(tmp_path).weight, heads.weight) and load_heads(tmp_path / "none") is None


def rankings(num_prompts, seed=0):
    """Two completions a prompt; people prefer the one with more of channel 0; channel 2 is the same everywhere."""
    features = torch.randn(num_prompts, 2, 3, generator=torch.Generator().manual_seed(seed))
    features[..., 2] = 1.0
    ranks = (features[..., 0] < features[..., 0].flip(1)).float()[:, None]  # (P, 1, 2)
    return features, ranks, torch.ones_like(ranks, dtype=torch.bool)


def test_heads_learn_the_rankings_in_the_models_unit_and_differ_by_what_they_were_shown():
    features, ranks, present = rankings(60)
    rewards = 10 * features[..., 0] + 4
    heads = fit_heads(features, ranks, present, rewards, 5, 0.01, seed=0)
    scores = heads.scores(features.flatten(0, 1))
    assert torch.allclose(scores.mean(0), rewards.mean().expand(5), atol=1e-3)
    assert torch.allclose(scores.std(0), rewards.flatten().std().expand(5), rtol=1e-3)
    by_pair = scores.view(60, 2, 5)
    right = (by_pair[:, 0] > by_pair[:, 1]) == (features[:, 0, 0] > features[:, 1, 0])[:, None]
    assert right.float().mean() > 0.95
    assert not torch.allclose(heads.weight[0], heads.weight[1])
    again = fit_heads(features, ranks, present, rewards, 5, 0.01, seed=0)
    assert torch.equal(again.weight, heads.weight)


def test_heads_disagree_most_where_no_ranking_told_them():
    """Far along the channel that decides nothing they differ more than equally far along the one that does."""
    features, ranks, present = rankings(20, seed=3)
    heads = fit_heads(features, ranks, present, features[..., 0], 16, 0.01, seed=0)
    told, untold = heads.scores(torch.tensor([[4.0, 0.0, 1.0], [0.0, 4.0, 1.0]])).std(1)
    assert untold > 2 * told


def test_heads_of_many_rows_of_few_conversations_are_as_unsure_as_of_so_few():
    """One answer against many others, each pair a row: copies of a conversation's rows tell nothing new."""
    features, ranks, present = rankings(12, seed=1)
    again = [each.repeat_interleave(8, 0) for each in (features, ranks, present, features[..., 0])]
    names = [f"conversation {i // 8}" for i in range(96)]
    few = fit_heads(features, ranks, present, features[..., 0], 8, 0.3, seed=0)
    many = fit_heads(*again, 8, 0.3, seed=0, conversations=names)
    torch.testing.assert_close(many.weight, few.weight, atol=0.05, rtol=0.05)
    assert torch.equal(
        fit_heads(
            features, ranks, present, features[..., 0], 8, 0.3, seed=0, conversations=names[::8]
        ).weight,
        few.weight,
    )
    by_row = fit_heads(*again, 8, 0.3, seed=0)
    assert many.weight.std(0)[1] > 1.5 * by_row.weight.std(0)[1]


class Policy:
    """Stands for a tokenizer nobody asks."""


def test_a_pessimism_that_nothing_obeys_is_refused():
    def brevity(prompts, completions):
        return [0.0 for _ in completions]

    rewards = [RewardSource("brevity", brevity)]
    with pytest.raises(InputError, match="--heads"):
        combined_reward(rewards, Policy(), pessimism=2.0)
    rewards.append(RewardSource("other", brevity))
    assert combined_reward(rewards, Policy(), pessimism=2.0, combine="lower-bound").pessimism == 2.0
    assert combined_reward(rewards, Policy(), combine="lower-bound").pessimism == 1.0


@pytest.mark.parametrize("combine", ["min", "lower-bound"])
@pytest.mark.parametrize("pessimism", [None, 5.0])
def test_a_combination_of_one_reward_is_refused(combine, pessimism):
    for one in (scalar(), count_e):
        with pytest.raises(InputError, match=f"reward_combine = {combine}: there is one reward"):
            combined_reward([RewardSource("it", one)], TOKENIZER, combine=combine, pessimism=pessimism)


def test_a_pessimism_that_one_of_several_reward_models_does_not_obey_is_refused():
    heads = Heads(torch.ones(2, 32), torch.zeros(2))
    unsure, plain, function = (
        RewardSource("unsure", scalar(), heads=heads),
        RewardSource("plain", scalar()),
        RewardSource("function", count_e),
    )
    with pytest.raises(InputError, match="pessimism = 1: plain has no ensemble"):
        combined_reward([unsure, plain], TOKENIZER, pessimism=1.0)
    # A function is as sure as it can be.
    assert combined_reward([unsure, function], TOKENIZER, pessimism=1.0).scorers["unsure"].pessimism == 1.0
