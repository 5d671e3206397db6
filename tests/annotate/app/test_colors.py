"""The pages' colours: every pair of text and ground is readable, in the light and in the dark theme (WCAG 2.2, AA)."""

import re
from pathlib import Path

import pytest

BOARD = "components/ranking_board/templates/component"
CSS = Path(__file__).parents[3] / "annotate" / "app" / BOARD / "style.css"
COLOR = re.compile(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)")
TEXT_ON_GROUND = [
    ("ink", "ground"), ("ink", "sheet"), ("ink", "accent-soft"), ("quiet", "ground"), ("quiet", "sheet"),
    ("quiet", "accent-soft"), ("accent", "sheet"), ("accent", "ground"), ("on-accent", "accent"), ("good", "sheet"),
    ("bad", "sheet"), ("warn-ink", "warn-ground"), ("mark-ink", "mark"), ("ground", "ink"),
]  # fmt: skip


def luminance(color):
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_texts_have_a_contrast_of_at_least_four_and_a_half(theme):
    found = {
        name: light if theme == "light" else dark for name, light, dark in COLOR.findall(CSS.read_text())
    }
    for text, ground in TEXT_ON_GROUND:
        low, high = sorted((luminance(found[text]), luminance(found[ground])))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (theme, text, ground)


def test_black_on_white_is_twenty_one_to_one():
    assert (luminance("#ffffff") + 0.05) / (luminance("#000000") + 0.05) == pytest.approx(21)
