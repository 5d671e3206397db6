"""What decides a result is known by its content: other weights, rewards or prompts under the same name are another run."""

import json

import pytest
import torch
from peft import LoraConfig

from rlhf.errors import InputError
from rlhf.learning.training import load_state, save_state
from rlhf.models.tokenizer import train_tokenizer
from rlhf.store import Store
from stages import reward, sft
from stages.ppo.trainer import run as run_ppo
from stages.settings import PPOSettings, RewardSettings, SFTSettings
from tests.tiny_ppo import (
    CONFIG,
    PROMPTS,
    TEXTS,
    TOKENIZER,
    config,
    count_e,
    policy,
    quiet,
    scalar,
    trainer,
)

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


def near_a(prompts, completions, answer):
    return [float(text.count(letter)) for text, letter in zip(completions, answer, strict=True)]


def asked(letter):
    rows = [{"prompt": prompt, "answer": letter, "unread": letter} for prompt in PROMPTS]
    return {"reward_model": near_a, "train_dataset": rows}


def lora(**more):
    return {"peft_config": LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True, **more)}


def on_text(*texts):
    return {"args": config(ptx_coef=1.0), "pretrain_dataset": [*texts] * 20}


def measured_on(*prompts):
    return {"args": config(eval_every=1), "eval_dataset": prompts}


TWO_RUNS = {
    "prompts": ({}, {"train_dataset": ["other"]}),
    "prompts, by a column that a reward reads": (asked("a"), asked("b")),
    "policy": ({}, {"model": policy(initializer_range=0.1)}),
    "reward ScalarGPT": ({}, {"reward_model": scalar(initializer_range=0.1)}),
    "reward count_e": ({"reward_model": count_e}, {"reward_model": count_a}),
    "reward count_a": ({"reward_model": [count_e, count_a]}, {"reward_model": count_e}),
    "order of rewards": ({"reward_model": [count_e, count_a]}, {"reward_model": [count_a, count_e]}),
    "tokenizer of reward": ({}, {"reward_processing_class": train_tokenizer(TEXTS, 290)}),
    "reference": ({}, {"ref_model": policy(initializer_range=0.1)}),
    "value model": ({}, {"value_model": scalar(initializer_range=0.1)}),
    "settings": ({}, {"args": config(lr=1e-2)}),
    "pretraining text": (on_text(*TEXTS), on_text("one two three four ")),
    "evaluation prompts": (measured_on("one"), measured_on("two")),
    "adapters": ({}, lora(r=2)),
    "adapters, by their rank": (lora(r=2), lora(r=4)),
    "adapters, by a factor": (lora(r=2, lora_alpha=8), lora(r=2, lora_alpha=80)),
}


@pytest.mark.parametrize("back", [False, True], ids=["", "and back"])
@pytest.mark.parametrize("what", TWO_RUNS)
def test_a_state_of_another_run_is_refused_by_what_differs(what, back, tmp_path):
    one, other = reversed(TWO_RUNS[what]) if back else TWO_RUNS[what]
    trainer(output_dir=tmp_path, **one).save_state()
    trainer(output_dir=tmp_path, **one)
    with pytest.raises(InputError, match=f"a run with another .*{what.split(',')[0]}"):
        trainer(output_dir=tmp_path, **other)


def cut_off(file):
    file.write_bytes(file.read_bytes()[:1000])


def of_an_older_version(file):
    state = load_state(file)
    del state["identity"]["order of rewards"], state["identity"]["adapters"]
    save_state(file, state)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (cut_off, "holds no training state"),
        (lambda file: file.write_bytes(b""), "holds no training state"),
        (lambda file: torch.save([1], file), "no training state but a list"),
        (lambda file: torch.save({"model": 1}, file), "not the state of a run of PPO"),
        (of_an_older_version, "a run with another order of rewards and adapters"),
    ],
    ids=["cut off", "empty", "a list", "of another program", "of an older version"],
)
def test_a_state_that_is_none_or_is_an_older_versions_is_a_line_that_names_the_file(change, said, tmp_path):
    trainer(output_dir=tmp_path).save_state()
    change(tmp_path / "state.pt")
    with pytest.raises(InputError, match=f"state.pt: .*{said}"):
        trainer(output_dir=tmp_path)


def test_a_column_that_no_reward_reads_makes_no_other_run(tmp_path):
    trainer(output_dir=tmp_path, **asked("a")).save_state()
    rows = [row | {"unread": "b"} for row in asked("a")["train_dataset"]]
    trainer(output_dir=tmp_path, **asked("a") | {"train_dataset": rows})


def test_a_model_is_saved_twice_into_one_folder(tmp_path):
    made = trainer(config(keep_every=1), output_dir=tmp_path / "work")
    made.train()
    for _ in range(2):
        made.save_model(tmp_path / "result")
    assert (tmp_path / "result/checkpoints/000008/config.json").exists()
