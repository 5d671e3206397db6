"""What `rlhf quickstart` measures at its end, and what it adds to the report: stages, curves, held-out labels."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from annotate.labels import LabelStore
from rlhf.data import PromptRow
from rlhf.measuring.ranked_pairs import accuracy, ranked_pairs
from rlhf.starter.items import take_items
from rlhf.starter.judge import judge
from rlhf.store import Entry
from stages.judging.answers import Model
from stages.judging.evaluate import starter_items, starter_judge
from stages.judging.judges import model_scorer
from stages.judging.judgment import Judgment
from stages.judging.kept import MeasurementCache
from stages.judging.reward_models import report_on_reward_model
from stages.judging_settings import EvalSettings
from stages.report.histories import history_curves

BEST_OF = 4
PAIRS = (("sft", "base"), ("ppo", "sft"), (f"best of {BEST_OF}", "sft"), ("ppo", f"best of {BEST_OF}"))
NOTE = "Labels in this run are by simulated labelers; the judge is the starter world's checker, whose rules no model was shown."
CURVES = {
    "base": (("train/loss", "loss, nats per token"),),
    "reward": (("loss", "ranking loss"),),
    "ppo": (
        ("reward/score", "reward"),
        ("kl/sequence", "KL to the reference, nats"),
        ("completion/length", "tokens per completion"),
        ("value/explained_variance", "explained variance of values"),
    ),
}


def judge_all(
    settings: EvalSettings, models: Mapping[str, Entry], labels_url: str | None, batch: str, say: Callable[[str], None]
) -> dict[str, Any]:  # fmt: skip
    """Every comparison of the pipeline on test prompts, at temperature 1, greedily and on held-out wordings.

    The first of these settings gives all that the report has besides comparisons. batch: held-out labels.
    """
    results: dict[str, Any] = {}
    comparisons = []
    wordings = ((settings.split, 1.0), (settings.split, 0.0), ("held-out", 1.0), ("held-out", 0.0))
    for split, temperature in wordings:
        say(f"eval: {settings.num_prompts} {split} prompts, temperature {temperature:g}")
        here = replace(settings, split=split, temperature=temperature, best_of=BEST_OF if temperature else 0)
        found = _judged(here, models)
        results = results or found
        pairs = {(row["policy"], row["against"]): row for row in found["comparisons"]}
        comparisons += [
            {"split": split, "temperature": temperature, **pairs[pair], **_of_policy(found, pair[0])}
            for pair in PAIRS
            if set(pair) <= set(found["policies"])
        ]
    reward_model, by_judge = _on_labels(models["reward"], labels_url, batch, settings)
    return results | {
        "split": settings.split,
        "comparisons": comparisons,
        "reward_models": {"reward": {"test": reward_model}},
        "judge_on_labels": by_judge,
    }


def _judged(settings: EvalSettings, models: Mapping[str, Entry]) -> dict[str, Any]:
    items = starter_items(settings)
    kept, reward = MeasurementCache(None, lambda line: None), models["reward"]
    policies = {name: Model(models[name].path, models[name].hash) for name in ("base", "sft", "ppo")}
    rows = [PromptRow(prompt=item.prompt) for item in items]
    scorer = model_scorer(reward.path, reward.hash, "reward", kept)
    return Judgment(
        settings, policies, "sft", rows, starter_judge(items, kept), scorer, kept, settings.seed
    ).run()


def _of_policy(found: Mapping[str, Any], name: str) -> dict[str, Any]:
    described = found["policies"][name]
    return {key: described[key] for key in ("kl", "mean_score", "mean_length", "ended")}


def _on_labels(
    reward: Entry, labels_url: str | None, batch: str, settings: EvalSettings
) -> tuple[dict[str, Any], list[float]]:
    """What the reward model is worth on held-out labels, and how well the judge predicts them."""
    with LabelStore(labels_url) as labels:
        rankings = labels.rankings(batch)
    items = {item.prompt: item for item in take_items("validation", 5 * len(rankings), settings.seed)}
    by_judge = [
        [judge(items[str(ranking.prompt)], text, True).score for text in ranking.completions]
        for ranking in rankings
    ]
    found = report_on_reward_model(reward.path, {batch: rankings})
    return found, accuracy(ranked_pairs(rankings, by_judge))


def steps_and_curves(results: Mapping[str, Any], models: Mapping[str, Entry]) -> dict[str, Any]:
    """The fields `note`, `steps` and `histories` of the report's results."""
    labels = results["reward_models"]["reward"]["test"]
    reached = {
        "base": f"validation loss {models['base'].manifest['metrics']['validation_loss']}",
        "sft": f"validation loss {models['sft'].manifest['metrics']['validation_loss']}",
        "labels": f"simulated labelers agree on {labels['labelers_agree']:.1%}",
        "reward": f"predicts {labels['accuracy'][0]:.1%} of {labels['pairs']} held-out pairs (judge {results['judge_on_labels'][0]:.1%})",
        "ppo": "reward {reward}, KL {kl} nats".format(**models["ppo"].manifest["metrics"]),
        "eval": f"{results['prompts']} {results['split']} prompts",
    }
    trained = {name: model.manifest["metrics"].get("train_s") for name, model in models.items()}
    steps = {name: {"reached": text, "train_s": trained.get(name)} for name, text in reached.items()}
    return {"note": NOTE, "steps": steps, "histories": history_curves(models, CURVES, "step")}
