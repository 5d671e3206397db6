"""Records of labeling tools that ask several questions: one of them is the comparison, and the user says which."""

import json

import pytest

from rlhf.data import ReadOptions, read_prompts, read_rankings
from rlhf.errors import InputError
from tests.rows import write

FIELDS = {"prompt": "q", "response1": "A", "response2": "B"}
UP, DOWN = ["response1", "response2"], ["response2", "response1"]


def pairwise(name, side):
    return {
        "type": "pairwise",
        "from_name": name,
        "to_name": "response1,response2",
        "value": {"selected": side},
    }


def old(value):
    return [
        {
            "user_id": "u",
            "value": [{"value": one, "rank": n} for n, one in enumerate(value, 1)],
            "status": "submitted",
        }
    ]


TWICE = {
    "records": {"fields": FIELDS, "responses": {"helpful": [{"value": UP}], "harmless": [{"value": DOWN}]}},
    "table": FIELDS | {"helpful.responses": [UP], "harmless.responses": [DOWN]},
    "feedback": FIELDS | {"helpful": old(UP), "harmless": old(DOWN)},
    "votes": {"fields": FIELDS, "responses": {"helpful": [{"value": "response1"}], "harmless": [{"value": "response2"}]}},
    "Label Studio": {"data": FIELDS, "annotations": [{"result": [pairwise("helpful", "left"), pairwise("harmless", "right")]}]},
}  # fmt: skip


@pytest.mark.parametrize("shape", TWICE)
def test_of_two_questions_the_user_leaves_one_out(tmp_path, shape):
    path = write(tmp_path / "a.jsonl", TWICE[shape])
    with pytest.raises(InputError, match=r"a\.jsonl:1: .*helpful.*--map ignore="):
        read_rankings(path)
    for name, ranks in (("harmless", (0, 1)), ("helpful", (1, 0))):
        (found,) = read_rankings(path, options=ReadOptions(columns=f"ignore={name}"))
        by_text = dict(zip(found.completions, found.ranks, strict=True))
        assert (by_text["A"] < by_text["B"]) == (ranks == (0, 1))


def test_several_labelers_of_one_question_are_several_rankings(tmp_path):
    given = [{"value": UP, "user_id": "ann"}, {"value": DOWN, "user_id": "bob"}]
    rows = read_rankings(write(tmp_path / "a.jsonl", {"fields": FIELDS, "responses": {"order": given}}))
    assert [row.labeler for row in rows] == ["argilla ann", "argilla bob"]


def test_a_choice_of_some_answers_is_no_ranking(tmp_path):
    fields = FIELDS | {"response3": "C"}
    row = {
        "fields": fields,
        "responses": {"acceptable": [{"value": UP}], "order": [{"value": [*UP, "response3"]}]},
    }
    (found,) = read_rankings(
        write(tmp_path / "a.jsonl", row), options=ReadOptions(columns="ignore=acceptable")
    )
    assert found.completions == ("A", "B", "C")
    del row["responses"]["order"]
    with pytest.raises(InputError, match='"acceptable" names response1, response2 and not response3'):
        read_rankings(write(tmp_path / "a.jsonl", row))


@pytest.mark.parametrize(
    "answered, empty",
    [
        ({"order.responses": [UP], "order.responses.users": ["ann"]}, None),
        ({"order": old(UP), "order-suggestion": None}, []),
        ({"order": old(UP), "order-suggestion": None}, None),
    ],
)
def test_a_record_that_nobody_answered_is_left_out_and_counted(tmp_path, answered, empty):
    waiting = FIELDS | {name: None if name.endswith("suggestion") else empty for name in answered}
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (waiting, FIELDS | answered)))
    rows = read_rankings(path)
    assert [row.completions for row in rows] == [("A", "B")]
    assert rows.account.left_out == {"without rankings": 1}
    assert list(read_prompts(path)) == ["q", "q"]
