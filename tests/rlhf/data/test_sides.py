"""Pairs that name answers beside them, and more answers side by side than a verdict can be of."""

import pytest

from rlhf.data import read_prompts, read_rankings
from rlhf.data.formats.pairs import PAIRS
from rlhf.errors import InputError
from tests.rows import write

SIDES = {"prompt": "Capital?", "response_a": "Paris", "response_b": "Rome"}
NUMBERED = {"prompt": "Capital?", "response_0": "Rome", "response_1": "Paris"}
LISTED = {"prompt": "Capital?", "answers": ["Paris", "Rome"]}


@pytest.mark.parametrize(
    "row, chosen, rejected",
    [
        (SIDES, "response_a", "response_b"),
        (SIDES, "A", "B"),
        (SIDES | {"model_a": "one", "model_b": "two"}, "model_a", "model_b"),
        (SIDES | {"model_a": "one", "model_b": "two"}, "One", "Two"),
        (NUMBERED, 1, 0),
        (NUMBERED, "1", "0"),
        (NUMBERED | {"response_2": "Oslo"}, "response_1", "response_2"),
        (LISTED, "0", "1"),
    ],
)
def test_a_pair_that_names_answers_beside_it_is_of_those(tmp_path, row, chosen, rejected):
    for _, better, worse in PAIRS:
        path = write(tmp_path / "a.jsonl", row | {better: chosen, worse: rejected})
        (found,) = read_rankings(path)
        assert found.completions[0] == "Paris" and found.completions[1] in ("Rome", "Oslo")
        assert found.ranks == (0, 1) and list(read_prompts(path)) == ["Capital?"]


@pytest.mark.parametrize(
    "row, chosen, rejected",
    [
        (SIDES, "response_a", "Rome is one."),
        (SIDES, "a", "a"),
        (NUMBERED, "0", "2"),
        ({"prompt": "True?", "response_0": "1", "response_1": "0"}, "1", "0"),
    ],
)
def test_a_pair_that_may_name_something_else_is_refused(tmp_path, row, chosen, rejected):
    path = write(tmp_path / "a.jsonl", row | {"chosen": chosen, "rejected": rejected})
    with pytest.raises(InputError, match=r'a\.jsonl:1: "chosen" and "rejected"'):
        read_rankings(path)


@pytest.mark.parametrize(
    "row, pair",
    [
        (SIDES, ("Paris", "Rome")),
        (SIDES, ("Paris it is.", "Rome it is.")),
        ({"prompt": "2+2?", "answers": ["4", "5", "1"]}, ("4", "5")),
        ({"prompt": "True?", "response_0": "0", "response_1": "1"}, ("1", "0")),
    ],
)
def test_a_pair_of_texts_beside_answers_is_a_pair_of_texts(tmp_path, row, pair):
    (found,) = read_rankings(write(tmp_path / "a.jsonl", row | {"chosen": pair[0], "rejected": pair[1]}))
    assert found.completions == pair


@pytest.mark.parametrize("more", [{"winner": "1"}, {"score_1": 1, "score_2": 2, "score_3": 3}])
def test_a_third_answer_side_by_side_is_refused_by_its_name(tmp_path, more):
    row = {"prompt": "q", "response_1": "a", "response_2": "b", "response_3": "c"} | more
    path = write(tmp_path / "a.jsonl", row)
    with pytest.raises(InputError, match=r'a\.jsonl:1: "response_3" is a third answer'):
        read_rankings(path)
    assert list(read_prompts(path)) == ["q"]
