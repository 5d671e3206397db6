"""The report of `rlhf align`: who wins by the gold reward model, how good the reward models are, what alignment cost."""

import html
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rlhf.data import as_messages
from rlhf.store import Entry, write_text
from stages.page import page, rate, table

Rows = list[list[str]]
GAP = "  "


def write_report(
    folder: Path, title: str, results: dict[str, Any], models: Mapping[str, Entry], say: Callable[[str], None]
) -> None:
    """Print the tables and write results.json and report.html into `folder`."""
    write_text(folder / "results.json", json.dumps(results, indent=2, ensure_ascii=False))
    write_text(folder / "report.html", html_page(title, results, models))
    for rows in (
        stage_rows(results, models),
        comparison_rows(results),
        accuracy_rows(results),
        cost_rows(results),
    ):
        for line in (*align_columns(rows), ""):
            say(line)
    say(f"blind comparison for people: rlhf label, batch {results['blind_batch']}")
    say(f"report: {folder / 'report.html'}")


def align_columns(rows: Rows) -> list[str]:
    """Rows as lines of text with columns under each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def stage_rows(results: Mapping[str, Any], models: Mapping[str, Entry]) -> Rows:
    """Each step, its seconds, the most memory it held and what it reached."""
    reached = {name: entry.manifest["metrics"] for name, entry in models.items()}
    outcomes = {
        "sft": f"validation loss {reached['sft']['validation_loss']}",
        "reward": f"{reached['reward']['prompts']} prompts",
        "gold": f"{reached['gold']['prompts']} prompts of its own",
        "ppo": "{episodes} episodes, reward {reward}, KL {kl} nats".format(**reached["ppo"]),
        "blind": f"batch {results['blind_batch']} waits for people",
        "judge": f"{results['prompts']} held-out prompts",
    }
    trained = {name: f"{reached[name]['train_s']:.0f}" if name in reached else "" for name in outcomes}
    rows = [["step", "seconds now", "seconds of training", "GiB", "reached"]]
    rows += [
        [
            name,
            f"{seconds:.0f}",
            trained.get(name, ""),
            f"{results['peak_gib'][name]:.1f}",
            outcomes.get(name, ""),
        ]
        for name, seconds in results["seconds"].items()
    ]
    together = sum(results["seconds"].values())
    return [*rows, ["together", f"{together:.0f}", "", f"{results['peak_memory_gib']:.1f}", ""]]


def comparison_rows(results: Mapping[str, Any]) -> Rows:
    """Win rates by the gold reward model."""
    rows = [
        ["policy", "against", "win rate [95 %] of decided", "at equal length, ties half", "ties", "KL to SFT", "words", "their words", "ended"]
    ]  # fmt: skip
    for row in results["comparisons"]:
        rows.append([
            row["policy"],
            row["against"],
            rate(row["win_rate"], row["ci95"], row["n"] - row["ties"]),
            rate(row["win_rate_at_equal_length"], row["ci95_at_equal_length"], row["n"]),
            str(row["ties"]),
            "" if row["kl"] is None else f"{row['kl']:.2f}",
            f"{row['mean_words']:.1f}",
            f"{row['against_mean_words']:.1f}",
            f"{row['ended']:.0%}",
        ])  # fmt: skip
    return rows


def accuracy_rows(results: Mapping[str, Any]) -> Rows:
    """Each reward model on people's held-out comparisons, by source, beside the longer answer."""
    rows = [["reward model", "part", "source", "accuracy [95 %] of pairs", "longer answer", "p"]]
    for judge, parts in results["reward_models"].items():
        for part, report in parts.items():
            for source, found in report["by_source"].items():
                rows.append([
                    judge, part, source, rate(found["accuracy"][0], found["accuracy"][1:], found["pairs"]),
                    f"{found['longer_answer'][0]:.1%}", f"{found['p_against_longer']:.2g}",
                ])  # fmt: skip
    return rows


