"""LoRA through SFT, reward and PPO: plain checkpoints, and one base in memory under four models of PPO."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from rlhf.errors import InputError
from rlhf.learning.reward_sources import load_rewards
from rlhf.learning.rewards import score_completions
from rlhf.models.adapters import is_adapted, lora, reward_model_over, trunk_hash
from rlhf.models.checkpoints import load_policy, load_scalar
from rlhf.models.tokenizer import load_tokenizer
from rlhf.store import Store
from stages import ppo, reward, sft
from stages.ppo.models import assemble_models
from stages.ppo.trainer import PPOTrainer
from stages.settings import PPOSettings, RewardSettings, SFTSettings
from tests.slow.tiny_architectures import tiny_model
from tests.tiny_ppo import PROMPTS, TOKENIZER, config, count_e

SMALL = {"lora_rank": 4, "lr": 1e-2, "name": "f"}
PPO = {"policy": "sft", "episodes": 16, "batch_size": 8, "minibatch_size": 4, "max_new_tokens": 8, **SMALL}


def quiet(line):
    pass


@pytest.fixture(scope="module")
def tuned(foreign_model, data, tmp_path_factory):
    """A store with an SFT and a reward model trained by adapters."""
    store = Store(tmp_path_factory.mktemp("store"))
    base = {"base": str(foreign_model), "data": data["demonstrations"], "batch_size": 4}
    sft.run(SFTSettings(**base, **SMALL), store, quiet)
    reward.run(RewardSettings(data=data["rankings"], prompts_per_batch=4, **SMALL), store, say=quiet)
    return store


def moved(one, other):
    one, other = one.base_model.state_dict(), other.base_model.state_dict()
    assert one.keys() == other.keys()
    return {name for name in one if not torch.equal(one[name], other[name])}


def test_adapters_are_merged_into_plain_checkpoints(foreign_model, tuned):
    base = AutoModelForCausalLM.from_pretrained(foreign_model)
    policy = AutoModelForCausalLM.from_pretrained(tuned.resolve("sft").path)
    reward = AutoModelForSequenceClassification.from_pretrained(tuned.resolve("reward").path)
    for one, other in ((base, policy), (policy, reward)):
        changed = moved(one, other)
        assert len(changed) >= 8
        # Our GPT carries the shift that gives demonstrations mean reward 0 in its final norm.
        assert all(".weight" in name and "norm" not in name for name in changed - {"ln_f.bias"})


def test_a_reward_model_over_the_policys_weights_gives_the_scores_of_its_checkpoint(tuned):
    folder, policy = tuned.resolve("reward").path, load_policy(tuned.resolve("sft").path)
    rows, tokenizer = [("Say 1", "It is red."), ("Say 2 or 3", "No.")], load_tokenizer(folder)
    over = reward_model_over(folder, policy)
    whole = score_completions(load_scalar(folder), tokenizer, rows, bf16="off")
    assert score_completions(over, tokenizer, rows, bf16="off") == pytest.approx(whole, abs=1e-4)
    assert whole[0] != pytest.approx(whole[1], abs=1e-3)
    mine = {id(p) for p in policy.base_model.parameters()}
    own = [name for name, p in over.named_parameters() if id(p) not in mine]
    assert own and all("lora_" in name or "score" in name or "ln_f.bias" in name for name in own)


def test_over_another_trunk_there_is_no_such_model(foreign_model, tuned):
    folder = tuned.resolve("reward").path
    base = load_policy(foreign_model)
    assert trunk_hash(base) != trunk_hash(load_policy(tuned.resolve("sft").path))
    assert (
        reward_model_over(folder, base) is None and reward_model_over(tuned.resolve("sft").path, base) is None
    )


def test_four_models_of_ppo_hold_one_base(tuned):
    policy = load_policy(tuned.resolve("sft").path)
    base = {id(p): p.numel() for p in policy.parameters()}
    rewards, *_ = load_rewards(tuned, "reward", policy, quiet)
    tokenizer = load_tokenizer(tuned.resolve("sft").path)
    models = assemble_models(
        policy, None, None, rewards, tokenizer, peft_config=lora(4), last_blocks=0, say=quiet
    )
    assert models.reference is None  # the policy with its adapters off
    own = [
        {name: p for name, p in model.named_parameters() if id(p) not in base}
        for model in (models.policy, models.value_model, rewards[0].source)
    ]
    assert all(own) and len({id(p) for each in own for p in each.values()}) == sum(map(len, own))
    # The reward's offset stands in the final norm's bias, which nothing trains.
    assert all("lora_" in name or "score" in name or "ln_f.bias" in name for each in own for name in each)
    assert {n for n, p in models.value_model.named_parameters() if p.requires_grad} == {
        n for n in own[1] if "original_module" not in n and "ln_f" not in n
    }
    assert not any(p.requires_grad for p in rewards[0].source.parameters())
    assert {n for n, p in models.policy.named_parameters() if p.requires_grad} == set(own[0])


def test_ppo_by_adapters_ends_in_plain_checkpoints(tuned, data):
    lines = []
    final = ppo.run(PPOSettings(prompts=data["demonstrations"], value_lr=1e-2, **PPO), tuned, lines.append)
    assert not any("whole beside" in line or "new head" in line for line in lines)
    policy, value = AutoModelForCausalLM.from_pretrained(final.path), load_scalar(final.path / "value")
    assert not is_adapted(policy) and moved(policy, load_policy(tuned.resolve("sft").path))
    assert moved(value, load_scalar(tuned.resolve("reward").path))


def test_a_reward_model_trained_otherwise_is_held_whole_and_ppo_says_so(tuned, data):
    lines = []
    reward.run(RewardSettings(data=data["rankings"], prompts_per_batch=4, name="whole"), tuned, say=quiet)
    settings = PPOSettings(prompts=data["demonstrations"], reward="reward/whole", **PPO | {"name": "w"})
    ppo.run(settings, tuned, lines.append)
    assert sum("reward/whole was not trained by adapters over this policy" in line for line in lines) == 1


@pytest.mark.parametrize("more", [{"last_blocks": 1}, {"muon_lr": 0.01}])
def test_what_does_not_go_with_adapters_is_refused(tuned, data, more):
    settings = RewardSettings(data=data["rankings"], **SMALL | {"name": "x"} | more)
    with pytest.raises(InputError, match=r"choose one of them|leave it 0"):
        reward.run(settings, tuned, say=quiet)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mamba", "mamba: peft puts no such adapters on it"),
        ("zamba2", "zamba2: .* and .* are one weight"),
        ("phimoe", "Phimoe.* cannot .* a text of plain tokens: AttributeError"),
    ],
)
def test_families_that_adapters_do_not_go_with_are_refused_before_training(name, said, data, tmp_path):
    folder, store = tmp_path / name, Store(tmp_path / "store")
    tiny_model(name).save_pretrained(folder)
    TOKENIZER.save(folder)
    stages = (
        lambda: sft.run(SFTSettings(base=str(folder), data=data["demonstrations"], **SMALL), store, quiet),
        lambda: reward.run(RewardSettings(init=str(folder), data=data["rankings"], **SMALL), store, say=quiet),
        lambda: PPOTrainer(
            config(), processing_class=TOKENIZER, model=load_policy(folder), reward_model=count_e, peft_config=lora(4),
            train_dataset=PROMPTS, say=quiet,
        ),
    )  # fmt: skip
    for stage in stages:
        with pytest.raises(InputError, match=said):
            stage()
    assert not store.entries()
