"""What the models of PPO share: memory, and the pass through a frozen lower part; and that no number changes by it."""

import copy

import pytest
import torch

from rlhf.errors import InputError
from rlhf.learning.passes import has_plain_head
from rlhf.learning.reward_sources import RewardSource
from rlhf.learning.training import load_state
from rlhf.machine.memory import FreedMemory
from rlhf.models.checkpoints import scalar_from_policy
from rlhf.models.trunk import blocks_of
from stages.ppo.experience import gather_experience, judge, sample, with_lower_states
from stages.ppo.loop import update
from tests.tiny_ppo import adapters, close_histories, config, llama, policy, same, scalar, trainer, weights

SETTINGS = {"last_blocks": 1, "inner_epochs": 2, "micro_batch_size": 3, "lr": 1e-2, "value_lr": 1e-2}
MAKES = {"gpt": policy, "llama": llama}


def parts(make):
    """A policy and a reward model from the same trunk, trained in the last block only."""
    model = make()
    reward = scalar_from_policy(model)
    with torch.no_grad():
        for p in blocks_of(reward)[1].parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(5)))
    return {"model": model, "reward_model": reward}


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
def test_a_shared_lower_part_changes_no_logged_number_and_no_weight(make):
    shared, plain = (trainer(config(**SETTINGS), **parts(make)) for _ in range(2))
    plain.learner.lower = None  # every model runs whole, its lower part frozen all the same
    close_histories(shared.train(), plain.train(), 1e-5)
    for model in ("policy", "value_model"):
        one, other = (weights(getattr(each.learner, model)) for each in (shared, plain))
        for name in one:
            torch.testing.assert_close(one[name], other[name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
def test_four_models_hold_one_lower_part(make):
    given = parts(make)
    made = trainer(config(**SETTINGS), **given)
    models = [made.model, made.reference, made.value_model, given["reward_model"]]
    lower = [{id(p) for p in blocks_of(model)[0].parameters()} for model in models]
    upper = [{id(p) for p in blocks_of(model)[1].parameters()} for model in models]
    assert all(ids == lower[0] for ids in lower)
    assert not set.intersection(*upper) and len(set.union(*upper)) == 4 * len(upper[0])
    assert len({id(model.get_input_embeddings().weight) for model in models}) == 1


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
def test_the_lower_part_runs_once_for_reference_values_scores_and_updates(make):
    given, rows = parts(make), []
    made = trainer(config(**SETTINGS), **given)
    rollout = sample(made.args, made.model, made.prompts, made.tokenizer, 0)
    models = [made.model, made.reference, made.value_model, given["reward_model"]]
    for model in models[:2]:
        has_plain_head(model)  # watches one token, once per model
    for model in models:
        blocks_of(model)[0].mlp.register_forward_hook(lambda module, args, output: rows.append(len(output)))
    rollout = with_lower_states(made.args, made.learner, rollout)
    assert sum(rows) == len(rollout)
    judged = judge(made.args, made.learner, made.reference, made.reward, rollout)
    experience, _ = gather_experience(made.args, made.learner, made.reward, judged)
    update(made.args, made.learner, experience, None, FreedMemory())
    assert sum(rows) == len(rollout)


def test_a_value_head_of_chance_over_the_policys_trunk_shares_it_too():
    made = trainer(config(**SETTINGS), reward_model=lambda prompts, completions: [0.0] * len(prompts))
    assert made.learner.lower.is_of(made.value_model)


def test_a_given_reference_and_value_model_are_taken_in_where_they_are_equal():
    given = parts(policy)
    more = {"ref_model": copy.deepcopy(given["model"]), "value_model": copy.deepcopy(given["reward_model"])}
    made = trainer(config(**SETTINGS), **given, **more)
    assert made.learner.lower.is_of(made.reference) and made.learner.lower.is_of(more["value_model"])


def test_another_trunk_is_never_taken_for_the_same():
    lines = []
    made = trainer(config(**SETTINGS), reward_model=scalar(), say=lines.append)
    assert not made.learner.lower.is_of(made.value_model) and "runs a whole one of its own" in lines[0]
    frozen = [p for p in blocks_of(made.value_model)[0].parameters() if p.requires_grad]
    assert not frozen and all(p.requires_grad for p in blocks_of(made.value_model)[1].parameters())


def test_last_blocks_and_adapters_at_once_are_refused():
    with pytest.raises(InputError, match="choose one of them"):
        trainer(config(last_blocks=1), peft_config=adapters())


def test_a_stopped_run_keeps_only_what_learns_and_goes_on_bit_for_bit(tmp_path):
    args = config(**SETTINGS, save_every=1, episodes=24)
    whole = trainer(args, **parts(policy))
    history = whole.train()
    stopped = trainer(args, output_dir=tmp_path, **parts(policy))
    save = stopped.save_state

    def pull_the_plug():
        save()
        raise KeyboardInterrupt

    stopped.save_state = pull_the_plug
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    state = load_state(tmp_path / "state.pt")
    assert not any("h.0." in name or "wte" in name for name in (*state["policy"], *state["value_model"]))
    resumed = trainer(args, output_dir=tmp_path, **parts(policy))
    assert resumed.train() == history
    assert same(weights(resumed.model), weights(whole.model))
    assert same(weights(resumed.value_model), weights(whole.value_model))


def test_what_is_frozen_and_ours_is_held_in_bfloat16_where_it_is_multiplied_so_and_no_number_changes():
    given = trainer(config(bf16="on"), ref_model=policy(), reward_model=scalar())
    ours = trainer(config(bf16="on"), reward_model=[RewardSource("scalar", scalar(), is_loaded=True)])

    def formats(model):
        return {p.dtype for p in model.parameters()}

    assert formats(given.reference) == {torch.float32} == formats(ours.model)
    assert torch.bfloat16 in formats(ours.reference)
    assert given.train() == ours.train()


def test_what_a_python_caller_handed_in_keeps_its_format():
    reference, reward = policy(), scalar()
    trainer(config(bf16="on"), ref_model=reference, reward_model=reward).train()
    assert {p.dtype for model in (reference, reward) for p in model.parameters()} == {torch.float32}
