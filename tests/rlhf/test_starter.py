"""The starter world: splits that share no prompt, a judge that knows good from bad, labelers who differ like people."""

import random
import re

import pytest

from rlhf.starter.demonstrations import SLIPS, demonstrations, slip
from rlhf.starter.items import USE_CASES, take_items
from rlhf.starter.judge import judge
from rlhf.starter.labelers import simulated_labelers


def test_splits_share_no_prompt():
    splits = [
        {item.prompt for item in take_items(split, 400, seed=1)} for split in ("train", "validation", "test")
    ]
    assert not splits[0] & splits[1] and not splits[0] & splits[2] and not splits[1] & splits[2]


def test_held_out_wordings_never_occur_in_training():
    assert all(not item.held_out for item in take_items("train", 500, 2))
    held_out = {(item.use_case, item.wording) for item in take_items("test", 300, 2, held_out=True)}
    assert not held_out & {(item.use_case, item.wording) for item in take_items("train", 2000, 3)}


def test_all_ten_use_cases_are_equally_frequent():
    items = take_items("train", 500, 4)
    assert len(USE_CASES) == 10
    assert all(abs(sum(item.use_case == name for item in items) - 50) <= 5 for name in USE_CASES)


def test_seeds_reproduce_and_differ():
    assert take_items("train", 50, 5) == take_items("train", 50, 5) != take_items("train", 50, 6)
    assert demonstrations("train", 50, 5) == demonstrations("train", 50, 5)


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_judge_gives_good_answers_the_best_score(split):
    for item in take_items(split, 400, 7):
        assert judge(item, item.answer, True).score == 7.0, (item.prompt, item.answer)


@pytest.mark.parametrize("habit", [habit for habit in SLIPS if habit != "made_up"])
def test_every_slip_costs(habit):
    rng = random.Random(8)
    for item in take_items("train", 200, 8):
        spoiled = slip(habit, item, rng)
        if habit == "off_topic" and re.findall(r"\w+", spoiled) == re.findall(r"\w+", item.answer):
            continue
        assert judge(item, spoiled, habit != "endless").score < 7.0, (item.prompt, spoiled)


def test_an_answer_without_an_end_costs_two():
    item = take_items("train", 1, 9)[0]
    assert judge(item, item.answer, False).score == 5.0


def test_two_labelers_agree_as_often_as_the_papers():
    """On answers spread over the judge's scale like a fine-tuned model's samples; 4 σ of sampling error allowed."""
    rng, agree, decided = random.Random(10), 0, 0
    labelers = simulated_labelers(20, 10)
    for _ in range(1500):
        scores = [rng.choice((7.0, 7.0, 7.0, 5.5, 5.0, 4.0, 2.0)) for _ in range(4)]
        one, other = (labeler.rank(scores, [8] * 4, [True] * 4, rng) for labeler in rng.sample(labelers, 2))
        for a in range(4):
            for b in range(a):
                if one[a] != one[b] and other[a] != other[b]:
                    decided += 1
                    agree += (one[a] < one[b]) == (other[a] < other[b])
    assert abs(agree / decided - 0.73) < 0.04
