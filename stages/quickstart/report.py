"""What a run of the whole pipeline shows for itself: every comparison with its interval, answers side by side, curves."""

import html
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from annotate.labels import LabelStore
from rlhf.inputs import starter_items
from rlhf.measuring.evaluate import win_rate
from rlhf.measuring.ranked_pairs import accuracy, ranked_pairs
from rlhf.starter.items import Item
from rlhf.starter.judge import judge
from rlhf.store import Entry, Store, write_text
from stages.judging.answers import Answers, answer_prompts, best_of
from stages.judging.evaluate import judge_scores, kl_between, win_rate_fields
from stages.judging.reward_models import report_on_reward_model
from stages.page import page, rate, table
from stages.settings import EvalSettings

NUM_EXAMPLES = 10
BEST_OF = 4


def judge_all(
    settings: EvalSettings, store: Store, models: Mapping[str, Entry], labels_url: str | None, batches: tuple[str, str],
    say: Callable[[str], None],
) -> dict[str, Any]:  # fmt: skip
    """Every comparison of the pipeline on test prompts, at temperature 1, greedily and on held-out wordings."""
    results: dict[str, Any] = {"prompts": settings.num_prompts, "split": settings.split, "comparisons": []}
    wordings = ((settings.split, 1.0), (settings.split, 0.0), ("held-out", 1.0), ("held-out", 0.0))
    for split, temperature in wordings:
        say(f"eval: {settings.num_prompts} {split} prompts, temperature {temperature:g}")
        here = replace(settings, split=split, temperature=temperature)
        rows, examples = _compare(here, store, models)
        results["comparisons"] += rows
        if temperature == 1.0 and split == settings.split:
            results["examples"] = examples
    results["reward_model"] = label_accuracy(models["reward"], labels_url, batches[1], settings)
    return results


