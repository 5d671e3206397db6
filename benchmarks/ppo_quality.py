"""PPO beside best-of-n by the starter world's judge, and what PPO-ptx does to the base corpus's perplexity.

    python benchmarks/ppo_quality.py STORE… --out quality.json

Each STORE is one seed of `rlhf quickstart`: its sft and reward are the start. Per seed three PPO runs of the same length:
kept within best-of-4's KL, within best-of-16's, and the latter with PPO-ptx at γ = 27.8. The judge scores answers to test
prompts no stage has seen; perplexity is per token on documents of the starter corpus no stage has seen.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlhf.data import PromptRow
from rlhf.inputs import packed_tokens
from rlhf.measuring.best_of import kl_of_best_of
from rlhf.measuring.evaluate import win_rate
from rlhf.models.checkpoints import load_policy
from rlhf.models.tokenizer import load_tokenizer
from rlhf.starter.corpus import corpus
from rlhf.starter.items import take_items
from rlhf.store import Store
from stages import ppo
from stages.judging.answers import Model, answer, best_of, rewards_as_seen
from stages.judging.evaluate import starter_judge
from stages.judging.judges import named_scorer
from stages.judging.judgment import win_rate_fields
from stages.judging.kept import MeasurementCache
from stages.settings import PPOSettings

NUM_PROMPTS, UNSEEN_WORDS, UNSEEN_SEED = 600, 20_000, 987_654
RUNS: dict[str, dict[str, Any]] = {
    "ppo, KL of best of 4": {"kl_coef": 0.5, "kl_budget": 0.6},
    "ppo, KL of best of 16": {"kl_coef": 0.1, "kl_budget": 1.6},
    "ppo-ptx, KL of best of 16": {"kl_coef": 0.1, "kl_budget": 1.6, "ptx_coef": 27.8, "ptx_examples": 2},
}
SHARED = PPOSettings(episodes=6400, lr=4e-4)  # quickstart's


def trained(store, seed):
    """The SFT model and every PPO run of one seed: store references by name."""
    found = {"sft": store.resolve("sft").ref}
    for number, (name, settings) in enumerate(RUNS.items()):
        found[name] = ppo.run(replace(SHARED, **settings, seed=seed, name=f"quality-{number}"), store).ref
    return found


def scores_by_name(store, references, seed):
    """Scores of all answers by name, and their KL to the SFT model."""
    items, kept = take_items("test", NUM_PROMPTS, seed + 1), MeasurementCache(None, lambda line: None)
    rows = [PromptRow(prompt=item.prompt) for item in items]
    models = {name: Model(store.resolve(ref).path, ref) for name, ref in references.items()}
    how: Any = {"temperature": 1.0, "max_new_tokens": 48}

    def sampled(name, place, n=1):
        reference = None if name == "sft" else models["sft"]
        prompts = [row.prompt for row in rows]
        return answer(models[name], reference, prompts, n=n, seed=seed + 1_000_003 * place, **how)

    answers = {name: sampled(name, place) for place, name in enumerate(models)}
    kl = {name: given.mean_kl for name, given in answers.items()}
    reward = named_scorer(store, "reward", kept)
    for place, n in enumerate((4, 16), start=len(models)):
        candidates = sampled("sft", place, n)
        scores = [score for score in reward.scores(rows, "sft", candidates) if score is not None]
        seen = rewards_as_seen(candidates, scores, 1.0)
        kl[f"best of {n}"] = round(kl_of_best_of(n), 4)
        answers[f"best of {n}"] = best_of(candidates, seen, n, kl[f"best of {n}"])
    judge = starter_judge(items, kept)
    return {name: judge.scores(rows, name, given) for name, given in answers.items()}, kl


@torch.no_grad()
def perplexity(folder):
    """exp of the mean loss per token on unseen documents of the starter corpus, in rows of 128 tokens."""
    policy, tokenizer = load_policy(folder).eval(), load_tokenizer(folder)
    tokens = packed_tokens(tokenizer, corpus(UNSEEN_WORDS, UNSEEN_SEED))
    rows = tokens[: len(tokens) // 128 * 128].view(-1, 128)
    losses = [float(policy(input_ids=part, labels=part).loss) * len(part) for part in rows.split(64)]
    return float(np.exp(sum(losses) / len(rows)))


def one_seed(path, seed):
    store = Store(Path(path))
    references = trained(store, seed)
    scores, kl = scores_by_name(store, references, seed)
    rows = {
        name: {
            "kl": kl[name],
            "score": float(np.mean(given)),
            "over sft": win_rate_fields(win_rate(given, scores["sft"])),
            "over best of 4": win_rate_fields(win_rate(given, scores["best of 4"])),
            "over best of 16": win_rate_fields(win_rate(given, scores["best of 16"])),
        }
        for name, given in scores.items()
    }
    for name, reference in {"base": "base", **references}.items():
        rows.setdefault(name, {})["perplexity"] = round(perplexity(store.resolve(reference).path), 3)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stores", nargs="+")
    parser.add_argument("--out", required=True)
    options = parser.parse_args()
    results = {path: one_seed(path, seed) for seed, path in enumerate(options.stores)}
    Path(options.out).write_text(json.dumps(results, indent=1))
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
