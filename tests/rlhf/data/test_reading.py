"""Readers take every format we promise, and say where a bad row is."""

import csv
import gzip
import json

import pytest
from datasets import Dataset

from rlhf.data import (
    fingerprint,
    prompt_rows_in,
    read_demonstrations,
    read_prompts,
    read_rankings,
    read_texts,
)
from rlhf.data.parser import ReadOptions
from rlhf.errors import InputError

ROWS = [{"prompt": f"q{i}", "completion": f"a{i}"} for i in range(3)]


def write(path, rows):
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(lines.encode()))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".parquet":
        Dataset.from_list(rows).to_parquet(str(path))
    elif path.suffix == "":
        Dataset.from_list(rows).save_to_disk(str(path))
    else:
        path.write_text(lines)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet", "a.jsonl.gz", "folder"])
def test_every_format_gives_the_same_rows(tmp_path, name):
    rows = read_demonstrations(write(tmp_path / name, ROWS))
    assert [(row.prompt, row.completion) for row in rows] == [("q0", "a0"), ("q1", "a1"), ("q2", "a2")]


def test_a_comparison_is_a_ranking_of_two(tmp_path):
    row = {"prompt": "q", "chosen": "good", "rejected": "bad"}
    (ranking,) = read_rankings(write(tmp_path / "a.jsonl", [row]))
    better, worse = ranking.pairs()[0]
    assert (ranking.completions[better], ranking.completions[worse]) == ("good", "bad")


def test_rankings_keep_ties(tmp_path):
    row = {"prompt": "q", "completions": ["a", "b", "c"], "ranks": [0, 1, 0]}
    (ranking,) = read_rankings(write(tmp_path / "a.jsonl", [row]))
    assert sorted(ranking.pairs()) == [(0, 1), (2, 1)]


def test_a_text_file_is_split_at_blank_lines(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\n\nthree\n")
    assert [text.strip() for text in read_texts(tmp_path / "a.txt")] == ["one\ntwo", "three"]


@pytest.mark.parametrize("second", ['{"prompt": "q"}', "{broken", '{"prompt": "q", "completion": 3}'])
def test_a_bad_row_is_named_by_its_line_or_skipped_on_request(tmp_path, second):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(ROWS[0]) + "\n" + second + "\n")
    with pytest.raises(InputError, match=r"a\.jsonl:2") as caught:
        read_demonstrations(path)
    assert "\n" not in str(caught.value)


def test_bad_rows_are_skipped_on_request(tmp_path):
    path = write(tmp_path / "a.jsonl", [ROWS[0], {"prompt": "q"}, ROWS[2]])
    assert [row.completion for row in read_demonstrations(path, skip_bad_rows=True)] == ["a0", "a2"]


@pytest.mark.parametrize("options", ["", "prompt=prompt,completion=completion"])
@pytest.mark.parametrize(
    ("column", "reason"), [("completion", "without an answer"), ("prompt", "without a prompt")]
)
def test_a_column_that_is_null_is_left_out_as_a_blank_one_is(tmp_path, column, reason, options):
    path = write(tmp_path / "a.jsonl", [ROWS[0], {**ROWS[1], column: None}, {**ROWS[2], column: ""}])
    rows = read_demonstrations(path, options=ReadOptions(columns=options))
    assert [row.completion for row in rows] == ["a0"]
    assert rows.account.left_out == {reason: 2} and rows.account.read_as.total() == 3


def test_pairs_and_conversations_that_are_null_are_left_out(tmp_path):
    pairs = [{"prompt": "q", "chosen": "a", "rejected": rejected} for rejected in ("b", None, "")]
    found = read_rankings(write(tmp_path / "pairs.jsonl", pairs))
    assert len(found) == 1 and found.account.left_out == {"without an answer": 2}
    talk = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    found = read_demonstrations(
        write(tmp_path / "talks.jsonl", [{"messages": given} for given in (talk, None, [])])
    )
    assert len(found) == 1 and found.account.left_out == {"without a conversation": 2}
    with pytest.raises(InputError, match="all are left out: 3 without an answer"):
        read_rankings(write(tmp_path / "none.jsonl", pairs[1:2] * 3))


