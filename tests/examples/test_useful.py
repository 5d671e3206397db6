"""The last question's page from a report, and the whole of it on the smoke recipe."""

import argparse
import json

import pytest

from examples import pages, useful, useful_page

REPORT = {
    "comparisons": [
        {
            "policy": "ppo",
            "against": "sft",
            "win_rate": 0.75,
            "ci95": [0.6, 0.9],
            "n": 20,
            "split": "test",
            "temperature": 1.0,
        },
        {
            "policy": "ppo",
            "against": "sft",
            "win_rate": 0.8,
            "ci95": [0.7, 0.9],
            "n": 20,
            "split": "test",
            "temperature": 0.0,
        },
    ],
    "examples": [
        {
            "prompt": f"Question {i}?",
            "answers": {name: {"text": f"{name} says\na|b", "score": 1.0} for name in useful.MODELS},
        }
        for i in range(6)
    ],
    "seconds": {"base": 5.0, "ppo": 60.0},
    "peak_gib": {"base": 0.5, "ppo": 0.75},
    "steps": {"base": {"train_s": 120.0}, "ppo": {"train_s": 58.0}},  # the base was there already
}


def test_a_report_of_align_has_one_temperature_for_all_its_comparisons(tmp_path):
    rows = [{"policy": "ppo", "against": "sft", "win_rate": 0.75, "ci95": [0.6, 0.9], "n": 20, "ties": 1}]
    (tmp_path / "results.json").write_text(json.dumps({**REPORT, "comparisons": rows, "temperature": 1.0}))
    found = useful.read_report(tmp_path / "results.json")
    asked = [{"role": "user", "content": "Hello?"}, {"role": "user", "content": "What is\nad valorem?"}]
    found["examples"] = [{**found["examples"][0], "prompt": asked}]
    assert useful_page.answer_rows(found)[0] == ["What is ad valorem?", "base", "base says a\\|b"]
    assert useful_page.win_rates(found) == {"ppo over sft": (0.75, 0.6, 0.9)}
    assert useful_page.comparison_rows(found) == [
        ["ppo over sft", "", "temperature 1", "75%", "60% to 90%", 20]
    ]


def test_the_page_says_who_is_preferred_on_what_and_at_what_cost(tmp_path):
    found = {"the smoke recipe": useful.chosen(REPORT)}
    machine = {"processor": "x", "cores": 2, "threads": 1, "load": 0.1, "torch": "2", "day": "2026-01-01"}
    made = {
        "settings": {"seed": 0, "data": "built-in text"},
        "machine": machine,
        "seconds": 60,
        "found": found,
    }
    (tmp_path / "useful.json").write_text(json.dumps(made))
    pages.fill("useful", tmp_path, tmp_path)
    page = (tmp_path / "useful.md").read_text()
    assert "the judge prefers ppo over sft in 75%" in page and "3.0 minutes, most of them base (2.0)" in page
    assert "| base | 120 |  |" in page and "| ppo | 60 | 0.75 |" in page
    assert page.count("says a\\|b") == 3 * useful.NUM_QUESTIONS
    assert "| ppo over sft | test | greedy | 80% | 70% to 90% | 20 |" in page
    assert (tmp_path / "useful-1.svg").read_text().startswith("<svg")


@pytest.mark.slow
def test_the_smoke_recipe_gives_every_number_of_the_page(tmp_path):
    given = argparse.Namespace(recipe="smoke", store=str(tmp_path / "store"), report="", seed=0)
    (report,) = useful.run(given).values()
    assert {row["policy"] for row in report["comparisons"]} >= {"sft", "ppo"}
    assert (
        len(report["examples"]) == useful.NUM_QUESTIONS and set(useful.MODELS) <= report["examples"][0].keys()
    )
    assert useful_page.comparison_rows(report) and useful_page.win_rates(report)
    assert report["seconds"].keys() == report["peak_gib"].keys()
