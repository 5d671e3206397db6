"""Demonstrations have mean reward 0, read as long as the reward model was trained to read and no longer."""

import json

import pytest

from rlhf.learning.rewards import score_completions
from rlhf.models.checkpoints import load_scalar
from rlhf.models.tokenizer import load_tokenizer
from stages import reward, sft
from stages.settings import RewardSettings, SFTSettings

LONG = "the dog barks in the park " * 4


def test_long_demonstrations_are_scored_by_what_the_reward_model_reads_of_them(base_store, tmp_path):
    rows = [{"prompt": f"{LONG} {n}", "completion": "The dog barks."} for n in range(8)]
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, rows)))
    made = SFTSettings(data=str(tmp_path / "d.jsonl"), epochs=1.0, name="zero", max_length=150)
    fine_tuned = sft.run(made, base_store, lambda line: None)
    ranked = [{"prompt": f"q{n}", "completions": ["Red.", "No."], "ranks": [0, 1]} for n in range(8)]
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, ranked)))
    settings = RewardSettings(
        init=fine_tuned.ref, data=str(tmp_path / "r.jsonl"), prompts_per_batch=4, max_length=24, name="zero"
    )
    entry = reward.run(settings, base_store, say=lambda line: None)
    model, tokenizer = load_scalar(entry.path), load_tokenizer(entry.path)
    given = [(row["prompt"], row["completion"]) for row in rows]
    short = score_completions(model, tokenizer, given, max_length=24)
    assert sum(short) / len(short) == pytest.approx(0, abs=0.02)
