"""Pictures show all that they were given."""

import pytest

from rlhf.measuring.plots import bars, curves, stacked

NAMES = [f"labeler {i}" for i in range(11)]


@pytest.mark.parametrize(
    "picture",
    [
        curves("", "step", {name: ([1.0, 2.0], [i, i + 1.0]) for i, name in enumerate(NAMES)}),
        stacked("", ["Monday", "Tuesday"], {name: [1.0, 2.0] for name in NAMES}),
        bars("", {name: float(i) for i, name in enumerate(NAMES)}),
    ],
)
def test_no_line_or_layer_is_left_out_however_many_there_are(picture):
    assert all(f">{name}<" in picture for name in NAMES)


@pytest.mark.parametrize(("value", "written"), [(6603.4, "6,603"), (1000.0, "1,000"), (12.34, "12.3"), (0.0321, "0.0321")])  # fmt: skip
def test_a_bar_has_its_number_in_digits(value, written):
    assert f">{written}<" in bars("", {"a": value})
