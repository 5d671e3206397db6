"""The shipped quickstart, whole: what the README promises must happen on this machine."""

import json

import pytest

from stages.cli.main import main


@pytest.mark.slow
def test_quickstart_aligns_a_model_and_leaves_one_to_talk_to(tmp_path, capsys):
    place = ["--store", str(tmp_path / "store")]
    assert main(["quickstart", "--seed", "7", "--json", *place]) == 0
    results = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    rows = {
        (row["policy"], row["against"], row["split"], row["temperature"]): row
        for row in results["comparisons"]
    }
    assert rows["sft", "base", "test", 1.0]["win_rate"] >= 0.8
    assert rows["ppo", "sft", "test", 1.0]["ci95"][0] > 0.5
    assert rows["ppo", "sft", "test", 1.0]["ended"] >= 0.98
    accuracy = results["reward_models"]["reward"]["test"]
    assert accuracy["accuracy"][0] > max(
        accuracy["longer_answer"][0], accuracy["baselines"]["the shorter answer"][0]
    )
    assert results["peak_memory_gib"] < 4
    assert main(["store", "verify", *place]) == 0