def _compare(
    settings: EvalSettings, store: Store, models: Mapping[str, Entry]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    held_out = settings.split == "held-out"
    items = starter_items(
        "test" if held_out else settings.split, settings.num_prompts, settings.seed + 1, held_out
    )
    prompts = [item.prompt for item in items]
    given: dict[str, Answers] = {
        stage: answer_prompts(settings, store, models[stage].ref, prompts, settings.seed + 1_000_003 * place)
        for place, stage in enumerate(("base", "sft", "ppo"))
    }
    pairs = [("sft", "base"), ("ppo", "sft")]
    if settings.temperature > 0:
        given["best of 4"] = best_of(
            settings, store, models["sft"].ref, models["reward"].ref, prompts, BEST_OF
        )
        pairs += [("best of 4", "sft"), ("ppo", "best of 4")]
    scores = {name: judge_scores(items, answers) for name, answers in given.items()}
    where = {"split": settings.split, "temperature": settings.temperature}
    rows = []
    for policy, against in pairs:
        row = {**where, "policy": policy, "against": against}
        row |= win_rate_fields(win_rate(scores[policy], scores[against], prompts))
        row |= {
            "kl": _kl(policy, given),
            "mean_score": round(sum(scores[policy]) / len(items), 4),
            "against_mean_score": round(sum(scores[against]) / len(items), 4),
            "mean_length": round(given[policy].mean_length, 2),
            "ended": round(given[policy].share_ended, 4),
        }
        rows.append(row)
    return rows, _examples(items, given, scores)


def _kl(policy: str, given: Mapping[str, Answers]) -> float | None:
    """Nats per completion to the SFT model; for best of n its bound log n − (n − 1)/n (Beirami et al. 2024)."""
    if policy == "sft":
        return None
    if policy == "ppo":
        return kl_between(given["ppo"], given["sft"].policy)
    return round(math.log(BEST_OF) - (BEST_OF - 1) / BEST_OF, 4)


def _examples(
    items: list[Item], given: Mapping[str, Answers], scores: Mapping[str, list[float]]
) -> list[dict[str, Any]]:
    """The first prompt of each use case, not chosen for what was answered."""
    return [
        {
            "use_case": items[i].use_case,
            "prompt": items[i].prompt,
            **{
                name: {"text": given[name].texts[i], "score": scores[name][i]}
                for name in ("base", "sft", "ppo")
            },
        }
        for i in range(min(NUM_EXAMPLES, len(items)))
    ]


def label_accuracy(
    reward: Entry, labels_url: str | None, batch: str, settings: EvalSettings
) -> dict[str, Any]:
    """What the reward model is worth on held-out labels, and how well the judge predicts them."""
    with LabelStore(labels_url) as labels:
        rankings = labels.rankings(batch)
    items = {item.prompt: item for item in starter_items("validation", 5 * len(rankings), settings.seed)}
    by_judge = [
        [judge(items[str(ranking.prompt)], text, True).score for text in ranking.completions]
        for ranking in rankings
    ]
    return report_on_reward_model(reward.path, {batch: rankings}) | {
        "rankings": len(rankings),
        "judge": accuracy(ranked_pairs(rankings, by_judge)),
    }


def write_report(
    folder: Path, title: str, results: dict[str, Any], models: Mapping[str, Entry], say: Callable[[str], None]
) -> None:
    """Print the tables and write results.json and report.html into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "results.json", json.dumps(results, indent=2, ensure_ascii=False))
    write_text(folder / "report.html", html_page(title, results, models))
    for line in (*stage_table(results, models), "", *comparison_table(results), "", *example_lines(results)):
        say(line)
    say(f"report: {folder / 'report.html'}")


def stage_table(results: Mapping[str, Any], models: Mapping[str, Entry]) -> list[str]:
    """Stage, seconds, memory at the most and key metric, one line each."""
    predicted = results["reward_model"]
    metrics = {
        "base": f"validation loss {models['base'].manifest['metrics']['validation_loss']}",
        "sft": f"validation loss {models['sft'].manifest['metrics']['validation_loss']}",
        "labels": f"simulated labelers agree on {predicted['labelers_agree']:.1%}",
        "reward": "predicts {} held-out pairs (judge {:.1%})".format(
            rate(predicted["accuracy"][0], predicted["accuracy"][1:], predicted["pairs"]),
            predicted["judge"][0],
        ),
        "ppo": "reward {reward}, KL {kl} nats".format(**models["ppo"].manifest["metrics"]),
        "eval": f"{results['prompts']} {results['split']} prompts",
    }
    lines = [f"{'stage':<8} {'seconds':>8} {'GiB':>6}  key metric"]
    lines += [
        f"{name:<8} {seconds:>8} {results['peak_gib'][name]:>6}  {metrics[name]}"
        for name, seconds in results["seconds"].items()
    ]
    total = round(sum(results["seconds"].values()), 1)
    return [*lines, f"{'total':<8} {total:>8} {results['peak_memory_gib']:>6}"]


def comparison_table(results: Mapping[str, Any]) -> list[str]:
    """Win rates by the judge, one line each."""
    lines = [
        f"{'judge prefers':<22} {'prompts':<9} {'T':>3}  {'win rate [95 %] of decided':<29} {'ties':>4}  {'KL':>6}  {'ended':>6}"
    ]
    for row in results["comparisons"]:
        kl = "" if row["kl"] is None else f"{row['kl']:.3f}"
        versus = f"{row['policy']} to {row['against']}"
        lines.append(
            f"{versus:<22} {row['split']:<9} {row['temperature']:>3g}  {_win_rate(row):<29} {row['ties']:>4}  {kl:>6}  {row['ended']:>6.1%}"
        )
    return lines


def _win_rate(row: Mapping[str, Any]) -> str:
    return rate(row["win_rate"], row["ci95"], row["n"] - row["ties"])


def example_lines(results: Mapping[str, Any]) -> list[str]:
    """A few prompts with the answers of base, SFT and PPO under each other."""
    lines = []
    for example in results["examples"]:
        lines.append(f"» {example['prompt']}")
        for name in ("base", "sft", "ppo"):
            text = " ".join(example[name]["text"].split())
            lines.append(
                f"   {name:<5}{example[name]['score']:.1f}  {text[:100]}{'…' if len(text) > 100 else ''}"
            )
    return lines


def html_page(title: str, results: Mapping[str, Any], models: Mapping[str, Entry]) -> str:
    """The report as one page without anything to load from elsewhere."""
    picture = _win_picture(results["comparisons"])
    body = [
        f"<h1>{html.escape(title)}</h1>",
        "<p class=note>Labels in this run are by simulated labelers; the judge is the starter world's checker, whose "
        "rules no model was shown. Intervals are 95 %, by prompt.</p>",
        f"<h2>Who wins</h2>{picture}{table(comparison_rows(results))}",
        f"<h2>Stages</h2><pre>{html.escape(chr(10).join(stage_table(results, models)))}</pre>",
        f"<h2>Curves</h2><div class=curves>{''.join(_curves(models))}</div>",
        "<h2>Answers side by side</h2><p class=note>The first test prompt of each use case, temperature 1; the judge's "
        f"score of 1 to 7 behind each.</p>{table(_example_rows(results))}",
    ]
    return page(title, body)


def comparison_rows(results: Mapping[str, Any]) -> list[list[str]]:
    """Head and rows of the comparisons, as texts."""
    rows = [
        [
            "policy",
            "against",
            "prompts",
            "temperature",
            "win rate [95 %] of decided",
            "ties",
            "KL to SFT",
            "ended",
        ]
    ]
    for row in results["comparisons"]:
        kl = "" if row["kl"] is None else f"{row['kl']:.3f}"
        where = [row["policy"], row["against"], row["split"], f"{row['temperature']:g}"]
        rows.append([*where, _win_rate(row), str(row["ties"]), kl, f"{row['ended']:.1%}"])
    return rows


def _example_rows(results: Mapping[str, Any]) -> list[list[str]]:
    rows = [["prompt", "base", "SFT", "PPO"]]
    for example in results["examples"]:
        answers = [
            f"{example[name]['text']} ({example[name]['score']:.1f})" for name in ("base", "sft", "ppo")
        ]
        rows.append([example["prompt"], *answers])
    return rows


def _win_picture(rows: list[dict[str, Any]]) -> str:
    from rlhf.measuring.plots import intervals

    names = {}
    for row in rows:
        how = "greedy" if row["temperature"] == 0 else "sampled"
        names[f"{row['policy']} over {row['against']}, {row['split']}, {how}"] = (
            row["win_rate"],
            *row["ci95"],
        )
    return intervals("share of decided comparisons won", names)


def _curves(models: Mapping[str, Entry]) -> list[str]:
    from rlhf.measuring.plots import curves

    wanted = {
        "base": (("train/loss", "loss, nats per token"),),
        "reward": (("loss", "reward model's ranking loss"),),
        "ppo": (
            ("reward/score", "reward"),
            ("kl/sequence", "KL to the reference, nats"),
            ("completion/length", "tokens per completion"),
            ("value/explained_variance", "explained variance of values"),
        ),
    }
    pictures = []
    for stage, metrics in wanted.items():
        history = json.loads((models[stage].path / "history.json").read_text())
        for metric, title in metrics:
            points = [(row["step"], row[metric]) for row in history if metric in row]
            if points:
                x, y = zip(*points, strict=True)
                pictures.append(curves(f"{stage}: {title}", "step", {metric: (x, y)}))
    return pictures
