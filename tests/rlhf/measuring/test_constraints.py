"""Constraints an answer can be checked for, against answers whose verdict a reader sees."""

import json
import random

import pytest

from rlhf.errors import InputError
from rlhf.learning.reward_sources import load_function
from rlhf.measuring.constraints import (
    KINDS,
    REWARD,
    Constraint,
    add_constraints,
    constrained_row,
    constraint_kept,
    random_constraint,
)

# For each kind: answers that keep it and answers that do not.
VERDICTS = {
    "at most n words": (["Fine."], ["word " * 51, ""]),
    "at least n words": (["word " * 40], ["word " * 19, ""]),
    "n bullet points": ([], ["one, two", "* only one"]),
    "keyword": (
        ["Water and time, people: a simple plan is always light at home."],
        ["Watery timer peoples simply.", ""],
    ),
    "no comma": (["Yes and no."], ["Yes, no.", ""]),
    "lowercase": (["all of it: 3 lines"], ["Not all", "", "..."]),
    "uppercase": (["ALL OF IT: 3"], ["ALL of it", ""]),
    "closing sentence": (["Sure. I hope this helps."], ["I hope this helps. Bye.", "I hope this helps!"]),
    "quotation marks": (['"All of it."'], ['"Half" of it', '"', ""]),
}


@pytest.mark.parametrize("seed", range(30))
def test_verdicts_are_those_of_a_reader(seed):
    constraint = random_constraint(random.Random(seed))
    good, bad = VERDICTS[constraint.kind]
    assert all(constraint.holds(text) for text in good)
    assert not any(constraint.holds(text) for text in bad)


def test_bullet_points_are_counted_exactly():
    bullets = next(
        c for s in range(200) if (c := random_constraint(random.Random(s))).kind == "n bullet points"
    )
    n = int(bullets.text.split("exactly ")[1].split()[0])
    assert bullets.holds("Here:\n" + "* one\n" * n)
    assert not bullets.holds("* one\n" * (n + 1))


def test_every_kind_comes_up_and_the_constraint_stands_behind_the_last_message():
    prompt = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}, {"role": "user", "content": "Tell me."}]  # fmt: skip
    tasks = add_constraints([prompt] * 200, 150, seed=0)
    assert len(tasks) == 150 and {c.kind for _, c in tasks} == set(VERDICTS) and len(KINDS) == len(VERDICTS)
    for asked, constraint in tasks:
        assert asked[:2] == prompt[:2] and asked[2]["content"] == f"Tell me.\n\n{constraint.text}"
    again = add_constraints([prompt] * 200, 150, seed=0)
    assert [asked for asked, _ in again] == [asked for asked, _ in tasks]


def test_a_constraint_goes_through_a_file_of_prompts_and_is_a_reward_of_its_name():
    said = [*add_constraints(["Tell me."] * 60, 60, seed=1)]
    rows = [json.loads(json.dumps(constrained_row(prompt, constraint))) for prompt, constraint in said]
    reward, _ = load_function(REWARD)
    for row, (prompt, constraint) in zip(rows, said, strict=True):
        assert row["prompt"] == prompt
        good, bad = VERDICTS[constraint.kind]
        answers = [*good, *bad]
        scores = reward([prompt] * len(answers), answers, [row["constraint"]] * len(answers))
        assert scores == [1.0] * len(good) + [0.0] * len(bad)


def test_a_prompt_without_constraint_is_not_judged():
    assert constraint_kept(["a", "b"], ["x", "a, b"], [None, {"kind": "no comma"}]) == [None, 0.0]


@pytest.mark.parametrize("given", [{"kind": "rhymes", "argument": None}, {"sort": "keyword"}])
def test_a_constraint_that_nobody_can_check_is_one_line(given):
    with pytest.raises(InputError, match="constraint"):
        constraint_kept(["a"], ["x"], [given])
    with pytest.raises(InputError, match=r"known are .*keyword"):
        Constraint("rhymes")
