"""`rlhf doctor --base`: what each stage would take, measured on the real model. Its truth is a timing, so in docs/benchmarks.md."""

import json
import re
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rlhf.models.tokenizer import load_tokenizer, train_tokenizer
from stages.align.data import divide
from stages.cli.main import main
from stages.estimate import step
from stages.estimate.estimate import Estimate
from stages.estimate.probes import evenly_spaced, probe_sft
from stages.estimate.step import multiplied_weights, of_every_length
from stages.settings import AlignDataSettings, SFTSettings
from tests import forked

TEXTS = ["The red kite is in the park. Tom has a blue boat. Say one two three four. The dog barks."] * 5


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with a random Llama of three blocks and its tokenizer."""
    folder = tmp_path_factory.mktemp("llama")
    tokenizer = train_tokenizer(TEXTS, 300)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=256,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save(folder)
    return folder


@pytest.fixture(autouse=True)
def quickly_started(monkeypatch):
    """Each probe's process is a new one still."""
    monkeypatch.setattr("stages.estimate.estimates.get_context", lambda kind: forked.CONTEXT)


def test_every_stage_of_a_recipe_is_estimated(model, tmp_path, capfd):
    rows = [{"prompt": f"Say {i}", "completion": "one two"} for i in range(40)]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        f'[sft]\ndata = "{tmp_path}/d.jsonl"\nbatch_size = 4\nepochs = 2\nlast_blocks = 1\n'
        "[reward]\nprompts_per_batch = 10\nlora_rank = 2\n"
        "[ppo]\nepisodes = 64\nbatch_size = 16\nminibatch_size = 8\nmax_new_tokens = 4\nlora_rank = 2\nptx_coef = 1.0\n"
        'completions_per_prompt = 4\nvalue_warmup_iterations = 1\nsamples_every = 1\neval_every = 1\nreward_weights = "1, 2"\n'
    )
    assert (
        main(["doctor", "--store", str(tmp_path / "s"), "--base", str(model), "--recipe", str(recipe)]) == 0
    )
    shown, progress = capfd.readouterr()
    assert [line.split(":")[0] for line in progress.splitlines() if line.endswith("ing")] == [
        "sft",
        "reward",
        "ppo",
    ]
    line = {
        stage: re.search(rf"^[ !] {stage} +(.*)$", shown, re.MULTILINE).group(1)
        for stage in ("sft", "reward", "ppo")
    }
    for text in line.values():
        time_said, gib = re.match(r"about ([\d.]+) (?:h|min|s), ([\d.]+) GiB: ", text).groups()
        assert float(time_said) > 0 and 0.1 < float(gib) < 4
    assert "40 demonstrations, 18 steps of" in line["sft"]  # 36 rows are left to train on, four a step, twice
    assert "1,000 prompts" in line["reward"] and "naming no file, 90 steps of" in line["reward"]
    assert "64 completions of" in line["ppo"] and "train_runtime" not in shown


