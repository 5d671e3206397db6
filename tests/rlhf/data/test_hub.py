"""Data sets by their names on the hub, from a server of its protocol: config, split, revision, and clear refusals."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hub_server import SHA, serve

ROOT = Path(__file__).parents[3]
CARD = """---
configs:
- config_name: small
  data_files:
  - {split: train, path: small/train.jsonl}
  - {split: test, path: small/test.jsonl}
- config_name: large
  data_files: large/*.jsonl
---
"""


def lines(path, *answers):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join(
            json.dumps({"prompt": f"q {a}", "completion": a, "date": "2024-01-01"}) + "\n" for a in answers
        )
    )


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    lines(folder / "datasets/ann/plain/data/train-0.jsonl", "2024-05-06")
    lines(folder / "datasets/ann/plain/data/train-1.jsonl", "b")
    lines(folder / "datasets/ann/plain/data/test-0.jsonl", "c")
    lines(folder / "datasets/ann/cards/small/train.jsonl", "small train")
    lines(folder / "datasets/ann/cards/small/test.jsonl", "small test")
    lines(folder / "datasets/ann/cards/large/1.jsonl", "large")
    (folder / "datasets/ann/cards/README.md").write_text(CARD)
    lines(folder / "datasets/ann/folders/helpful/train.jsonl", "helpful train")
    lines(folder / "datasets/ann/folders/helpful/test.jsonl", "helpful test")
    lines(folder / "datasets/ann/folders/harmless/train.jsonl", "harmless train")
    lines(folder / "datasets/ann/secret/train.jsonl", "x")
    (folder / "datasets/ann/secret/.private").touch()
    with serve(folder) as url:
        yield url


def show(endpoint, cache, source, *more, **environment):
    command = [
        sys.executable,
        "-m",
        "stages.cli",
        "data",
        "show",
        source,
        "--as",
        "demonstrations",
        "--json",
        *more,
    ]
    env = (
        os.environ
        | {"HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "0"}
        | environment
    )
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env)


def answers(done):
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return [row[-1].removeprefix("→ assistant: ") for row in found["first_rows"]], found["revisions"]


SOURCES = {
    "ann/plain": ["2024-05-06", "b"],
    "ann/plain:test": ["c"],
    "ann/plain@v1": ["2024-05-06", "b"],
    "hf://datasets/ann/plain/data/test-0.jsonl": ["c"],
    "ann/cards/small": ["small train"],
    "ann/cards/small:test@main": ["small test"],
    "ann/cards/large": ["large"],
    "ann/folders/helpful:test": ["helpful test"],
}


@pytest.mark.parametrize("source", SOURCES)
def test_a_name_gives_its_rows_and_the_commit_they_are_of(endpoint, tmp_path, source):
    found, revisions = answers(show(endpoint, tmp_path, source))
    assert found == SOURCES[source] and list(revisions.values()) == [SHA]


REFUSED = {
    "ann/secret": "log in",
    "ann/none": "log in",
    "ann/plain:validation": "no split validation.*train, test",
    "ann/plain@v2": "no revision v2",
    "ann/cards": "small.*large",
}


@pytest.mark.parametrize("source", REFUSED)
def test_what_is_not_there_or_private_is_said_in_one_line(endpoint, tmp_path, source):
    import re

    done = show(endpoint, tmp_path, source)
    assert (
        done.returncode == 2 and re.search(REFUSED[source], done.stderr) and done.stderr.count("\n") == 1
    ), done.stderr


def test_what_was_fetched_is_read_without_a_network(endpoint, tmp_path):
    fetch = [sys.executable, "-m", "stages.cli", "data", "fetch", "ann/plain"]
    env = os.environ | {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "0",
    }
    done = subprocess.run(fetch, capture_output=True, text=True, cwd=ROOT, env=env)
    assert done.returncode == 0 and SHA in done.stdout, done.stderr
    found, revisions = answers(show("http://127.0.0.1:9", tmp_path, "ann/plain", HF_HUB_OFFLINE="1"))
    assert found == ["2024-05-06", "b"] and revisions == {"ann/plain": SHA}
