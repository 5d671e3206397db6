"""Curves from what a training stage wrote while it ran."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rlhf.store import Entry


def history_curves(
    models: Mapping[str, Entry], wanted: Mapping[str, Sequence[tuple[str, str]]], xlabel: str
) -> list[dict[str, Any]]:
    """Of each stage the metrics with their titles, as far as its history.json has them."""
    found = []
    for stage, metrics in wanted.items():
        history = json.loads((models[stage].path / "history.json").read_text())
        for metric, title in metrics:
            points = [(row["step"], row[metric]) for row in history if metric in row]
            if points:
                x, y = zip(*points, strict=True)
                found.append({"title": f"{stage}: {title}", "xlabel": xlabel, "x": list(x), "y": list(y)})
    return found
