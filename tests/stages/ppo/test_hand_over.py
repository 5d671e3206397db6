"""A PPO run as files of another engine: prompts, models, and a command that carries the settings or says what it cannot."""

import re
import shlex
from pathlib import Path

import pyarrow.parquet
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from rlhf.errors import InputError, StoreError
from stages.ppo.hand_over import hand_over
from tests import command_line
from tests.tiny_ppo import PROMPTS, ppo_command, tiny_store

SETTINGS = {
    "advantages": "grpo", "completions_per_prompt": 4, "kl_in": "loss", "kl_estimator": "k3", "kl_coef": 0.05, "clip_high": 0.28,
    "temperature": 0.9, "top_p": 0.95, "inner_epochs": 2, "filter_overlong": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("over")
    made = tiny_store(folder / "store")
    (folder / "prompts.jsonl").write_text("".join(f'{{"prompt": "{p}"}}\n' for p in PROMPTS))
    done = command_line.rlhf(*ppo_command(made, folder / "prompts.jsonl", "grpo", **SETTINGS), folder=folder)
    assert done.returncode == 0, done.stderr[-2000:]
    return made


def words(folder):
    """The command of run.sh as words."""
    text = (folder / "run.sh").read_text()
    return shlex.split(re.sub(r"\\\n", " ", text.split("\n", 2)[2]))


def test_verl_gets_models_prompts_and_settings(store, tmp_path):
    said = []
    hand_over(store, "ppo/grpo", "verl", tmp_path / "out", said.append)
    given = dict(word.split("=", 1) for word in words(tmp_path / "out")[3:])
    wanted = {
        "data.train_batch_size": "2", "actor_rollout_ref.rollout.n": "4", "algorithm.adv_estimator": "grpo",
        "actor_rollout_ref.actor.use_kl_loss": "True", "actor_rollout_ref.actor.kl_loss_coef": "0.05",
        "algorithm.use_kl_in_reward": "False", "actor_rollout_ref.actor.clip_ratio_low": "0.2",
        "actor_rollout_ref.actor.clip_ratio_high": "0.28", "actor_rollout_ref.actor.ppo_mini_batch_size": "1",
        "actor_rollout_ref.actor.ppo_epochs": "2", "actor_rollout_ref.rollout.temperature": "0.9",
        "actor_rollout_ref.rollout.top_p": "0.95", "trainer.total_training_steps": "2", "data.max_response_length": "8",
    }  # fmt: skip
    assert given.items() >= wanted.items() and not any(name.startswith("critic.") for name in given)
    assert any("filter_overlong = True has no counterpart" in line for line in said)
    assert any("missing_eos_penalty" in line for line in said) and not any(
        "clip_high" in line for line in said
    )
    rows = pyarrow.parquet.read_table(tmp_path / "out/prompts.parquet").to_pylist()
    assert [row["prompt"] for row in rows] == [[{"role": "user", "content": p}] for p in PROMPTS]
    policy = AutoModelForCausalLM.from_pretrained(tmp_path / "out/policy")
    reward = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out/reward")
    start = AutoModelForCausalLM.from_pretrained(store.resolve("sft").path)
    assert all(torch.equal(a, b) for a, b in zip(policy.parameters(), start.parameters(), strict=True))
    assert (
        reward.config.num_labels == 1 and AutoTokenizer.from_pretrained(tmp_path / "out/policy").chat_template
    )


def test_openrlhf_gets_the_same_run_under_its_names(store, tmp_path):
    hand_over(store, "ppo/grpo", "openrlhf", tmp_path / "out", lambda line: None)
    given = words(tmp_path / "out")
    at = lambda name: given[given.index(f"--{name}") + 1]  # noqa: E731
    assert at("advantage_estimator") == "group_norm" and at("n_samples_per_prompt") == "4"
    assert at("rollout_batch_size") == "2" and at("train_batch_size") == "4" and at("max_epochs") == "2"
    assert given[given.index("--eps_clip_low_high") + 1 :][:2] == ["0.2", "0.28"] and "--use_kl_loss" in given
    assert at("init_kl_coef") == "0.05" and at("kl_estimator") == "k3" and "--dual_clip" not in given


def test_what_cannot_be_handed_over_is_said(store, tmp_path):
    quiet = lambda line: None  # noqa: E731
    with pytest.raises(InputError, match="name a PPO run"):
        hand_over(store, "sft", "verl", tmp_path / "a", quiet)
    (tmp_path / "b").mkdir()
    with pytest.raises(StoreError, match="exists already"):
        hand_over(store, "ppo/grpo", "verl", tmp_path / "b", quiet)
    prompts = Path(store.resolve("ppo/grpo").manifest["settings"]["prompts"])
    prompts = prompts.rename(tmp_path / "moved.jsonl"), prompts
    with pytest.raises(InputError, match="no such file"):
        hand_over(store, "ppo/grpo", "verl", tmp_path / "c", quiet)
    prompts[0].rename(prompts[1])
    assert [path.name for path in tmp_path.iterdir()] == ["b"], "nothing half-written stays"


def test_the_command_line_prints_the_script(store, tmp_path):
    given = ["hand-over", "ppo/grpo", str(tmp_path / "out"), "--to", "verl", "--store", str(store.root)]
    done = command_line.rlhf(*given, folder=tmp_path)
    assert done.returncode == 0 and done.stdout.strip() == str(tmp_path / "out/run.sh")
