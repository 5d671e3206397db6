"""Pictures of a run: curves and bars as SVG text, readable in a light or a dark page."""

import io
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

matplotlib.rcParams["text.parse_math"] = False  # names are people's: a dollar sign in one starts no formula
COLORS = ("#3b6fb6", "#d1682c", "#4a9d5b", "#8d5fb3", "#b8860b", "#c2477f", "#2f9aa0", "#7a5a45")
INK = "#808080"  # readable on white and on black
FEW_POINTS = 12


def _svg(figure: plt.Figure) -> str:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(INK)
        axes.tick_params(colors=INK)
        for label in (axes.xaxis.label, axes.yaxis.label):
            label.set_color(INK)
    buffer = io.StringIO()
    # A fixed salt keeps the file the same for the same data.
    with plt.rc_context({"svg.hashsalt": "rlhf", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _drawn(name: str) -> str:
    """A name in one line of letters that can be drawn; a legend would leave out one that begins with an underscore."""
    text = "".join(c if c.isprintable() else "\ufffd" for c in name)
    return f" {text}" if text.startswith("_") else text


def curves(title: str, xlabel: str, lines: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> str:
    """One SVG with a line for each name: (x values, y values) of equal length."""
    figure, axes = plt.subplots(figsize=(4.2, 2.6))
    for color, (name, (x, y)) in zip(cycle(COLORS), lines.items(), strict=False):
        marker = "o" if len(x) <= FEW_POINTS else None  # two points close together are no line that one sees
        axes.plot(x, y, color=color, label=_drawn(name), linewidth=1.6, marker=marker, markersize=3.5)
    axes.set_title(_drawn(title), fontsize=10, loc="left", color=INK)
    axes.set_xlabel(_drawn(xlabel), fontsize=9)
    if len(lines) > 1:
        axes.legend(frameon=False, fontsize=8, labelcolor=INK)
    return _svg(figure)


def intervals(title: str, rows: Mapping[str, tuple[float, float, float]]) -> str:
    """One SVG with a dot and its 95 % interval (estimate, low, high) for each name, and a line at one half."""
    figure, axes = plt.subplots(figsize=(5.6, 0.6 + 0.36 * len(rows)))
    _dots(axes, title, rows, 0.5, ".0%")
    axes.set_xlim(min(0.3, *(row[1] - 0.03 for row in rows.values())), 1.02)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    return _svg(figure)


def estimates(title: str, rows: Mapping[str, tuple[float, float, float]], middle: float) -> str:
    """Like `intervals` for numbers that are no shares, such as Krippendorff's alpha or a strength."""
    figure, axes = plt.subplots(figsize=(5.6, 0.8 + 0.36 * len(rows)))
    _dots(axes, title, rows, middle, ".2f")
    return _svg(figure)


def _dots(
    axes: Any, title: str, rows: Mapping[str, tuple[float, float, float]], middle: float, number: str
) -> None:
    """A dot, its interval and its number for each name, first on top, and a line at `middle`."""
    for place, (estimate, low, high) in enumerate(reversed(list(rows.values()))):
        axes.plot([low, high], [place, place], color=COLORS[0], linewidth=2)
        axes.plot([estimate], [place], "o", color=COLORS[0], markersize=6)
        axes.annotate(format(estimate, number), (estimate, place + 0.22), ha="center", fontsize=8, color=INK)
    axes.axvline(middle, color=INK, linestyle=":", linewidth=1)
    axes.set_yticks(range(len(rows)), [_drawn(name) for name in reversed(list(rows))], fontsize=9)
    axes.set_ylim(-0.5, len(rows) - 0.3)
    axes.set_title(_drawn(title), fontsize=10, loc="left", color=INK)


def _number(value: float) -> str:
    """Three digits, of a thousand and more all before the point."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def bars(title: str, rows: Mapping[str, float], share: bool = False) -> str:
    """One SVG with a horizontal bar for each name; shares in per cent from 0 to 1."""
    figure, axes = plt.subplots(figsize=(5.6, 0.8 + 0.36 * len(rows)))
    names, values = [_drawn(name) for name in reversed(list(rows))], list(reversed(list(rows.values())))
    found = axes.barh(range(len(rows)), values, color=COLORS[0], height=0.6)
    labels = [f"{value:.0%}" if share else _number(value) for value in values]
    axes.bar_label(found, labels, fontsize=8, color=INK, padding=3)
    axes.set_yticks(range(len(rows)), names, fontsize=9)
    if share:
        axes.set_xlim(0, 1.1)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_title(_drawn(title), fontsize=10, loc="left", color=INK)
    return _svg(figure)


def stacked(title: str, ticks: Sequence[str], layers: Mapping[str, Sequence[float]]) -> str:
    """One SVG with an upright bar at each tick, made of a layer for each name."""
    figure, axes = plt.subplots(figsize=(5.6, 2.8))
    base = [0.0] * len(ticks)
    for color, (name, values) in zip(cycle(COLORS), layers.items(), strict=False):
        axes.bar(range(len(ticks)), values, bottom=base, color=color, label=_drawn(name), width=0.7)
        base = [low + value for low, value in zip(base, values, strict=True)]
    step = -(-len(ticks) // 8)
    axes.set_xticks(range(0, len(ticks), step), [_drawn(tick) for tick in ticks[::step]], fontsize=8)
    axes.set_xlim(-0.6, max(len(ticks), 7) - 0.4)
    axes.set_title(_drawn(title), fontsize=10, loc="left", color=INK)
    if len(layers) > 1:
        axes.legend(frameon=False, fontsize=8, labelcolor=INK, loc="upper left", bbox_to_anchor=(1, 1))
    return _svg(figure)
