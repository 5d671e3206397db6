"""What was measured is measured once, for the very same inputs, and survives whatever stops a run."""

import json

import pytest

from rlhf.data import PromptRow
from rlhf.errors import InputError
from stages.judging.answers import Answers
from stages.judging.judges import Scorer
from stages.judging.kept import MeasurementCache


def quiet(line):
    pass


@pytest.mark.parametrize("in_files", [True, False])
def test_a_judge_scores_each_policys_answers_once_however_many_it_is_compared_with(tmp_path, in_files):
    given = {name: Answers([name], [True], [1], [None]) for name in ("a", "b", "c", "d")}
    rows, calls = [PromptRow(prompt="q")], []

    def score(rows, answers):
        calls.append(answers.texts)
        return [1.0]

    judge = Scorer("f", "k", score, MeasurementCache(tmp_path if in_files else None, quiet))
    for policy in given:
        for against in given:
            judge.compare(rows, given, policy, against)
    assert sorted(calls) == [["a"], ["b"], ["c"], ["d"]]


def test_a_changed_column_of_the_prompts_is_another_measurement(tmp_path):
    answers = Answers(["yes"], [True], [1], [None])

    def scored(wanted):
        judge = Scorer(
            "f", "k", lambda rows, _: [float(rows[0].columns["w"])], MeasurementCache(tmp_path, quiet)
        )
        return judge.scores([PromptRow(prompt="q", columns={"w": wanted})], "a", answers)

    assert [scored(1), scored(2), scored(1)] == [[1.0], [2.0], [1.0]]


def test_names_that_begin_alike_or_differ_in_a_slash_do_not_share_a_file(tmp_path):
    names = [f"answers of {'long/' * 40}{k}" for k in (1, 2)] + ["a/b", "a-b"]
    for _ in range(2):
        lines = []
        cache = MeasurementCache(tmp_path, lines.append)
        assert [cache.get_or_measure(name, [name], lambda name=name: name) for name in names] == names
    assert lines == []


@pytest.mark.parametrize("damage", [b"", b"{", b"[1]", b"{}", b"\xff\xfe", b"null"])
def test_a_damaged_file_is_measured_again(tmp_path, damage):
    def measured(value):
        return MeasurementCache(tmp_path, quiet).get_or_measure("x", [1], lambda: value)

    assert measured("first") == measured("second") == "first"
    (file,) = tmp_path.iterdir()
    file.write_bytes(damage)
    assert measured("third") == measured("fourth") == "third"


def test_what_came_before_a_failure_is_not_asked_again(tmp_path):
    asked = []

    def ask(one, fails):
        asked.append(one)
        if fails and one == 3:
            raise InputError("refused")
        return [f"said {one}"]

    def all_of(fails):
        cache = MeasurementCache(tmp_path, quiet)
        return cache.get_or_measure_each("verdicts", "m", [1, 2, 3, 4], lambda one: ask(one, fails), 1)

    with pytest.raises(InputError, match="refused"):
        all_of(True)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes() + b'{"inputs": "torn by a cra')
    before = len(asked)
    assert all_of(False) == all_of(False) == [[f"said {k}"] for k in (1, 2, 3, 4)]
    assert 3 in asked[before:] and not {1, 2} & set(asked[before:])
    assert all(json.loads(line) for line in file.read_text().splitlines() if "torn" not in line)
