"""The lead's pictures: every row of a table is drawn under a name of its own, whatever people are called."""

import html
import re

import pytest

from annotate.figures.charts import chart
from annotate.figures.tables import Table

FOLDER = "store/ppo/0001-smollm2-0/checkpoints/"
LABELERS = [f"anna.katharina.mueller-{town}@example.org" for town in ("luedenscheidt", "luebeck")]
HOSTILE = ["b$c_$", r"$\frac{a$", "_hidden", "a\nb", "<script>", "pay $5", "x" * 300]


def texts_of(picture):
    return [html.unescape(text) for text in re.findall(r"<text[^>]*>([^<]*)</text>", picture)]


@pytest.mark.parametrize(
    ("name", "columns", "rows"),
    [
        ("strengths", ("checkpoint", "log_strength", "low", "high", "wins", "ties", "losses"), lambda name: (name, 0.1, 0.0, 0.2, 1, 0, 1)),
        ("ratings", ("checkpoint", "scale", "mean", "low", "high", "n"), lambda name: (name, 7, 4.0, 3.0, 5.0, 9)),
        ("gold", ("labeler", "share"), lambda name: (name, 0.9)),
        ("agreement_by_labeler", ("labeler", "alpha", "alpha_low", "alpha_high"), lambda name: (name, 0.5, 0.4, 0.6)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("given", [[f"{FOLDER}{k}" for k in (512, 1024, 1536, 2048)], LABELERS, HOSTILE])
def test_names_that_are_long_or_strange_lose_no_row(name, columns, rows, given):
    picture = chart(name, Table(columns, tuple(map(rows, given))))
    drawn = [text for text in texts_of(picture) if not re.fullmatch(r"[−\d.% ]*", text)]
    assert len(set(drawn)) == len(given)
    for label in drawn:
        begin, _, end = label.removesuffix(" /7").strip().replace("\ufffd", "\n").partition("…")
        assert any(one.startswith(begin) and one.endswith(end) for one in given)


@pytest.mark.parametrize("given", [LABELERS, ["_ann", "$b$"]])
def test_each_labelers_answers_a_day_are_in_the_picture(given):
    table = Table(("day", "labeler", "answers"), tuple(("2026-11-29", name, 3) for name in given))
    drawn = texts_of(chart("throughput", table))
    for name in given:
        assert any(name.endswith(text.strip().partition("…")[2] or text.strip()) for text in drawn if text)
    assert len({text for text in drawn if not re.fullmatch(r"[−\d.-]*", text)}) == len(given)
