"""Reward against KL: our PPO beside trl 1.12.0's PPOTrainer, from the same weights, rewards, prompts and settings.

    python benchmarks/ppo_curve.py STORE --out curve.json --plot docs/images/ppo_curve.svg

STORE holds what `rlhf quickstart` leaves (sft, reward). trl 1.12.0 is put into a folder of its own, beside the
installed torch and transformers, so that both sides compute with the same ones. Both run in float32; a score is what
the reward model gives less 1 where an answer does not end.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

EPISODES, BATCH, MINIBATCH, EPOCHS, LR, BETA, NEW_TOKENS = 1536, 128, 32, 2, 2e-4, 0.3, 48
EDGES = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 2.0]  # nats per completion


def starting_point(store):
    """Folders of the SFT and the reward model, and the prompts all runs share."""
    from rlhf.starter.items import take_items
    from rlhf.store import Store

    folders = [Store(Path(store)).resolve(stage).path for stage in ("sft", "reward")]
    return *folders, [item.prompt for item in take_items("train", EPISODES, 1)]


def run_ours(store, seed):
    from rlhf.models.checkpoints import load_policy, load_scalar
    from rlhf.models.tokenizer import load_tokenizer
    from stages.ppo.trainer import PPOConfig, PPOTrainer

    sft, reward, prompts = starting_point(store)
    config = PPOConfig(
        episodes=EPISODES, batch_size=BATCH, minibatch_size=MINIBATCH, inner_epochs=EPOCHS, lr=LR, value_lr=LR, kl_coef=BETA,
        max_new_tokens=NEW_TOKENS, warmup_iterations=0, max_grad_norm=1e9, bf16="off", seed=seed,
    )  # fmt: skip
    trainer = PPOTrainer(
        config, processing_class=load_tokenizer(sft), model=load_policy(sft), reward_model=load_scalar(reward),
        train_dataset=prompts,
    )  # fmt: skip
    return [
        {"kl": row["kl/sequence"], "score": row["reward/score"] - (1 - row["completion/ended"])}
        for row in trainer.train()
    ]


def run_trl(store, seed):
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    from rlhf.models.tokenizer import load_tokenizer

    sft, reward, prompts = starting_point(store)
    ours = load_tokenizer(sft)
    rows = Dataset.from_dict({"input_ids": [ours.encode_prompt(prompt) for prompt in prompts]})
    config = PPOConfig(
        output_dir=tempfile.mkdtemp(), total_episodes=EPISODES, per_device_train_batch_size=BATCH, gradient_accumulation_steps=1,
        num_mini_batches=BATCH // MINIBATCH, num_ppo_epochs=EPOCHS, learning_rate=LR, lr_scheduler_type="constant",
        adam_epsilon=1e-5, kl_coef=BETA, response_length=NEW_TOKENS, temperature=1.0, missing_eos_penalty=1.0, stop_token="eos",
        num_sample_generations=0, logging_steps=1, save_strategy="no", report_to="none", use_cpu=True, bf16=False,
        gradient_checkpointing=False, seed=seed,
    )  # fmt: skip
    scalars = [AutoModelForSequenceClassification.from_pretrained(reward, num_labels=1) for _ in range(2)]
    policies = [AutoModelForCausalLM.from_pretrained(sft) for _ in range(2)]
    trainer = PPOTrainer(
        config, AutoTokenizer.from_pretrained(sft, padding_side="left"), policies[0], policies[1], scalars[0], rows,
        scalars[1], eval_dataset=rows.select(range(2)),
    )  # fmt: skip
    trainer.train()
    history = [row for row in trainer.state.log_history if "objective/kl" in row]
    return [{"kl": row["objective/kl"], "score": row["objective/scores"]} for row in history]


def curves(store, seeds, folder):
    """Every run in a process of its own: {"ours": [history per seed], "trl 1.12.0": […]}."""
    library = Path(folder) / "trl"
    if not library.exists():
        pip = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--no-deps",
            "--target",
            str(library),
            "trl==1.12.0",
        ]
        subprocess.run(pip, check=True)
    found: dict[str, list[Any]] = {"ours": [], "trl 1.12.0": []}
    for seed in seeds:
        for name in found:
            path = [str(Path.cwd())] if name == "ours" else [str(library), str(Path.cwd())]
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "TRL_EXPERIMENTAL_SILENCE": "1"}
            out = Path(folder) / f"{name.split()[0]}-{seed}.json"
            if not out.exists():
                command = [
                    sys.executable,
                    __file__,
                    store,
                    "--one",
                    name,
                    "--seeds",
                    str(seed),
                    "--out",
                    str(out),
                ]
                subprocess.run(command, check=True, env=environment)
            found[name].append(json.loads(out.read_text()))
            print(name, seed, found[name][-1][-1], flush=True)
    return found


def table(found, seed=0):
    """Markdown: mean score of all iterations whose KL falls into each interval, 95 % bootstrap intervals."""
    rng = np.random.default_rng(seed)
    lines = [f"| KL, nats | {' | '.join(found)} |", "|---" * (1 + len(found)) + "|"]
    for low, high in itertools.pairwise(EDGES):
        cells = []
        for histories in found.values():
            scores = np.array(
                [row["score"] for history in histories for row in history if low <= row["kl"] < high]
            )
            if len(scores) == 0:
                cells.append("–")
                continue
            means = rng.choice(scores, (2000, len(scores))).mean(1)
            cells.append(
                f"{scores.mean():.2f} [{np.quantile(means, 0.025):.2f}, {np.quantile(means, 0.975):.2f}], {len(scores)}"
            )
        lines.append(f"| {low}–{high} | {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(found, path):
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4))
    for color, (name, histories) in zip(("C0", "C1"), found.items(), strict=True):
        for number, history in enumerate(histories):
            label = name if number == 0 else None
            axes.plot(
                [r["kl"] for r in history],
                [r["score"] for r in history],
                "o",
                ms=4,
                color=color,
                label=label,
            )
    axes.set(
        xlabel="KL to the SFT model, nats per completion",
        ylabel="score",
        title=f"Reward against KL, {len(next(iter(found.values())))} seed(s) each",
    )
    axes.legend()
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.patch.set_facecolor("white")
    figure.savefig(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store")
    parser.add_argument("--out", required=True)
    parser.add_argument("--plot")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--one", choices=["ours", "trl 1.12.0"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        run = run_ours if options.one == "ours" else run_trl
        result = run(options.store, options.seeds[0])
    else:
        result = curves(options.store, options.seeds, f"{options.out}.runs")
        print(table(result))
        if options.plot:
            plot(result, options.plot)
    Path(options.out).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
