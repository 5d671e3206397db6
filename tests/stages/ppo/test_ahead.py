"""Batches drawn while the one before trains: by the weights that are due, whoever is faster; weighed; and resumed bit for bit."""

import pytest
import torch

from rlhf.errors import InputError
from stages.ppo import loop
from stages.ppo.experience import sample
from tests.tiny_ppo import config, same, trainer, weights

AHEAD = {"max_staleness": 1, "importance_cap": 2.0, "episodes": 32, "lr": 1e-2}


def test_each_batch_is_drawn_by_the_weights_of_one_iteration_before():
    """Redone in the open: the second batch is what the untrained policy draws, the third what the once trained one does."""
    made, drawn = trainer(config(**AHEAD)), []
    rollout_of = made.sampling.rollout

    def watched(policy, iteration):
        before = weights(policy)
        drawn.append((before, rollout_of(policy, iteration)))
        return drawn[-1][1]

    made.sampling.rollout = watched
    made.train()
    assert [rollout.staleness for _, rollout in drawn] == [0, 1, 1, 1]
    by_hand = trainer(config(**AHEAD))
    for iteration in range(1, 4):
        by_hand.model.load_state_dict(drawn[iteration - 1][0])
        rows = by_hand.sampling.prompts_of(iteration)
        wanted = sample(by_hand.args, by_hand.model, rows, by_hand.tokenizer, iteration)
        assert drawn[iteration][1].completions == wanted.completions
        torch.testing.assert_close(drawn[iteration][1].logprobs, wanted.logprobs)
    assert [row["policy/staleness"] for row in made.log.history] == [0, 1, 1, 1]


def test_without_staleness_nothing_says_so_and_no_thread_draws():
    made = trainer(config())
    assert made.sampling.worker is None
    assert "policy/staleness" not in made.train()[0]


def test_older_weights_are_weighed_by_the_truncated_ratio(monkeypatch):
    made, seen = trainer(config(**AHEAD | {"minibatch_size": 8})), []
    plain = loop.importance_weights

    def watched(logprobs, sampler_logprobs, cap):
        seen.append((logprobs - sampler_logprobs, cap, plain(logprobs, sampler_logprobs, cap)))
        return seen[-1][2]

    monkeypatch.setattr(loop, "importance_weights", watched)
    made.train()
    first, second = seen[0], seen[1]
    assert first[0].abs().max() < 1e-5  # its own weights
    assert second[0].abs().max() > 1e-3  # older ones
    torch.testing.assert_close(second[2], second[0].exp().clamp(max=2.0))


def test_a_run_goes_on_bit_for_bit_with_what_was_drawn_ahead(tmp_path):
    whole = trainer(config(**AHEAD))
    whole.train()

    class Stopped(Exception):
        pass

    cut = trainer(config(**AHEAD, save_every=1), output_dir=tmp_path)
    save = cut.save_state

    def save_and_stop():
        save()
        if cut.learner.iteration == 2:
            raise Stopped

    cut.save_state = save_and_stop
    with pytest.raises(Stopped):
        cut.train()
    rest = trainer(config(**AHEAD, save_every=1), output_dir=tmp_path)
    assert (
        rest.learner.iteration == 2
        and rest.sampling.ahead.iteration == 2
        and rest.sampling.ahead.version == 1
    )
    rest.train()
    assert same(weights(whole.model), weights(rest.model))
    assert whole.log.history == rest.log.history


@pytest.mark.parametrize("settings, names", [({"max_staleness": 1}, "importance_cap"), ({"importance_cap": 2.0}, "recompute_logprobs")])  # fmt: skip
def test_staleness_and_its_correction_belong_together(settings, names):
    with pytest.raises(InputError, match=names):
        trainer(config(**settings))
