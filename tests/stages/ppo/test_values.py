"""Values and rewards are in one unit: a reward model's offset is in both, from the first iteration to what is saved."""

import pytest
import torch
from transformers import TrainerCallback

from rlhf.learning.linear_probe import load_heads
from rlhf.learning.passes import completion_values
from rlhf.learning.rewards import RewardModel
from rlhf.learning.training import load_state, save_state
from rlhf.models.adapters import lora, reward_model_over, with_adapters
from rlhf.models.checkpoints import fold_bias, load_policy, load_scalar, scalar_from_policy
from stages.ppo.experience import sample
from stages.reward.data import RankedPrompt
from stages.reward.stage import _save_ensemble, save
from stages.reward.tokens import tokenize_rankings
from stages.settings import RewardSettings
from tests.tiny_ppo import (
    TOKENIZER,
    config,
    llama,
    policy,
    same,
    scalar,
    scalar_llama,
    trainer,
    weights,
)

OFFSET = 5.0
RANKINGS = [
    RankedPrompt(f"prompt {i}", ("The red kite is " * (1 + i % 3), "Tom has a blue boat." * (1 + i % 2)), ((0, 1),))
    for i in range(20)
]  # fmt: skip


@pytest.fixture
def adapted_rewards(tmp_path):
    """By family the folders of a policy and of a reward model trained by adapters over it, with heads and an offset."""
    folders = {}
    for name, make in (("gpt", policy), ("llama", llama)):
        base, made = tmp_path / name, tmp_path / f"{name}-reward"
        made.mkdir()
        make().save_pretrained(base)
        for folder in (base, made):
            TOKENIZER.save(folder)
        model = with_adapters(scalar_from_policy(load_policy(base)), 2, head="score")
        rankings, _ = tokenize_rankings(RANKINGS, TOKENIZER, 64, tmp_path / f"{name}-work")
        _save_ensemble(
            save(model, str(base), OFFSET, made), rankings, TOKENIZER.pad_id, RewardSettings(heads=4), made
        )
        folders[name] = base, made
    return folders


def first_numbers(reward_model, **more):
    made = trainer(config(episodes=8, missing_eos_penalty=0.0), reward_model=reward_model, **more)
    row = made.train()[0]
    return row["value/mean"], row["reward/score"], made


@pytest.mark.parametrize(("model", "reward"), [(policy, scalar), (llama, scalar_llama)], ids=["gpt", "llama"])
@pytest.mark.parametrize("adapters", [False, True], ids=["whole", "lora"])
def test_values_begin_where_rewards_are(model, reward, adapters):
    numbers = []
    for offset in (0.0, OFFSET):
        scoring = reward()
        fold_bias(scoring, offset)
        numbers.append(first_numbers(scoring, model=model(), peft_config=lora(2) if adapters else None)[:2])
    (value, score), (raised_value, raised_score) = numbers
    assert raised_score - score == pytest.approx(OFFSET, abs=1e-4)
    assert raised_value - value == pytest.approx(OFFSET, abs=1e-4)


@pytest.mark.parametrize("family", ["gpt", "llama"])
def test_a_reward_model_over_the_policys_weights_is_its_checkpoint_in_scores_heads_and_values(
    adapted_rewards, family
):
    base, folder = adapted_rewards[family]
    plain, heads = load_policy(base), load_heads(folder)
    over, whole = reward_model_over(folder, plain), load_scalar(folder)
    untouched = weights(load_policy(base))
    made = trainer(config(), model=load_policy(base))
    rollout = sample(made.args, made.model, made.prompts, TOKENIZER, 0)
    for pessimism in (0.0, 1.0):
        one, other = (
            RewardModel(model, bf16="off", heads=heads, pessimism=pessimism)(rollout)
            for model in (over, whole)
        )
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        completion_values(over, rollout), completion_values(whole, rollout), atol=1e-4, rtol=1e-4
    )
    assert same(weights(plain), untouched)  # its final norm's bias is still its own


def test_a_saved_value_model_gives_what_was_trained(tmp_path):
    reward = scalar_llama()
    fold_bias(reward, OFFSET)
    _, _, made = first_numbers(reward, model=llama())
    made.save_model(tmp_path)
    rollout = sample(made.args, made.model, made.prompts, TOKENIZER, 0)
    saved = completion_values(load_scalar(tmp_path / "value"), rollout)
    torch.testing.assert_close(saved, completion_values(made.value_model, rollout))
    assert saved[rollout.mask].mean() > OFFSET / 2


class Killed(TrainerCallback):
    def on_step_begin(self, args, state, control, **more):
        if state.global_step == 2:
            raise KeyboardInterrupt


@pytest.mark.parametrize("is_old", [False, True])
def test_a_run_goes_on_with_the_offset_that_its_values_learned_with(tmp_path, is_old):
    """is_old: a state from before values had the offset, whose model has learned it by its weights."""

    def made(folder, **more):
        reward = scalar_llama()
        fold_bias(reward, OFFSET)
        found = trainer(
            config(episodes=32, save_every=1), model=llama(), reward_model=reward, output_dir=folder, **more
        )
        if is_old and found.learner.iteration == 0:
            found.value_model.config.reward_offset = 0.0
        return found

    whole = made(tmp_path / "whole")
    history = whole.train()
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path / "stopped", callbacks=[Killed()]).train()
    if is_old:
        file = tmp_path / "stopped" / "state.pt"
        state = load_state(file)
        del state["value_offset"]
        save_state(file, state)
    resumed = made(tmp_path / "stopped")
    assert resumed.train() == history and same(weights(resumed.value_model), weights(whole.value_model))
