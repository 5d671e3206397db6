"""Pictures of the lead's figures, drawn on the server as SVG."""

import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, TypeVar

from annotate.figures.tables import Table, column
from rlhf.measuring import plots

_pyplot = threading.Lock()  # matplotlib's pyplot keeps global state
MAX_ROWS = 40
MOST_KEPT = 200
SHORT = 28
T = TypeVar("T")
# Quiet ink of the page around the picture (app.css), which tells it the theme.
INK = "<style>svg { color: #565e68 } @media (prefers-color-scheme: dark) { svg { color: #a4adb8 } }</style>"


@lru_cache(MOST_KEPT)
def chart(name: str, table: Table) -> str | None:
    """The SVG picture of the table `name` of `tables.FIGURES`, without a title; None where there is nothing to draw."""
    drawn = CHARTS.get(name)
    if drawn is None or not table.rows:
        return None
    with _pyplot:
        picture = drawn(table)
    return picture.replace(plots.INK, "currentColor").replace("<defs>", INK + "<defs>", 1)


def _throughput(table: Table) -> str:
    days = sorted(set(column(table, "day")))
    totals: dict[str, dict[str, float]] = {}
    for day, labeler, answers in table.rows:
        totals.setdefault(labeler, {})[day] = answers
    busiest = sorted(totals, key=lambda name: -sum(totals[name].values()))
    shown = busiest[: len(plots.COLORS) - 1] if len(busiest) > len(plots.COLORS) else busiest
    short = _short(shown)
    stacks = {short[name]: [totals[name].get(day, 0.0) for day in days] for name in shown}
    if len(shown) < len(busiest):
        rest = busiest[len(shown) :]
        stacks["…"] = [sum(totals[name].get(day, 0.0) for name in rest) for day in days]
    return plots.stacked("", days, stacks)


def _alphas(key: str) -> Callable[[Table], str]:
    def draw(table: Table) -> str:
        values = zip(
            *(column(table, name) for name in (key, "alpha", "alpha_low", "alpha_high")), strict=True
        )
        rows = {name: (a, low, high) for name, a, low, high in values if a is not None and low is not None}
        return plots.estimates("", _labelled(list(rows.items())[-MAX_ROWS:]), 0.0)

    return draw


def _strengths(table: Table) -> str:
    rows = [(row[0], (row[1], row[2], row[3])) for row in table.rows[:MAX_ROWS]]
    return plots.estimates("", _labelled(rows), 0.0)


def _means(table: Table) -> str:
    rows = [
        (
            f"{checkpoint or '–'} /{scale}",
            (mean, mean if low is None else low, mean if high is None else high),
        )
        for checkpoint, scale, mean, low, high, _ in table.rows[:MAX_ROWS]
    ]
    return plots.estimates("", _labelled(rows), (table.rows[0][1] + 1) / 2)


def _bars(key: str, value: str, share: bool) -> Callable[[Table], str]:
    def draw(table: Table) -> str:
        pairs = zip(column(table, key), column(table, value), strict=True)
        rows = [(name, float(number)) for name, number in pairs if number is not None]
        return plots.bars("", _labelled(rows[:MAX_ROWS]), share=share)

    return draw


def _labelled(rows: Sequence[tuple[Any, T]]) -> dict[str, T]:
    """Rows by the short label of each name."""
    short = _short([name for name, _ in rows])
    return {short[name]: values for name, values in rows}


def _short(names: Sequence[Any]) -> dict[Any, str]:
    """A label for each name, cut in the middle: to SHORT letters, or to more where two would be alike."""
    longest = SHORT
    while True:
        half = longest // 2
        labels = {
            name: text if len(text := str(name)) <= longest else f"{text[: half - 1]}…{text[-half:]}"
            for name in names
        }
        if len(set(labels.values())) == len(labels) or longest > max(map(len, map(str, names))):
            return labels
        longest += 8


CHARTS: dict[str, Callable[[Table], str]] = {
    "throughput": _throughput,
    "agreement_by_labeler": _alphas("labeler"),
    "agreement_over_time": _alphas("day"),
    "consensus": _bars("labeler", "share", share=True),
    "gold": _bars("labeler", "share", share=True),
    "times": _bars("labeler", "median_s", share=False),
    "flags": _bars("flag", "rate", share=True),
    "strengths": _strengths,
    "ratings": _means,
}
