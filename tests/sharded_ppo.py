"""Run by torchrun or alone: tiny runs, sharded where several processes train; what they logged and learned to a file.

A case of two parts is one of PPO, of three one of tests/sharded_trainers.py.

python -m tests.sharded_ppo OUT SHARD CASE…

WORK: a folder for the training state; SETTINGS: in place of the sizes below, as JSON; STOP_AT: the iteration after whose save the run ends; DEAD_AFTER_S: patience.
"""

import json
import os
import sys
from pathlib import Path

import torch

from rlhf.machine import processes
from rlhf.models.checkpoints import load_policy, load_scalar
from rlhf.sharding import is_sharded
from tests import sharded_trainers
from tests.tiny_ppo import TEXTS, adapters, config, llama, policy, scalar, scalar_llama, trainer

# Odd sizes: shares differ, one minibatch has a row less than there are processes, the last iteration is partial.
SIZES = {
    "episodes": 20, "batch_size": 8, "minibatch_size": 5, "micro_batch_size": 1, "inner_epochs": 2, "whiten_rewards": True,
    "lr": 1e-3, "value_lr": 1e-3,
}  # fmt: skip
MODELS = {
    "gpt": lambda: {"model": policy(n_layer=3), "reward_model": scalar(n_layer=3)},
    "llama": lambda: {
        "model": llama(num_hidden_layers=3, tie_word_embeddings=True),
        "reward_model": scalar_llama(num_hidden_layers=3),
    },
}
VARIANTS = {
    "all": {},
    "lora": {"lr": 1e-4},
    "last": {"last_blocks": 1},
    "ema": {"ema_decay": 0.9},
    "ptx": {"ptx_coef": 0.5, "ptx_examples": 1},
    "again": {"gradient_checkpointing": True},
    "rloo": {
        "advantages": "rloo", "completions_per_prompt": 2, "batch_size": 8, "entropy_coef": 0.01, "top_p": 0.9,
    },
}  # fmt: skip
CASES = [f"{model}-{variant}" for model in MODELS for variant in VARIANTS]


def made(case, shard, **more):
    """The trainer of a case."""
    model, variant = case.split("-")
    parts = MODELS[model]() | ({"peft_config": adapters()} if variant == "lora" else {})
    args = config(**SIZES | VARIANTS[variant] | {"shard": shard} | more.pop("settings", {}))
    return trainer(args, pretrain_dataset=TEXTS if args.ptx_coef else None, **parts, **more)


def result(trained, folder):
    """What a run logged and the weights of the plain folders that it leaves."""
    trained.save_model(folder)
    processes.barrier()
    loaded = {name: load(folder / name) for name, load in (("", load_policy), ("value", load_scalar), ("ema", load_policy)) if (folder / name).exists()}  # fmt: skip
    return trained.log.history, {name: model.state_dict() for name, model in loaded.items()}


def stop_after(save, trained, iteration):
    def save_and_stop():
        save()
        print("saved", trained.learner.iteration, flush=True)
        if trained.learner.iteration == iteration:
            processes.barrier()
            raise SystemExit(0)

    return save_and_stop


def main(out, shard, *cases):
    torch.set_num_threads(1)
    processes.DEAD_AFTER_S = float(os.environ.get("DEAD_AFTER_S", processes.DEAD_AFTER_S))
    processes.join_process_group()
    results, work, own = {}, os.environ.get("WORK"), json.loads(os.environ.get("SETTINGS", "{}"))
    for case in cases:
        if case.count("-") == 2:
            folder = Path(out).parent / f"{Path(out).stem}-trainers"
            folder.mkdir(exist_ok=True)
            results[case] = sharded_trainers.result(case, shard, folder, **own)
            continue
        more = {"settings": {**own, "save_every": 1}, **({"output_dir": work} if work else {})}
        trained = made(case, shard, **more)
        assert is_sharded(trained.model) == (shard == "on")
        if "STOP_AT" in os.environ:
            trained.save_state = stop_after(trained.save_state, trained, int(os.environ["STOP_AT"]))
        trained.train()
        results[case] = result(trained, Path(out).parent / f"{Path(out).stem}-{case}")
    if processes.is_main_process():
        torch.save(results, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
