"""Pages hold what the result files hold, examples stay short, and tables and intervals are right."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from examples import lstm_page, tables

ROOT = Path(__file__).parents[2]
TALK = ROOT / "docs" / "talk"


def test_every_committed_page_is_what_its_result_file_makes(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "examples.pages", "--out", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    made = {path.name: path.read_text() for path in tmp_path.iterdir()}
    kept = {path.name: path.read_text() for path in TALK.iterdir() if path.is_file()}
    assert made == kept


@pytest.mark.parametrize("path", sorted((TALK / "results").glob("*.json")), ids=lambda path: path.stem)
def test_a_result_names_its_settings_and_machine_and_no_place(path):
    result = json.loads(path.read_text())
    assert result["settings"]["data"] in ("built-in text", "three texts")
    assert {"processor", "cores", "threads", "load", "torch", "day"} <= result["machine"].keys()
    assert result["found"] and result["seconds"] > 0 and "/" not in json.dumps(result["settings"])


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_no_example_is_longer_than_250_lines(path):
    assert len(path.read_text().splitlines()) <= 250


def test_intervals_are_student_s():
    assert tables.interval([1.0, 2.0, 3.0]) == "2.000 ± 2.484"  # 4.3027 · 1 / √3
    assert tables.interval([1.5]) == "1.500 (one seed)"
    assert tables.overlap([1.0, 1.1, 1.2], [1.2, 1.3, 1.4]) and not tables.overlap(
        [1.0, 1.01, 1.02], [2.0, 2.01, 2.02]
    )


def test_where_a_model_stops_gaining_from_more_context():
    made = [{"by_context": [5.0, 4.0, 3.5, 3.495, 3.493]}]
    assert lstm_page.stops_gaining(made, [1, 2, 4, 8, 16]) == 4
    assert lstm_page.stops_gaining([{"by_context": [5.0, 5.0]}], [1, 2]) == 1
    up_and_down = [{"by_context": [5.0, 4.0, 4.5, 4.3, 4.1]}]  # later places may be harder, which is no gain
    assert lstm_page.stops_gaining(up_and_down, [1, 2, 4, 8, 16]) == 2
    rows = lstm_page.context_rows({"GPT": made}, [1, 2, 4, 8, 16])
    assert [row[0] for row in rows] == ["0", "1", "2 to 3", "4 to 7", "8 to 15"]


def test_a_gap_that_seeds_do_not_tell_apart_is_called_so():
    near = {
        "GPT": [{"bits_per_byte": 2.0}, {"bits_per_byte": 2.4}],
        "LSTM": [{"bits_per_byte": 2.1}, {"bits_per_byte": 2.5}],
    }
    assert lstm_page.beside_gpt(near) == "0.100 ahead of the LSTM, less than the seeds tell apart"
    far = {
        "GPT": [{"bits_per_byte": 2.0}, {"bits_per_byte": 2.01}],
        "LSTM": [{"bits_per_byte": 3.1}, {"bits_per_byte": 3.11}],
    }
    behind = {**far, "LSTM with attention": [{"bits_per_byte": 1.0}, {"bits_per_byte": 1.01}]}
    assert lstm_page.beside_gpt(behind) == "1.100 ahead of the LSTM and 1.000 behind the LSTM with attention"
