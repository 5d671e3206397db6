"""What is asked of an experiment in vain is said before it begins."""

import argparse

import pytest

from examples import results, small_machine, useful
from rlhf.errors import InputError


@pytest.mark.parametrize("number", ["0", "-5", "1.5", "many"])
def test_no_experiment_is_one_of_no_tokens_or_seeds(number, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["experiment", "--out", str(tmp_path), "--tokens", number])
    with pytest.raises(SystemExit):
        results.main("none", "An experiment.", lambda given: pytest.fail("it ran"), tokens=100, seed=0)
    assert f"'{number}' is no whole number from 1 on" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_may_be_none_may_be_none(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["experiment", "--out", str(tmp_path), "--seed", "0", "--tokens", "7"])
    results.main("found", "An experiment.", lambda given: given.tokens + given.seed, tokens=100, seed=0)
    assert "7" in (tmp_path / "found.json").read_text()


@pytest.mark.parametrize("content", [None, "{", "[]", "{}", '{"comparisons": 3}'])
def test_a_report_that_is_none_is_told_before_the_quickstart_runs(content, tmp_path):
    report = tmp_path / "results.json"
    if content:
        report.write_text(content)
    given = argparse.Namespace(store=str(tmp_path / "store"), report=str(report), recipe="quickstart", seed=0)
    with pytest.raises(InputError, match="no results"):
        useful.run(given)
    assert not (tmp_path / "store").exists()


def test_a_folder_without_a_model_is_told_before_anything_is_measured(tmp_path):
    with pytest.raises(InputError, match="safetensors"):
        small_machine.run(argparse.Namespace(model=str(tmp_path)))
