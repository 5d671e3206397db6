"""What is said of a reward model, against numbers worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.data import Ranking
from rlhf.measuring.ranked_pairs import (
    RankedPair,
    accuracy,
    accuracy_at_equal_length,
    accuracy_by_margin,
    calibration,
    calibration_bins,
    calibration_error,
    fit_temperature,
    length_of_chosen,
    ranked_pairs,
    report_on_pairs,
    sure_and_wrong,
)


def pair(difference, *, prompt="q", chosen="a b", rejected="a b", **more):
    return RankedPair(prompt, chosen, rejected, difference, 0.0, **more)


def test_a_ranking_gives_each_untied_pair_with_its_scores_and_margin():
    ranking = Ranking(
        prompt="q", completions=("x", "y", "z"), ranks=(1, 0, 1), labeler="ann", ratings=(3, 7, 4)
    )
    found = ranked_pairs([ranking], [[0.1, 0.9, 0.4]], "file")
    assert [(p.chosen, p.rejected, p.margin) for p in found] == [("y", "x", 4.0), ("y", "z", 3.0)]
    assert [(p.chosen_score, p.rejected_score) for p in found] == [(0.9, 0.1), (0.9, 0.4)]
    assert {(p.source, p.labeler) for p in found} == {("file", "ann")}


def test_a_margin_is_the_pairs_own_or_of_scores_or_none():
    two = {"prompt": "q", "completions": ("x", "y"), "ranks": (1, 0)}
    rankings = [Ranking(**two, margin=-2.5), Ranking(**two, scores=(1.0, 5.0)), Ranking(**two), Ranking(**two, ratings=(None, 3))]  # fmt: skip
    assert [p.margin for p in ranked_pairs(rankings, [[0, 1]] * 4)] == [2.5, 4.0, None, None]


def test_accuracy_halves_equal_scores_and_counts_conversations():
    assert accuracy([pair(1.0), pair(0.0), pair(-1.0), pair(2.0)])[0] == pytest.approx(2.5 / 4)
    # Ten pairs of one conversation say no more of other conversations than one of them.
    one = [pair(1.0, prompt="a")] * 10 + [pair(-1.0, prompt="b")] * 10
    share, low, high = accuracy(one)
    assert share == 0.5 and low < 0.05 and high > 0.95


def test_length_is_named_by_the_ratio_of_words():
    ratios = [(4, 10), (6, 10), (10, 10), (13, 10), (20, 10), (1, 0), (0, 0)]
    named = [length_of_chosen(pair(1, chosen="w " * a, rejected="w " * b)) for a, b in ratios]
    assert named == ["shorter than half", "shorter", "about as long", "longer", "longer than twice", "longer than twice", "about as long"]  # fmt: skip


def test_a_model_of_length_alone_has_learned_nothing_at_equal_length():
    rng = np.random.default_rng(0)
    lengths = rng.integers(5, 60, (400, 2))
    rows = [RankedPair(str(i), "w " * a, "w " * b, float(a), float(b)) for i, (a, b) in enumerate(lengths)]
    found = report_on_pairs(rows)
    assert found["accuracy"] == found["longer_answer"] == found["by_source"][""]["accuracy"]
    assert found["p_against_longer"] == 1.0
    assert abs(accuracy_at_equal_length(rows)[0] - 0.5) < 0.1
    assert found["by_length"]["shorter"]["accuracy"][0] == 0.0
    assert found["by_length"]["longer"]["accuracy"][0] == 1.0
    assert list(found["by_length"]) == ["shorter than half", "shorter", "about as long", "longer", "longer than twice"]  # fmt: skip


def test_many_pairs_of_one_conversation_decide_against_the_longer_answer_once():
    longer = {"chosen": "a", "rejected": "a b"}  # the baseline is wrong and the model right
    rows = [pair(1.0, prompt="p", **longer)] * 20 + [pair(1.0, prompt="q", **longer)] * 20
    assert report_on_pairs(rows)["p_against_longer"] == 0.5  # two conversations of two: 2 / 2²


def test_few_margins_are_shown_one_by_one_and_many_in_thirds():
    few = [pair(1.0, source="s", margin=1.0), pair(-1.0, source="s", margin=3.0)]
    assert accuracy_by_margin(few)["s, 3"] == {"pairs": 1, "accuracy": [0.0, 0.0, 0.95]}
    many = [pair(1.0, margin=m / 10) for m in range(90)]
    assert {name: row["pairs"] for name, row in accuracy_by_margin(many).items()} == {
        "lowest third": 30, "middle third": 30, "highest third": 30,
    }  # fmt: skip
    assert accuracy_by_margin([pair(1.0)]) == {}


def test_calibration_error_by_hand():
    # One bin: σ(0) = 0.5 four times, three of four right by one half each → share right 0.5.
    assert calibration_error([0.0] * 4) == 0.0
    # σ(ln 3) = 0.75; half of them right: off by 0.25.
    assert calibration_error([math.log(3), -math.log(3)] * 2) == pytest.approx(0.25)
    # Two bins of ten: chances 0.6 (all right) and 0.9 (all right) → (0.4 + 0.1) / 2.
    rows = [math.log(0.6 / 0.4)] * 10 + [math.log(9)] * 10
    assert calibration_bins(rows) == [[0.6, 1.0, 10], [0.9, 1.0, 10]]
    assert calibration_error(rows) == pytest.approx(0.25)


def test_the_temperature_makes_a_share_of_right_pairs_its_chance():
    # Three of four right at one difference d: the likelihood is greatest where σ(d / T) = 3/4, T = d / ln 3.
    assert fit_temperature([2.0, 2.0, 2.0, -2.0]) == pytest.approx(2 / math.log(3), rel=1e-4)
    assert fit_temperature([1.0, 1.0]) == pytest.approx(1e-3, rel=1e-2)  # nothing wrong: as sure as can be
    assert fit_temperature([1.0, -1.0, -1.0]) == pytest.approx(1e3, rel=1e-2)  # worse than chance


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=40), st.floats(0.2, 5))
def test_scores_in_another_unit_get_a_temperature_in_that_unit(differences, unit):
    one = fit_temperature(differences)
    other = fit_temperature([unit * d for d in differences])
    if 0.01 < one < 100:
        assert other == pytest.approx(unit * one, rel=1e-3)


def test_an_overconfident_model_is_mended_by_its_temperature_and_measured_on_the_other_half():
    rng = np.random.default_rng(1)
    true = rng.normal(0, 1, 4000)
    right = rng.random(4000) < 1 / (1 + np.exp(-np.abs(true)))
    rows = [
        pair(float(5 * abs(t) * (1 if ok else -1)), prompt=str(i))
        for i, (t, ok) in enumerate(zip(true, right, strict=True))
    ]
    found = calibration(rows)
    assert found["temperature"] == pytest.approx(5, rel=0.15)
    assert found["error"] > 0.15 and found["error_at_temperature"] < 0.03


def test_the_surest_mistakes_come_first():
    rows = [pair(-0.1, prompt="a"), pair(3.0, prompt="b"), pair(-math.log(9), prompt="c", labeler="ann")]
    found = sure_and_wrong(rows)
    assert [(row["prompt"], row["chance"]) for row in found] == [("c", 0.9), ("a", 0.525)]
    assert found[0]["labeler"] == "ann"
    assert len(sure_and_wrong(rows * 30)) == 20
