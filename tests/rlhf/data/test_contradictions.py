"""What a row says of its pair or ranks in another column: the same, nothing, or it is refused."""

import pytest

from rlhf.data import ReadOptions, read_rankings
from rlhf.errors import InputError
from tests.rows import write

TURNS = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
PAIRS = {
    "plain": {"prompt": "q", "chosen": "a", "rejected": "b"},
    "lists": {"prompt": "q", "chosen": ["a"], "rejected": ["b"]},
    "HH": {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"},
    "accepted": {"prompt": "q", "accepted": "a", "rejected": "b"},
    "ms-swift": {"messages": TURNS, "rejected_response": "b"},
}
LISTS = {
    "texts": {"prompt": "q", "completions": ["a", "b", "c"], "ranks": [1, 2, 2]},
    "objects": {"prompt": "q", "answers": [{"text": "a", "rank": 1}, {"text": "b", "rank": 2}]},
}


@pytest.mark.parametrize("shape", PAIRS)
@pytest.mark.parametrize(
    "more, named",
    [
        ({"score_chosen": 1, "score_rejected": 9}, "score_chosen"),
        ({"chosen_rating": 1, "rejected_rating": 9}, "chosen_rating"),
        ({"margin": -3}, "margin"),
        ({"winner": "rejected"}, "winner"),
        ({"label": "tie"}, "label"),
        ({"tie": True}, "tie"),
    ],
)
def test_what_says_the_opposite_of_a_pair_is_refused_by_its_name(tmp_path, shape, more, named):
    if shape == "lists" and named not in ("winner", "label", "tie"):
        return  # whole lists have no score of their own
    path = write(tmp_path / "a.jsonl", PAIRS[shape] | more)
    with pytest.raises(InputError, match=rf'a\.jsonl:1: "{named}" .*--map ignore={named}'):
        read_rankings(path)
    assert len(read_rankings(path, options=ReadOptions(columns=f"ignore={named}"))) == 1


@pytest.mark.parametrize(
    "more",
    [
        {"score_chosen": 5, "score_rejected": 5},
        {"margin": 0},
        {"winner": "chosen", "tie": False},
        {"label": "sports", "preference": 1},
        {"score_chosen": 5},
    ],
)
def test_what_says_the_same_or_nothing_is_read(tmp_path, more):
    for row in PAIRS.values():
        assert len(read_rankings(write(tmp_path / "a.jsonl", row | more))) == 1


def test_scores_in_another_order_than_ranks_are_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    for scores in ([9, 1, 1], [5, 5, 5], [9, 1, 5], [None, None, None]):
        (found,) = read_rankings(write(path, LISTS["texts"] | {"scores": scores}))
        assert found.ranks == (1, 2, 2)
    for scores in ([1, 9, 0], [5, 6, 1]):
        with pytest.raises(InputError, match=r'a\.jsonl:1: "ranks" and "scores" say the opposite'):
            read_rankings(write(path, LISTS["texts"] | {"scores": scores}))
    answers = [
        one | {"votes": votes} for one, votes in zip(LISTS["objects"]["answers"], (1, 90), strict=True)
    ]
    with pytest.raises(InputError, match=r'"votes" say the opposite.*ignore=votes'):
        read_rankings(write(path, {"prompt": "q", "answers": answers}))
    (found,) = read_rankings(path, options=ReadOptions(columns="ignore=votes"))
    assert found.ranks == (0, 1)


def test_ratings_that_disagree_with_ranks_are_another_question(tmp_path):
    (found,) = read_rankings(write(tmp_path / "a.jsonl", LISTS["texts"] | {"ratings": [1, 7, 7]}))
    assert found.ratings == (1, 7, 7)


def test_a_verdict_beside_a_pair_by_name_must_agree(tmp_path):
    row = {"prompt": "q", "response_a": "x", "response_b": "y", "chosen": "a", "rejected": "b"}
    for more in ({"preference": "response_a"}, {}):
        (found,) = read_rankings(write(tmp_path / "a.jsonl", row | more))
        assert found.completions == ("x", "y")
    with pytest.raises(InputError, match=r'a\.jsonl:1: "winner" says that the rejected'):
        read_rankings(write(tmp_path / "a.jsonl", row | {"winner": "b"}))