def said(*turns):
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def test_a_message_that_is_null_is_as_a_blank_one(tmp_path):
    path = tmp_path / "a.jsonl"
    for nothing in (None, "", " "):
        unanswered = said(("user", "q"), ("assistant", nothing))
        untold = said(("system", nothing), ("user", "q"), ("assistant", "a"))
        between = said(("user", "p"), ("assistant", nothing), ("user", "q"), ("assistant", "b"))
        found = read_demonstrations(write(path, [unanswered, untold, between]))
        assert found.account.left_out == {"without an answer": 1}
        assert [(len(row.prompt), row.completion, row.unlearned) for row in found] == [
            (1, "a", ()),
            (3, "b", (1,)),
        ]
    with pytest.raises(InputError, match="all are left out: 1 without a conversation"):
        read_demonstrations(write(path, [said(("system", None))]))


@pytest.mark.parametrize(
    "answers",
    [["a", None, "b"], [{"text": "a", "score": 1}, {"text": None, "score": 3}, {"text": "b", "score": 2}]],
)
def test_a_list_with_an_answer_that_is_null_is_left_out(tmp_path, answers):
    whole = {"prompt": "q", "completions": ["a", "b"], "ranks": [0, 1]}
    found = read_rankings(
        write(tmp_path / "a.jsonl", [whole, {"prompt": "q", "completions": answers, "ranks": [0, 1, 2]}])
    )
    assert len(found) == 1 and found.account.left_out == {"without an answer": 1}
    with pytest.raises(InputError, match=r"a.jsonl:1: the answers in .* have no text"):
        read_rankings(
            write(tmp_path / "a.jsonl", [{"prompt": "q", "completions": [{"score": 1}, {"score": 2}]}])
        )


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_file_is_refused(tmp_path, content):
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(InputError, match="empty"):
        read_prompts(tmp_path / "a.jsonl")


def test_a_missing_file_and_an_unknown_kind_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_prompts(tmp_path / "none.jsonl")
    (tmp_path / "a.xyz").write_text("x")
    with pytest.raises(InputError, match="unknown kind"):
        read_prompts(tmp_path / "a.xyz")


def test_fingerprints_tell_rows_apart_and_ignore_key_order():
    assert (
        fingerprint([{"a": 1, "b": 2}]) == fingerprint([{"b": 2, "a": 1}]) != fingerprint([{"a": 1, "b": 3}])
    )


def test_tasks_with_instances_and_judged_pairs_are_read(tmp_path):
    task = {
        "instruction": "Sort.",
        "instances": [{"input": "3 1", "output": "1 3"}, {"input": "2", "output": "2"}],
    }
    pair = {"input": "Why?", "output_1": "So.", "output_2": "Because.", "label": 2}
    (tmp_path / "tasks.jsonl").write_text(json.dumps(task))
    (tmp_path / "pairs.jsonl").write_text(json.dumps(pair))
    (demonstration,) = read_demonstrations(tmp_path / "tasks.jsonl")
    assert (demonstration.prompt, demonstration.completion) == ("Sort.\n\n3 1", "1 3")
    (ranking,) = read_rankings(tmp_path / "pairs.jsonl")
    assert (ranking.prompt, ranking.completions, ranking.ranks) == ("Why?", ("So.", "Because."), (1, 0))
    (tmp_path / "pairs.jsonl").write_text(json.dumps(pair | {"label": 0}))
    with pytest.raises(InputError, match=r"pairs\.jsonl:1: \"label\""):
        read_rankings(tmp_path / "pairs.jsonl")


def test_rows_in_memory_that_only_say_something_together_are_refused():
    row = {"message_id": "1", "parent_id": None, "role": "prompter", "text": "q"}
    with pytest.raises(InputError, match="row 1: OpenAssistant messages say something only together"):
        prompt_rows_in([row])
    with pytest.raises(InputError, match="row 2: a column is called 1"):
        prompt_rows_in(["x", {1: "x"}])
