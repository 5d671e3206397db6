"""The numbers of a report as tables of texts, the first row of each its head."""

from collections.abc import Mapping, Sequence
from typing import Any

from stages.page import rate
from stages.report.findings import main_rows

Results = Mapping[str, Any]
Rows = list[list[str]]
GAP = "  "


def align_columns(rows: Rows) -> list[str]:
    """Rows as lines of text with columns under each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def comparison_rows(results: Results) -> Rows:
    """Every comparison with its interval; where they differ, on which prompts and at which temperature."""
    rows, given = [], results["comparisons"]
    where = any("split" in row for row in given)
    head = ["policy", "against", *(["prompts", "temperature"] if where else [])]
    head += ["win rate [95 %] of decided", "at equal length, ties half", "ties", "not judged"]
    for row in given:
        place = [row["split"], f"{row['temperature']:g}"] if where else []
        rows.append([
            row["policy"], row["against"], *place,
            rate(row["win_rate"], row["ci95"], row["n"] - row["ties"]),
            rate(row["win_rate_at_equal_length"], row["ci95_at_equal_length"], row["n"]),
            str(row["ties"]), str(row.get("not_judged") or ""),
        ])  # fmt: skip
    return without_empty_columns([head, *rows]) if rows else [head]


def matrix_rows(results: Results) -> Rows:
    """Win rates of every policy (row) over every other (column), and its Bradley–Terry strength."""
    cells: dict[tuple[str, str], float] = {}
    for row in main_rows(results) if results["comparisons"] else []:
        cells[row["policy"], row["against"]] = row["win_rate"]
        cells[row["against"], row["policy"]] = 1 - row["win_rate"]
    names = [name for name in results["policies"] if any(name in pair for pair in cells)]
    strengths = {row["policy"]: row for row in results.get("strengths", [])}
    head = ["wins over", *names, "log strength [95 %]"]
    rows = [
        [name, *(_percent(cells.get((name, other))) for other in names), _strength(strengths.get(name))]
        for name in names
    ]
    return [head, *rows]


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _strength(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""
    low, high = row["ci95"]
    return f"{row['log_strength']:+.2f} [{low:+.2f}, {high:+.2f}]"


def policy_rows(results: Results) -> Rows:
    """What each policy's answers are like by themselves, what they cost on plain text, and constraints kept."""
    rows = [[
        "policy", "judge", "reward", "KL", "tokens", "words", "ended", "distinct word pairs", "repeats itself",
        "same answer to several", "loss on plain text", "constraints kept [95 %] of tasks",
    ]]  # fmt: skip
    for name, found in results["policies"].items():
        loss, tasks = (results.get(key, {}).get(name) for key in ("text_loss", "tasks"))
        rows.append([
            name, _number(found["mean_score"]), _number(found["mean_reward"]), _number(found["kl"]),
            _number(found["mean_length"], 1), _number(found["mean_words"], 1), _percent(found["ended"]),
            _percent(found["distinct_bigrams"]), _percent(found["repetition"]), _percent(found["share_alike"]),
            f"{loss['loss']:.4f}" if loss else "", rate(tasks["share"], tasks["ci95"], tasks["n"]) if tasks else "",
        ])  # fmt: skip
    return without_empty_columns(rows)


def _number(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def without_empty_columns(rows: Rows) -> Rows:
    """The table without columns in which no row has anything."""
    kept = [i for i in range(len(rows[0])) if any(row[i] for row in rows[1:])]
    return [[row[i] for i in kept] for row in rows]


def accuracy_rows(results: Results) -> Rows:
    """Each reward model on people's held-out pairs, by source, beside the longer answer."""
    rows = [["reward model", "part", "source", "accuracy [95 %] of pairs", "longer answer", "p"]]
    for name, parts in results.get("reward_models", {}).items():
        for part, report in parts.items():
            for source, found in report["by_source"].items():
                rows.append([
                    name, part, source, rate(found["accuracy"][0], found["accuracy"][1:], found["pairs"]),
                    f"{found['longer_answer'][0]:.1%}", f"{found['p_against_longer']:.2g}",
                ])  # fmt: skip
    return rows


def split_rows(found: Mapping[str, Any]) -> Rows:
    """One reward model's accuracy by labeler, by length and by margin, at equal length, and of trivial baselines."""
    rows = [["pairs", "which", "accuracy [95 %] of pairs"]]
    for title, key in (
        ("labeler", "by_labeler"),
        ("preferred answer is", "by_length"),
        ("margin", "by_margin"),
    ):
        rows += [
            [title, name or "not named", rate(row["accuracy"][0], row["accuracy"][1:], row["pairs"])]
            for name, row in found[key].items()
        ]
    equal = found["at_equal_length"]
    rows.append(["all", "at equal length", rate(equal[0], equal[1:], found["pairs"])])
    baselines = {"the longer answer": found["longer_answer"], **found["baselines"]}
    rows += [["baseline", name, rate(x[0], x[1:], found["pairs"])] for name, x in baselines.items()]
    return rows


def calibration_rows(found: Mapping[str, Any]) -> Rows:
    """Predicted chance against share right, before and after temperature."""
    calibration = found["calibration"]
    rows = [["scores", "mean chance", "right", "pairs"]]
    for title, key in (
        ("as they are", "bins"),
        (f"divided by {calibration['temperature']:.2f}", "bins_at_temperature"),
    ):
        rows += [[title, f"{chance:.1%}", f"{right:.1%}", str(n)] for chance, right, n in calibration[key]]
    return rows


def seconds_by_step(results: Results) -> dict[str, float]:
    """What each step took: of one that the store had already, its training then."""
    steps = results.get("steps", {})
    return {
        name: max(now, steps.get(name, {}).get("train_s") or 0.0) for name, now in results["seconds"].items()
    }


def step_rows(results: Results) -> Rows:
    """Each step of the run, its seconds, the most memory it held and what it reached."""
    if "seconds" not in results:
        return [["step"]]
    steps = results.get("steps", {})
    rows = [["step", "seconds now", "seconds of training", "GiB", "reached"]]
    for name, seconds in results["seconds"].items():
        trained = steps.get(name, {}).get("train_s")
        rows.append([
            name, f"{seconds:.1f}", "" if trained is None else f"{trained:.0f}", f"{results['peak_gib'][name]:.1f}",
            steps.get(name, {}).get("reached", ""),
        ])  # fmt: skip
    total = sum(results["seconds"].values())
    return without_empty_columns(
        [*rows, ["together", f"{total:.1f}", "", f"{results['peak_memory_gib']:.1f}", ""]]
    )


def has_rows(rows: Sequence[Sequence[str]]) -> bool:
    return len(rows) > 1
