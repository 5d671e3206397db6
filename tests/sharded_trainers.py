"""Tiny runs of SFT and of reward models, whole stages, for tests/sharded_ppo.py: what they logged and learned."""

import json
from pathlib import Path

import rlhf.learning.optimizers
import rlhf.machine.devices
import stages.reward.stage
import stages.sft.stage
import stages.trainers.parts
from rlhf.machine import processes
from rlhf.models.checkpoints import load_policy, load_scalar
from rlhf.store import Store
from stages import reward, sft
from stages.settings import RewardSettings, SFTSettings
from tests.tiny_ppo import TOKENIZER, llama, policy, quiet, scalar

SAID = ["Tom has a blue boat.", "one", "The red kite", "no"]
MODELS = {
    "gpt": lambda: policy(n_layer=3),
    "llama": lambda: llama(num_hidden_layers=3, tie_word_embeddings=True),
}
# Ten rows in batches of four: the last batch has two, so that of four processes two have nothing to do.
STAGES = {
    "sft": (sft, SFTSettings, {"batch_size": 4, "epochs": 2, "validation_data": "check.jsonl"}),
    "reward": (reward, RewardSettings, {"prompts_per_batch": 4, "epochs": 2, "validation_fraction": 0.0}),
}
VARIANTS = {
    "all": {},
    "lora": {"lora_rank": 2},
    "last": {"last_blocks": 1},
    "again": {"gradient_checkpointing": True},
    "packed": {"packing": True},
    "by_reward": {"reward": "reward/tiny"},
    "muon": {"muon_lr": 0.01},
    "probe": {"probe_l2": 0.1},
}
OF_ONE_STAGE = {"packed": "sft", "by_reward": "sft", "muon": "reward", "probe": "reward"}
CASES = [
    f"{stage}-{model}-{variant}"
    for stage in STAGES for model in MODELS for variant in VARIANTS
    if OF_ONE_STAGE.get(variant, stage) == stage
]  # fmt: skip


def prepared(folder):
    """Data and models in a folder, written once by the first process."""
    if processes.is_main_process() and not (folder / "reward.jsonl").exists():
        rows = [{"prompt": f"Say {i}", "completion": SAID[i % 3]} for i in range(15)]
        rankings = [
            {"prompt": f"Say {'four' * i}", "completions": SAID[: 2 + i % 3], "ranks": [0, *(1 + (i + j) % 3 for j in range(1 + i % 3))]}
            for i in range(10) for _ in range(1 + i % 3)
        ]  # fmt: skip
        for name, made in {**MODELS, "scorer": scalar}.items():
            made().save_pretrained(folder / name)
            TOKENIZER.save(folder / name)
        for name, given in (("check", rows[:5]), ("sft", rows[5:]), ("reward", rankings)):
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in given))
    processes.barrier()


def _in_full_numbers(arguments):
    """Adam's usual ε makes a step of a gradient that is only rounding, such as that of a key's bias."""
    return lambda *given: arguments(*given) | {"adam_epsilon": 1e-5}


def run(case, shard, folder, **more):
    """The entry of a case, trained in the store under `folder`."""
    prepared(folder)
    for module in (rlhf.machine.devices, rlhf.learning.optimizers, stages.trainers.parts):
        module.has_fast_bf16 = lambda device: False  # its rounding depends on how rows are shared out
    for module in (stages.sft.stage, stages.reward.stage):
        if module.common_arguments is stages.trainers.parts.common_arguments:
            module.common_arguments = _in_full_numbers(module.common_arguments)
    stage, model, variant = case.split("-")
    module, kind, sizes = STAGES[stage]
    given = {"base" if stage == "sft" else "init": str(folder / model), "lr": 1e-3, "name": case}
    settings = {
        **sizes,
        **VARIANTS[variant],
        **given,
        "data": str(folder / f"{stage}.jsonl"),
        "shard": shard,
        **more,
    }
    for name, source in (("validation_data", "check.jsonl"), ("reward", "scorer")):
        if settings.get(name):
            settings[name] = str(folder / source)
    return module.run(kind(**settings), Store(folder / "store"), say=quiet)


def result(case, shard, folder, **more):
    """What a case logged and the weights that it left."""
    entry = run(case, shard, Path(folder), **more)
    load = load_policy if case.startswith("sft") else load_scalar
    history = json.loads((entry.path / "history.json").read_text())
    kept = ("step", "loss", "eval_loss", "eval_reward", "train_loss", "grad_norm")
    return (
        [{name: row[name] for name in kept if name in row} for row in history],
        {"": load(entry.path).state_dict()},
    )
