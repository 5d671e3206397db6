"""What decides a result is known by its content: other weights, rewards or prompts under the same name are another run."""

import json

import pytest

from rlhf.errors import InputError
from rlhf.store import Store
from stages import reward, sft
from stages.ppo.trainer import run as run_ppo
from stages.settings import PPOSettings, RewardSettings, SFTSettings
from tests.tiny_ppo import CONFIG, PROMPTS, TOKENIZER, config, count_e, policy, quiet, scalar, trainer

ROWS = [{"prompt": f"Say {n}", "completion": f"I say {n}."} for n in range(12)]
RANKED = [{"prompt": f"q{n}", "completions": ["Red.", "No."], "ranks": [0, 1]} for n in range(8)]


def put_model(folder, **more):
    policy(**more).save_pretrained(folder)
    TOKENIZER.save(folder)
    return str(folder)


def put_reward(folder, **more):
    scalar(**more).save_pretrained(folder)
    TOKENIZER.save(folder)
    return str(folder)


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def fine_tune(store, place):
    data = written(place / "d.jsonl", ROWS)
    return sft.run(
        SFTSettings(base=str(place / "policy"), data=data, epochs=1.0, max_length=64), store, quiet
    )


def rank(store, place):
    data = written(place / "r.jsonl", RANKED)
    settings = RewardSettings(init=str(place / "policy"), data=data, prompts_per_batch=4, max_length=64)
    return reward.run(settings, store, say=quiet)


def reinforce(store, place):
    prompts = written(place / "p.jsonl", [{"prompt": prompt} for prompt in PROMPTS])
    settings = PPOSettings(
        **CONFIG, policy=str(place / "policy"), reward=str(place / "reward"), prompts=prompts
    )
    return run_ppo(settings, store, quiet)


@pytest.mark.parametrize("stage", [fine_tune, rank, reinforce])
def test_other_weights_in_the_same_folder_make_another_entry(stage, tmp_path):
    store = Store(tmp_path / "store")
    put_model(tmp_path / "policy")
    put_reward(tmp_path / "reward")
    first = stage(store, tmp_path)
    assert stage(store, tmp_path).ref == first.ref
    put_model(tmp_path / "policy", initializer_range=0.1)
    assert stage(store, tmp_path).ref != first.ref


def test_another_reward_model_in_the_same_folder_makes_another_ppo_entry(tmp_path):
    store = Store(tmp_path / "store")
    put_model(tmp_path / "policy")
    put_reward(tmp_path / "reward")
    first = reinforce(store, tmp_path)
    put_reward(tmp_path / "reward", initializer_range=0.1)
    assert reinforce(store, tmp_path).ref != first.ref


def test_the_reward_model_that_picks_sfts_epoch_is_a_parent(tmp_path):
    store = Store(tmp_path / "store")
    put_model(tmp_path / "policy")
    judge = rank(store, tmp_path)
    settings = SFTSettings(
        base=str(tmp_path / "policy"),
        data=written(tmp_path / "d.jsonl", ROWS),
        reward="reward",
        epochs=1.0,
        max_length=64,
    )
    entry = sft.run(settings, store, quiet)
    assert entry.manifest["parents"]["reward"]["hash"] == judge.hash
    with store.new("reward", "newer", parents={}, settings={}, data={}, seed=0) as writer:
        scalar(initializer_range=0.1).save_pretrained(writer.path)
        TOKENIZER.save(writer.path)
    assert sft.run(settings, store, quiet).ref != entry.ref


def count_a(prompts, completions):
    return [float(text.count("a")) for text in completions]


OTHERS = {
    "prompts": {"train_dataset": ["other"]},
    "policy": {"model": policy(initializer_range=0.1)},
    "reward ScalarGPT": {"reward_model": scalar(initializer_range=0.1)},
    "reference": {"ref_model": policy(initializer_range=0.1)},
    "settings": {"args": config(lr=1e-2)},
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_state_of_another_run_is_refused_by_what_differs(what, tmp_path):
    trainer(output_dir=tmp_path).save_state()
    trainer(output_dir=tmp_path)
    with pytest.raises(InputError, match=what):
        trainer(output_dir=tmp_path, **OTHERS[what])


def test_a_state_of_another_reward_function_is_refused(tmp_path):
    trainer(output_dir=tmp_path, reward_model=count_e).save_state()
    trainer(output_dir=tmp_path, reward_model=count_e)
    with pytest.raises(InputError, match="reward"):
        trainer(output_dir=tmp_path, reward_model=count_a)


def test_a_model_is_saved_twice_into_one_folder(tmp_path):
    made = trainer(config(keep_every=1), output_dir=tmp_path / "work")
    made.train()
    for _ in range(2):
        made.save_model(tmp_path / "result")
    assert (tmp_path / "result/checkpoints/000008/config.json").exists()
