"""`last_blocks` through the stages, on four makes of model."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from rlhf.models.checkpoints import load_policy, load_scalar
from rlhf.models.tokenizer import load_tokenizer
from rlhf.store import Store
from stages import ppo, reward, sft
from stages.settings import PPOSettings, RewardSettings, SFTSettings


def quiet(line):
    pass


@pytest.fixture(scope="module")
def tuned(foreign_model, data, tmp_path_factory):
    """A store with an SFT and a reward model of which the last block was trained."""
    store = Store(tmp_path_factory.mktemp("store"))
    small = {"last_blocks": 1, "lr": 1e-2, "name": "f"}
    sft.run(
        SFTSettings(
            base=str(foreign_model), data=data["demonstrations"], epochs=1.0, batch_size=4, **small
        ),
        store, quiet,
    )  # fmt: skip
    reward.run(RewardSettings(data=data["rankings"], prompts_per_batch=4, **small), store, say=quiet)
    return store


def trunk(model):
    return model.base_model.state_dict()


def moved(one, other):
    assert one.keys() == other.keys()
    return {name for name in one if not torch.equal(one[name], other[name])}


def test_what_lies_below_the_last_block_stays_bit_for_bit(foreign_model, tuned):
    base = trunk(AutoModelForCausalLM.from_pretrained(foreign_model))
    policy = AutoModelForCausalLM.from_pretrained(tuned.resolve("sft").path)
    reward = AutoModelForSequenceClassification.from_pretrained(tuned.resolve("reward").path)
    above = {name for name in base if name.startswith(("h.1.", "layers.1.", "ln_f.", "norm."))}
    assert moved(base, trunk(policy)) == above
    assert moved(trunk(policy), trunk(reward)) <= above and len(moved(trunk(policy), trunk(reward))) > 4
    assert (
        policy.config.architectures
        == AutoModelForCausalLM.from_pretrained(foreign_model).config.architectures
    )


PPO = {
    "policy": "sft",
    "last_blocks": 1,
    "episodes": 16,
    "batch_size": 8,
    "minibatch_size": 4,
    "max_new_tokens": 8,
}


def test_ppo_trains_the_same_last_block_and_says_nothing_of_copies(foreign_model, tuned, data):
    lines = []
    final = ppo.run(
        PPOSettings(prompts=data["demonstrations"], lr=1e-2, name="f", **PPO), tuned, lines.append
    )
    before = trunk(load_policy(tuned.resolve("sft").path))
    above = {name for name in before if name.startswith(("h.1.", "layers.1.", "ln_f.", "norm."))}
    assert moved(before, trunk(AutoModelForCausalLM.from_pretrained(final.path))) == above
    assert moved(before, trunk(load_scalar(final.path / "value"))) <= above
    assert not any("lower part" in line for line in lines)


def test_ppo_with_a_reward_model_from_elsewhere_says_that_the_value_model_keeps_its_own(tuned, data):
    lines, elsewhere = [], load_scalar(tuned.resolve("reward").path)
    with torch.no_grad():
        elsewhere.get_input_embeddings().weight[5] += 1
    folder = tuned.root / "elsewhere"
    elsewhere.save_pretrained(folder)
    load_tokenizer(tuned.resolve("reward").path).save(folder)
    settings = PPOSettings(
        prompts=data["demonstrations"], reward=str(folder), name="e", **PPO | {"policy": "sft"}
    )
    final = ppo.run(settings, tuned, lines.append)
    assert sum("the value model's lower part is not the policy's" in line for line in lines) == 1
    above = moved(trunk(elsewhere), trunk(load_scalar(final.path / "value")))
    assert above and all(name.startswith(("h.1.", "layers.1.", "ln_f.", "norm.")) for name in above)
