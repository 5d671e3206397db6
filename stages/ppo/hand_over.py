"""`rlhf hand-over`: a PPO run of the store as the files and the command of an engine for many GPUs.

Its prompts as parquet, its starting policy and reward model as plain folders, its settings under the engine's names. A
setting that the engine has no name for is said, never left out in silence.
"""

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from rlhf.data import PromptRow, as_messages
from rlhf.durable import copy_files, new_folder
from rlhf.errors import InputError
from rlhf.inputs import load_prompts
from rlhf.store import Store
from stages.settings import PPOConfig, PPOSettings

ESTIMATORS = {
    "verl": {"gae": "gae", "rloo": "rloo", "grpo": "grpo", "reinforce++": "reinforce_plus_plus"},
    "openrlhf": {"gae": "gae", "rloo": "rloo", "grpo": "group_norm", "reinforce++": "reinforce"},
}
# Settings that change no result there, or that the lines below turn into something else.
TURNED = {
    "episodes", "batch_size", "minibatch_size", "completions_per_prompt", "inner_epochs", "advantages", "kl_in", "kl_estimator",
    "adaptive_kl", "clip", "clip_high", "dual_clip", "entropy_coef", "lr", "value_lr", "kl_coef", "kl_target", "kl_horizon",
    "value_clip", "gamma", "lam", "temperature", "top_p", "top_k", "max_new_tokens", "max_grad_norm", "value_warmup_iterations",
    "policy", "reward", "prompts", "name", "extend", "lora_rank", "seed", "sampler", "recompute_logprobs", "bf16",
}  # fmt: skip
ENGINES_OWN = {
    "missing_eos_penalty",
    "value_coef",
    "warmup_iterations",
    "adam_eps",
}  # defaults of ours that differ there
# What an entry holds that is no part of its model.
OURS = (
    "manifest.json", "history.json", "adapter", "value", "ema", "checkpoints", "state", "samples.jsonl",
)  # fmt: skip


def hand_over(store: Store, reference: str, engine: str, folder: Path, say: Callable[[str], None]) -> None:
    """Write policy/, reward/, prompts.parquet and run.sh for `verl` or `openrlhf` into a new folder, all of them or nothing.

    Raises InputError for an entry that is no PPO run, and for a run with a reward that is not one model of the store.
    """
    entry = store.resolve(reference)
    parents = {role: parent["ref"] for role, parent in entry.manifest["parents"].items()}
    rewards = [ref for ref in parents.values() if ref.startswith("reward/")]
    if entry.stage != "ppo" or "sft" not in parents:
        raise InputError(f"{entry.ref}: name a PPO run whose policy was of the store, ppo/NAME")
    if len(rewards) != 1 or "," in entry.manifest["settings"]["reward"]:
        raise InputError(
            f"{entry.ref}: the engines take one reward model; this run had {entry.manifest['settings']['reward']}"
        )
    known = PPOSettings.__dataclass_fields__
    settings = PPOSettings(
        **{key: value for key, value in entry.manifest["settings"].items() if key in known}
    )
    with new_folder(folder) as new:
        for name, parent in (("policy", parents["sft"]), ("reward", rewards[0])):
            copy_files(store.at(parent).path, new / name, OURS)
        rows, _ = load_prompts(settings.prompts, "train", settings.episodes, settings.seed + 1)
        write_prompts(rows, new / "prompts.parquet")
        lines = {"verl": verl, "openrlhf": openrlhf}[engine](settings, len(rows))
        (new / "run.sh").write_text(
            "#!/bin/sh\n# From " + entry.ref + "; run it in this folder.\n" + " \\\n  ".join(lines) + "\n"
        )
    for line in left_out(settings):
        say(f"hand-over: {line}")


def write_prompts(rows: Sequence[PromptRow], file: Path) -> None:
    """Rows as both engines read them: `prompt`, a list of messages; verl also wants a source and a kind of reward."""
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist(
            [
                {
                    "data_source": "rlhf",
                    "prompt": [dict(message) for message in as_messages(row.prompt)],
                    "reward_model": {"style": "model", "ground_truth": ""},
                    "extra_info": {"index": index},
                }
                for index, row in enumerate(rows)
            ]
        ),
        file,
    )


