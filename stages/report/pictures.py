"""The pictures of a report, as SVG texts."""

from collections.abc import Mapping
from typing import Any

from rlhf.measuring.plots import curves, estimates, intervals
from stages.report.findings import main_rows


def win_picture(results: Mapping[str, Any]) -> str:
    """Every comparison of the main setting with its interval, plain and at equal length."""
    rows = {}
    for row in main_rows(results):
        pair = f"{row['policy']} over {row['against']}"
        rows[pair] = (row["win_rate"], *row["ci95"])
        rows[f"{pair}, equal length"] = (row["win_rate_at_equal_length"], *row["ci95_at_equal_length"])
    return intervals(f"share of decided prompts won, by {results['judge']}", rows)


def strength_picture(results: Mapping[str, Any]) -> str:
    """Bradley–Terry strengths with their intervals, strongest first."""
    rows = {row["policy"]: (row["log_strength"], *row["ci95"]) for row in results["strengths"]}
    return estimates("log strength (Bradley–Terry with ties)", rows, 0.0)


def frontier_pictures(results: Mapping[str, Any]) -> list[str]:
    """What was climbed and what the judge says against KL: policies on the way, and the best of n."""
    pictures = []
    for key, title in (
        ("reward", "the reward that was climbed"),
        ("judged", f"the score of {results['judge']}"),
    ):
        lines = {}
        for name, points in (("policies", results["curve"]), ("best of n", results["best_of"])):
            found = sorted((p["kl"], p[key]) for p in points if None not in (p["kl"], p[key]))
            if len(found) > 1:
                lines[name] = tuple(zip(*found, strict=True))
        if lines:
            pictures.append(curves(title, f"KL to {results['reference']}, nats", lines))  # type: ignore[arg-type]
    return pictures


def calibration_picture(found: Mapping[str, Any]) -> str:
    """Predicted chance against share right; on the diagonal a chance is true."""
    calibration = found["calibration"]
    lines = {"true chances": ([0.5, 1.0], [0.5, 1.0])}
    for name, key in (("scores as they are", "bins"), ("at temperature", "bins_at_temperature")):
        lines[name] = ([row[0] for row in calibration[key]], [row[1] for row in calibration[key]])
    return curves("share right", "predicted chance", lines)


def training_pictures(results: Mapping[str, Any]) -> list[str]:
    """The curves that the run left."""
    return [
        curves(row["title"], row["xlabel"], {row["title"]: (row["x"], row["y"])})
        for row in results.get("histories", [])
    ]
