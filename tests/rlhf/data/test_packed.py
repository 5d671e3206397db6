"""Conversations that a file keeps as text: JSON is read as what it is, and Python's spelling is refused."""

import csv
import json

import pytest

from rlhf.data import ReadOptions, read_demonstrations, read_prompts, read_rankings, read_texts
from rlhf.errors import InputError
from tests.rows import write


def turns(*said):
    return [{"role": ("user", "assistant")[place % 2], "content": one} for place, one in enumerate(said)]


def packed(*said):
    return json.dumps(turns(*said))


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "chosen": packed("q", "a"), "rejected": packed("q", "b")},
        {"chosen": packed("q", "a"), "rejected": packed("q", "b")},
        {"prompt": packed("q"), "chosen": json.dumps(turns("", "a")[1:]), "rejected": json.dumps(turns("", "b")[1])},
        {"conversation_a": packed("q", "a"), "conversation_b": packed("q", "b"), "winner": "a"},
        {"prompt": packed("q"), "completions": ["a", "b"], "ranks": [0, 1]},
        {"prompt": "q", "chosen": json.dumps([{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]),
         "rejected": "b"},
    ],
)  # fmt: skip
def test_a_conversation_in_a_text_of_json_is_read_as_one(tmp_path, row):
    (found,) = read_rankings(write(tmp_path / "a.jsonl", row))
    assert (found.prompt, found.completions, found.ranks) == (turns("q"), ("a", "b"), (0, 1))
    assert list(read_prompts(tmp_path / "a.jsonl")) == [turns("q")]


@pytest.mark.parametrize(
    "row, columns",
    [
        ({"messages": packed("q", "a")}, ""),
        ({"prompt": packed("q"), "completion": "a"}, ""),
        ({"ask": {"it": packed("q")}, "say": "a"}, "prompt=ask.it,completion=say"),
        ({"inputs": {"messages": packed("q")}, "outputs": {"answer": "a"}}, ""),
    ],
)
def test_so_is_one_to_be_learned(tmp_path, row, columns):
    (found,) = read_demonstrations(write(tmp_path / "a.jsonl", row), options=ReadOptions(columns=columns))
    assert (found.prompt, found.completion) == (turns("q"), "a")


def test_other_json_is_the_text_it_is(tmp_path):
    for text in (
        '[{"content": "x"}]',
        '{"text": "x"}',
        "[1, 2]",
        '[{"role": "user", "content":',
        "[]x",
        '"role"',
    ):
        (found,) = read_demonstrations(write(tmp_path / "a.jsonl", {"prompt": "q", "completion": text}))
        assert found.completion == text
    assert list(read_texts(write(tmp_path / "a.jsonl", {"text": packed("q", "a")}))) == [packed("q", "a")]


def test_one_plain_cell_makes_no_text_of_a_conversation_in_its_column(tmp_path):
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [("prompt", "chosen", "rejected"), ("q", "a", "b"), ("q", packed("q", "a"), packed("q", "b"))]
        )
    assert [row.completions for row in read_rankings(tmp_path / "a.csv")] == [("a", "b")] * 2


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": str(turns("q")), "completion": "a"},
        {"prompt": "q", "completion": str(turns("q", "a"))},
        {"prompt": "q", "chosen": str(turns("q", "a")), "rejected": str(turns("q", "b"))},
        {"prompt": "q", "completions": [str(turns("q", "a")), str(turns("q", "b"))], "ranks": [0, 1]},
    ],
)
def test_a_conversation_in_pythons_spelling_is_refused(tmp_path, row):
    read = read_demonstrations if "completion" in row else read_rankings
    with pytest.raises(InputError, match=r"a\.jsonl:1: .*Python's spelling"):
        read(write(tmp_path / "a.jsonl", row))
    assert (
        len(
            read_demonstrations(
                write(tmp_path / "a.jsonl", {"prompt": "q", "completion": "a", "x": str(turns("q"))})
            )
        )
        == 1
    )


HALF = "cut \ud83d"
ARENA = {"prompt": json.dumps([HALF]), "response_a": json.dumps([HALF]), "response_b": json.dumps(["b"])}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": packed(HALF), "chosen": packed(HALF, HALF), "rejected": packed(HALF, "b")},
        {**ARENA, "winner_model_a": 1, "winner_model_b": 0, "winner_tie": 0},
        {"prompt": HALF, "completions": [HALF, "b"], "ranks": [0, 1], "fields": json.dumps({HALF: HALF})},
    ],
)
def test_half_a_surrogate_pair_within_a_text_of_json_is_replaced(tmp_path, row):
    (found,) = read_rankings(write(tmp_path / "a.jsonl", row))
    whole = HALF.replace("\ud83d", "\ufffd")
    assert (found.prompt, found.completions) in ((turns(whole), (whole, "b")), (whole, (whole, "b")))
    assert found.fields in ("", json.dumps({whole: whole}))


def test_fields_that_are_nested_too_deep_are_left_out(tmp_path):
    row = {"prompt": "q", "completions": ["a", "b"], "ranks": [0, 1], "fields": "[" * 100_000}
    (found,) = read_rankings(write(tmp_path / "a.jsonl", row))
    assert (found.completions, found.fields) == (("a", "b"), "")