def verl(config: PPOConfig, num_prompts: int) -> list[str]:
    """The command of verl's PPO trainer; its batches are counted in prompts."""
    each, in_loss = config.completions_per_prompt, config.kl_in == "loss"
    actor, rollout = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
    given: dict[str, Any] = {
        "data.train_files": "prompts.parquet",
        "data.train_batch_size": config.batch_size // each,
        "data.max_response_length": config.max_new_tokens,
        "data.seed": config.seed,
        "actor_rollout_ref.model.path": "policy",
        f"{actor}.optim.lr": config.lr,
        f"{actor}.ppo_mini_batch_size": max(1, config.minibatch_size // each),
        f"{actor}.ppo_epochs": config.inner_epochs,
        f"{actor}.clip_ratio_low": config.clip,
        f"{actor}.clip_ratio_high": config.clip_high or config.clip,
        f"{actor}.clip_ratio_c": config.dual_clip or 1e6,
        f"{actor}.entropy_coeff": config.entropy_coef,
        f"{actor}.loss_agg_mode": "token-mean",
        f"{actor}.grad_clip": config.max_grad_norm,
        f"{actor}.use_kl_loss": in_loss,
        f"{actor}.kl_loss_coef": config.kl_coef,
        f"{actor}.kl_loss_type": "low_var_kl",
        f"{rollout}.name": "vllm",
        f"{rollout}.n": each,
        f"{rollout}.temperature": config.temperature,
        f"{rollout}.top_p": config.top_p,
        f"{rollout}.top_k": config.top_k or -1,
        "algorithm.adv_estimator": ESTIMATORS["verl"][config.advantages],
        "algorithm.gamma": config.gamma,
        "algorithm.lam": config.lam,
        "algorithm.use_kl_in_reward": not in_loss,
        "algorithm.kl_penalty": "kl" if config.kl_estimator == "k1" else "low_var_kl",
        "algorithm.kl_ctrl.type": "adaptive" if config.adaptive_kl else "fixed",
        "algorithm.kl_ctrl.kl_coef": config.kl_coef,
        "algorithm.kl_ctrl.target_kl": config.kl_target,
        "algorithm.kl_ctrl.horizon": config.kl_horizon,
        "reward_model.enable": True,
        "reward_model.model.path": "reward",
        "trainer.total_epochs": -(-config.episodes // (each * num_prompts)),
        "trainer.total_training_steps": config.num_iterations,
        "trainer.critic_warmup": config.value_warmup_iterations,
        "trainer.n_gpus_per_node": "${GPUS:-8}",
        "trainer.nnodes": "${NODES:-1}",
    }
    if config.advantages == "gae":
        given |= {
            "critic.model.path": "reward",
            "critic.optim.lr": config.value_lr,
            "critic.cliprange_value": config.value_clip,
        }
    return ["python -m verl.trainer.main_ppo", *(f"{name}={_word(value)}" for name, value in given.items())]


def openrlhf(config: PPOConfig, num_prompts: int) -> list[str]:
    """The command of OpenRLHF's PPO trainer; its batches are counted in prompts, its updates in completions."""
    each = config.completions_per_prompt
    given: dict[str, Any] = {
        "pretrain": "policy",
        "reward_pretrain": "reward",
        "prompt_data": "prompts.parquet",
        "input_key": "prompt",
        "save_path": "result",
        "num_episodes": -(-config.episodes // (each * num_prompts)),
        "rollout_batch_size": config.batch_size // each,
        "n_samples_per_prompt": each,
        "train_batch_size": config.minibatch_size,
        "max_epochs": config.inner_epochs,
        "generate_max_len": config.max_new_tokens,
        "temperature": config.temperature,
        "top_p": config.top_p,
        "actor_learning_rate": config.lr,
        "critic_learning_rate": config.value_lr,
        "advantage_estimator": ESTIMATORS["openrlhf"][config.advantages],
        "init_kl_coef": config.kl_coef,
        "kl_estimator": config.kl_estimator,
        "gamma": config.gamma,
        "lambd": config.lam,
        "value_clip": config.value_clip,
        "max_norm": config.max_grad_norm,
        "freezing_actor_steps": config.value_warmup_iterations or -1,
        "seed": config.seed,
        "vllm_num_engines": "${GPUS:-8}",
        "actor_num_gpus_per_node": "${GPUS:-8}",
        "actor_num_nodes": "${NODES:-1}",
    }
    lines = [f"--{name} {_word(value)}" for name, value in given.items()]
    lines.append(f"--eps_clip_low_high {config.clip} {config.clip_high or config.clip}")
    lines += [f"--dual_clip {config.dual_clip}"] if config.dual_clip else []
    lines += [f"--entropy_loss_coef {config.entropy_coef}"] if config.entropy_coef else []
    lines += (
        [f"--kl_target {config.kl_target}", f"--kl_horizon {config.kl_horizon}"] if config.adaptive_kl else []
    )
    lines += ["--use_kl_loss"] if config.kl_in == "loss" else []
    return [
        "python -m openrlhf.cli.train_ppo_ray",
        *lines,
        "--apply_chat_template",
        "--bf16",
        "--colocate_all_models",
    ]


def _word(value: Any) -> str:
    text = str(value)
    return f'"{text}"' if text.startswith("${") else shlex.quote(text)


def left_out(config: PPOSettings) -> list[str]:
    """A line for each decisive setting of the run that the command does not carry."""
    lines = [
        f"{name} = {getattr(config, name)} is the engine's own there: set it by hand if it matters"
        for name in sorted(ENGINES_OWN)
    ]
    for name, field in PPOSettings.__dataclass_fields__.items():
        value = getattr(config, name)
        if field.metadata["decides"] and name not in TURNED | ENGINES_OWN and value != field.default:
            lines.append(f"{name} = {value} has no counterpart that this command could set")
    return lines
