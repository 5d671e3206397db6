"""Columns that ask something: one is the prompt, and no other one is lost in silence."""

import json

import pytest

from rlhf.data import ReadOptions, read_demonstrations, read_prompts, read_rankings
from rlhf.errors import InputError
from tests.rows import write

ASKS = {"instruction": "Answer in French.", "question": "2+2?"}
SAYS = [{"role": "user", "content": "Answer in French."}, {"role": "assistant", "content": "quatre"}]
LABEL = {"type": "pairwise", "to_name": "a1,a2", "value": {"selected": "left"}}
TOLD = [
    (read_demonstrations, ASKS | {"output": "quatre"}),
    (read_demonstrations, ASKS | {"messages": SAYS}),
    (read_demonstrations, {"inputs": ASKS, "outputs": {"answer": "quatre"}}),
    (read_prompts, ASKS),
    (read_rankings, ASKS | {"chosen": "quatre", "rejected": "four"}),
    (read_rankings, ASKS | {"response_a": "quatre", "response_b": "four", "winner": "a"}),
    (read_rankings, ASKS | {"completions": ["quatre", "four"], "ranks": [0, 1]}),
    (read_rankings, {"data": ASKS | {"a1": "quatre", "a2": "four"}, "annotations": [{"result": [LABEL]}]}),
    (read_rankings, {"fields": ASKS | {"a1": "quatre", "a2": "four"}, "responses": {"best": [{"value": ["a1", "a2"]}]}}),
]  # fmt: skip


@pytest.mark.parametrize("read, row", TOLD)
def test_a_second_question_is_refused_by_its_name(tmp_path, read, row):
    path = write(tmp_path / "a.jsonl", row)
    with pytest.raises(InputError, match=r'a\.jsonl:1: "question" asks something beside "instruction"'):
        read(path)
    (found,) = read(path, options=ReadOptions(columns="ignore=question"))
    assert "2+2?" not in str(found)


@pytest.mark.parametrize(
    "prompt, question",
    [
        ("Solve.\n2+2?", "2+2?"),
        ("Question: 2+2?\nAnswer:", "2+2?"),
        ("Solve this: what is 2+2? Think first.", "What is  2+2?".lower()),
        ([{"role": "user", "content": "Solve.\n2+2?"}], "2+2?"),
        ("\n\nHuman: 2+2?\n\nAssistant:", "\n\nHuman: 2+2?\n\nAssistant:"),
        ("2+2?", " "),
    ],
)
def test_a_question_that_stands_in_the_prompt_is_no_second_one(tmp_path, prompt, question):
    row = {"prompt": prompt, "question": question, "completion": "4"}
    assert len(read_demonstrations(write(tmp_path / "a.jsonl", row))) == 1


def test_a_column_is_left_out_whatever_its_case(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"Prompt": "q", "Completion": "a", "Label": 0}))
    with pytest.raises(InputError, match="--map ignore=label"):
        read_demonstrations(path)
    for name in ("label", "Label"):
        rows = read_demonstrations(path, options=ReadOptions(columns=f"ignore={name}"))
        assert [row.completion for row in rows] == ["a"] and rows.account.ignored == {"Label"}


def test_a_field_is_made_of_one_column(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"title": "t", "body": "q", "completion": "a"}))
    with pytest.raises(InputError, match="--map prompt=body: prompt is title already"):
        read_demonstrations(
            path, options=ReadOptions(columns="prompt=title,prompt=body,completion=completion")
        )