def test_a_recipe_of_align_is_estimated_on_the_data_it_divides(model, tmp_path, capfd):
    data = tmp_path / "data"
    data.mkdir()
    asked = [f"Say {i}" for i in range(60)]
    (data / "d.jsonl").write_text(
        "".join(json.dumps({"prompt": p, "completion": "one two"}) + "\n" for p in asked)
    )
    (data / "r.jsonl").write_text(
        "".join(
            json.dumps({"prompt": p, "completions": ["one two", "three"], "ranks": [0, 1]}) + "\n"
            for p in asked
        )
    )
    (data / "t.txt").write_text("\n\n".join(TEXTS * 8 + asked))
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        '[data]\ndemonstrations = "d.jsonl"\nrankings = "r.jsonl"\ntexts = "t.txt"\nvalidation_share = 0.2\ntest_share = 0.2\n'
        "[sft]\nbatch_size = 4\n[reward]\nprompts_per_batch = 4\nprobe_l2 = 0.3\n"
        "[gold]\nprompts_per_batch = 4\nprobe_l2 = 0.3\nepochs = 2\n"
        "[ppo]\nepisodes = 32\nbatch_size = 8\nminibatch_size = 4\nmax_new_tokens = 4\n"
    )
    store = tmp_path / "s"
    command = [
        "doctor",
        "--store",
        str(store),
        "--base",
        str(model),
        "--recipe",
        str(recipe),
        "--data",
        str(data),
    ]
    assert main(command) == 0
    shown, progress = capfd.readouterr()
    # The gold model's step is the reward model's, so it is not measured again.
    assert [line.split(":")[0] for line in progress.splitlines() if line.endswith("ing")] == [
        "data",
        "sft",
        "reward",
        "ppo",
    ]
    parts = divide(
        AlignDataSettings(demonstrations="d.jsonl", rankings="r.jsonl", texts="t.txt", validation_share=0.2, test_share=0.2),
        data, load_tokenizer(str(model)), tmp_path, lambda line: None,
    )  # fmt: skip
    for stage, part, what in (
        ("sft", "demonstrations", "demonstrations"),
        ("reward", "rankings", "prompts"),
        ("gold", "rankings_gold", "prompts"),
    ):
        rows = len(Path(parts.file(part)).read_text().splitlines())
        assert re.search(rf"^  {stage} +about .*: {rows} {what}, ", shown, re.MULTILINE), (stage, rows, shown)
    assert "32 completions of" in shown and "naming no file" not in shown
    assert re.search(r"^  together +about [\d.]+ (h|min|s)$", shown, re.MULTILINE)
    assert not store.exists()

    assert main([*command[:-4], "--recipe", "quickstart", "--data", str(data)]) == 2
    assert "no table [data]" in capfd.readouterr().err


def test_rows_for_the_probe_come_from_all_over_the_data():
    assert evenly_spaced(list(range(10)), 5) == [0, 2, 4, 6, 8] and evenly_spaced([1, 2], 4) == [1, 1, 2, 2]


def test_rows_of_a_short_probe_are_of_every_length():
    assert of_every_length([9, 1, 5, 3, 7], 5) == [1, 3, 2, 4, 0] and of_every_length([9, 1, 5], 1) == [2]


def test_a_step_that_is_too_slow_is_measured_on_fewer_rows_and_reckoned_up(model, monkeypatch):
    ran = []

    def run(trainer, num_steps):
        ran.append((len(trainer.train_dataset), num_steps))
        return 10.0, 100.0, 2.0  # begun, MiB held then, seconds of a step

    monkeypatch.setattr(step, "_run", run)
    found = []
    for budget in (1e9, 0.0):
        monkeypatch.setattr(step, "STEP_S", budget)
        found.append(probe_sft(str(model), SFTSettings(batch_size=16), 64, 4.0).step)
    assert ran == [(16, step.MOST_STEPS), (1, 2)]
    assert [one.seconds for one in found] == [2.0, 32.0] and {one.before_s for one in found} == {6.0}
    assert found[1].peak_mib > 2 * found[0].peak_mib  # what rows take is held sixteen times


@pytest.mark.parametrize("tied", [False, True])
def test_a_token_is_multiplied_with_all_but_an_embedding_that_is_no_head(tied):
    config = LlamaConfig(
        vocab_size=100, hidden_size=8, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=tied,
    )  # fmt: skip
    attention, mlp, norms = 8 * 8 * 2 + 8 * 4 * 2, 3 * 8 * 12, 3 * 8
    assert multiplied_weights(LlamaForCausalLM(config)) == attention + mlp + norms + 100 * 8


def test_what_did_not_fit_has_no_time():
    assert Estimate("sft", "ended by the system").summary == "ended by the system"
    assert Estimate("ppo", "x", seconds=7200, peak_mib=2048).summary == "about 2.0 h, 2.0 GiB: x"
    assert Estimate("ppo", "x", seconds=600, peak_mib=2048).summary == "about 10.0 min, 2.0 GiB: x"
    assert Estimate("ppo", "x", seconds=2.04, peak_mib=2048).summary == "about 2.0 s, 2.0 GiB: x"


def test_a_model_that_is_not_there_is_one_line(tmp_path, capsys):
    assert main(["doctor", "--store", str(tmp_path), "--base", str(tmp_path / "none")]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
