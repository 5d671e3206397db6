"""`rlhf data show` finds the use a source is of, and hides no row that cannot be read for it."""

import json

import pytest

from rlhf.data import ReadOptions
from rlhf.errors import InputError
from stages.show_data import read_as

PAIR = {"prompt": "q", "chosen": "a", "rejected": "b"}
ALONE = {"prompt": "q", "chosen": "a"}
TURNS = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


def use_of(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_as(f"{path}", None, ReadOptions()).account.use


@pytest.mark.parametrize(
    "rows, place",
    [
        ([PAIR, PAIR, ALONE], r':3: "rejected" is missing'),
        ([ALONE, PAIR], r':1: "rejected" is missing'),
        ([PAIR, {"prompt": "q", "completion": "a"}], ":2: no rankings in it"),
        ([{"messages": TURNS}, {"messages": [*TURNS, {"role": "tool", "content": "x"}]}], ":2: .*role"),
        ([{"prompt": "q", "response_a": "x", "response_b": "y", "winner": w} for w in ("a", "?")], ':2: "winner"'),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_read_is_no_reason_to_show_something_else(tmp_path, rows, place):
    with pytest.raises(InputError, match=place):
        use_of(tmp_path / "a.jsonl", *rows)


@pytest.mark.parametrize("place", [0, 2])
def test_a_row_that_is_left_out_leaves_the_use_of_the_others(tmp_path, place):
    rows = [PAIR, PAIR]
    rows.insert(place, PAIR | {"rejected": None})
    assert use_of(tmp_path / "a.jsonl", *rows) == "rankings"


@pytest.mark.parametrize(
    "row, use",
    [
        (PAIR, "rankings"),
        ({"prompt": "q", "completion": "a"}, "demonstrations"),
        ({"prompt": "q", "completion": "a", "accepted": True}, "demonstrations"),
        ({"prompt": "q", "completion": "a", "rating": 5}, "demonstrations"),
        ({"prompt": "q", "completion": "a", "label": False}, "prompts"),
        ({"text": "words"}, "texts"),
        ({"prompt": "q"}, "prompts"),
        ({"question": "q", "answers": ["a", "b"]}, "prompts"),
        ({"prompt": "q", "response_a": "x", "response_b": "y"}, "prompts"),
    ],
)
def test_a_source_is_shown_as_the_first_use_that_it_holds(tmp_path, row, use):
    assert use_of(tmp_path / "a.jsonl", row) == use


def test_what_is_of_no_use_is_refused_by_the_first(tmp_path):
    with pytest.raises(InputError, match="no rankings in it"):
        use_of(tmp_path / "a.jsonl", {"x": 1})