def cost_rows(results: Mapping[str, Any]) -> Rows:
    """What alignment cost or gave elsewhere: loss on plain text, constraints kept."""
    rows = [["policy", "loss on plain text, nats per token", "constraints kept [95 %] of tasks"]]
    for name, loss in results["text_loss"].items():
        tasks = results["tasks"].get(name)
        kept = rate(tasks["share"], tasks["ci95"], tasks["n"]) if tasks else ""
        rows.append([name, f"{loss['loss']:.4f}", kept])
    return rows


def html_page(title: str, results: Mapping[str, Any], models: Mapping[str, Entry]) -> str:
    """The report as one page without anything to load from elsewhere."""
    examples = results["examples"]
    body = [
        f"<h1>{html.escape(title)}</h1>",
        "<p class=note>The judge is a reward model trained on people's comparisons of other conversations, from other "
        "weights; no stage before this page saw it. Intervals are 95 %, by prompt.</p>",
        f"<h2>Who wins</h2>{_wins(results)}{table(comparison_rows(results))}",
        f"<h2>How far is too far</h2><div class=curves>{''.join(_curves(results, models))}</div>"
        f"<p class=note>{html.escape(advice(results))}</p>",
        f"<h2>The reward models on people's held-out comparisons</h2>{table(accuracy_rows(results))}",
        f"<h2>What it cost</h2>{table(cost_rows(results))}",
        f"<h2>Steps</h2>{table(stage_rows(results, models))}",
        f"<h2>Answers side by side</h2><p class=note>The first {len(examples)} held-out prompts, not chosen for what was "
        f"answered; temperature {results['temperature']:g}, the gold model's score behind each.</p>{table(_example_rows(examples))}",
    ]
    return page(title, body)


def advice(results: Mapping[str, Any]) -> str:
    """Which checkpoint the gold model likes best, and whether going on after it cost something."""
    curve = results["curve"]
    best = max(curve, key=lambda point: point["gold"])
    if best is curve[-1]:
        return "The gold score rises to the end: take the last checkpoint, ppo."
    return (
        f"The gold score is highest for {best['policy']} at KL {best['kl']:.1f} and falls after it while the reward PPO "
        f"climbs does not say so: over-optimisation. Take {best['policy']}."
    )


def _wins(results: Mapping[str, Any]) -> str:
    from rlhf.measuring.plots import intervals

    rows = {}
    for row in results["comparisons"]:
        pair = f"{row['policy']} over {row['against']}"
        rows[pair] = (row["win_rate"], *row["ci95"])
        rows[f"{pair}, equal length"] = (row["win_rate_at_equal_length"], *row["ci95_at_equal_length"])
    return intervals("share of held-out prompts won by the gold model", rows)


def _curves(results: Mapping[str, Any], models: Mapping[str, Entry]) -> list[str]:
    from rlhf.measuring.plots import curves

    points = sorted(results["curve"], key=lambda point: point["kl"])
    kl = [point["kl"] for point in points]
    pictures = [
        curves(title, "KL to SFT, nats", {key: (kl, [point[key] for point in points])})
        for key, title in (("reward", "the reward PPO climbs"), ("gold", "the gold reward"))
    ]
    history = json.loads((models["ppo"].path / "history.json").read_text())
    for key, title in (("kl/sequence", "KL while training"), ("completion/length", "tokens per completion")):
        found = [(row["step"], row[key]) for row in history if key in row]
        x, y = zip(*found, strict=True)
        pictures.append(curves(title, "iteration", {key: (x, y)}))
    return pictures


def _example_rows(examples: list[dict[str, Any]]) -> Rows:
    names = [name for name in examples[0] if name != "prompt"]
    rows = [["prompt", *names]]
    for example in examples:
        turns = as_messages(example["prompt"])
        asked = "\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)
        answers = [f"{example[name]['text']} ({example[name]['score']:.2f})" for name in names]
        rows.append([asked if len(turns) > 1 else turns[0]["content"], *answers])
    return rows
