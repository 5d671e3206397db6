"""SFT and reward models: a loss that is no number ends the run unsaved, short runs learn, the kept epoch is told."""

import json

import pytest
import torch

from rlhf.errors import InputError, TrainingError
from rlhf.models.checkpoints import load_policy, load_scalar
from stages import reward, sft
from stages.cli.main import main
from stages.ppo import loop
from stages.reward import trainer as reward_trainer
from stages.settings import RewardSettings, SFTSettings
from stages.sft import stage as sft_stage
from stages.sft import trainer as sft_trainer
from stages.trainers import parts
from tests.tiny_ppo import PROMPTS, ppo_command, quiet, tiny_store


@pytest.fixture
def store(tmp_path):
    return tiny_store(tmp_path / "store")


def rows(path, number, ranked=False):
    """A file of demonstrations or rankings by one labeler, each of a prompt of its own."""
    answers = ["The dog barks.", "Tom has a boat"]
    asked = [f"{PROMPTS[i % 6]} {i}" for i in range(number)]
    ranks = {"completions": answers, "ranks": [0, 1]}
    given = [{"prompt": p} | (ranks if ranked else {"completion": answers[0]}) for p in asked]
    path.write_text("".join(json.dumps(row) + "\n" for row in given))
    return str(path)


def run(stage, store, folder, **more):
    """One tiny run of four rows a step; returns its entry."""
    data = rows(folder / "rows.jsonl", more.pop("number", 40), stage is reward)
    if stage is reward:
        settings = RewardSettings(
            init=str(store.resolve("sft").path),
            data=data,
            prompts_per_batch=4,
            validation_fraction=0.0,
            max_length=48,
            **more,
        )
        return reward.run(settings, store, say=quiet)
    check = rows(folder / "check.jsonl", 4)
    settings = SFTSettings(
        base="sft/tiny", data=data, validation_data=check, batch_size=4, max_length=48, **more
    )
    return sft.run(settings, store, quiet)


def losses_with_nan(monkeypatch, kind, step):
    """Let the step-th loss of a trainer be NaN; returns the list of losses."""
    losses = []
    real = kind.compute_loss

    def compute_loss(self, *args, **kwargs):
        found = real(self, *args, **kwargs)
        if torch.is_grad_enabled():
            losses.append(found)
        return found * float("nan") if torch.is_grad_enabled() and len(losses) == step else found

    monkeypatch.setattr(kind, "compute_loss", compute_loss)
    return losses


@pytest.mark.parametrize("step", [3, 10])
@pytest.mark.parametrize(
    "stage, kind", [(sft, sft_trainer.DemonstrationTrainer), (reward, reward_trainer.RankingTrainer)]
)
def test_a_loss_that_is_no_number_ends_the_run_and_nothing_of_it_is_saved(
    stage, kind, step, store, tmp_path, monkeypatch
):
    monkeypatch.setattr(parts, "SAVE_EVERY_S", 0.0)  # a save is due after every step
    losses_with_nan(monkeypatch, kind, step)
    name = f"{stage.__name__}-{step}"
    with pytest.raises(TrainingError, match="is nan; nothing was saved"):
        run(stage, store, tmp_path, name=name, epochs=1.0)
    assert not any(entry.name == name for entry in store.entries(stage.__name__.split(".")[-1]))
    kept = list((store.root / ".work").rglob("checkpoint-*/trainer_state.json"))
    steps = {json.loads(path.read_text())["global_step"] for path in kept}
    assert max(steps, default=0) < step


@pytest.mark.parametrize("name", ["sft", "reward", "ppo"])
def test_the_line_that_ends_a_run_stands_below_its_bar(name, store, tmp_path, monkeypatch, capsys):
    def stopped(*_, **__):
        raise TrainingError("stopped here")

    begin = [name, "--store", str(store.root), "--data", rows(tmp_path / "rows.jsonl", 40, name == "reward")]
    arguments = {
        "sft": [*begin, "--base", "sft/tiny", "--max-length", "48"],
        "reward": [*begin, "--init", str(store.resolve("sft").path), "--max-length", "48"],
        "ppo": ppo_command(store, rows(tmp_path / "prompts.jsonl", 8), "stopped"),
    }[name]
    monkeypatch.setattr(parts.Progress, "on_step_end", stopped)
    monkeypatch.setattr(loop, "set_learning_rates", stopped)
    assert main(arguments) == 2

    said = capsys.readouterr().err
    assert "\x1b" not in said  # one bar, which stays in its line
    *_, bar, why = said.strip("\n").split("\n")
    assert bar.split("\r")[-1].startswith(f"{name}: ")
    assert why == "rlhf: error: stopped here"


def test_the_bar_says_that_held_out_rows_are_measured(store, tmp_path, capsys):
    run(sft, store, tmp_path, name="told", epochs=1.0)
    said = capsys.readouterr().err.split("\r")
    assert any("10/10" in line and "measured 1 of 1 batches" in line for line in said)
    assert "eval_loss" in said[-1] and "measured" not in said[-1]


def test_a_reward_model_of_a_few_rankings_learns(store, tmp_path):
    entry = run(reward, store, tmp_path, number=4, name="few", epochs=1.0, lr=1e-3)
    before, after = load_policy(store.resolve("sft").path).base_model, load_scalar(entry.path).base_model
    changed = [not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True)]
    assert any(changed)


@pytest.mark.parametrize("number, epochs, warmup", [(4, 1.0, 0), (76, 1.0, 0), (80, 1.0, 2), (40, 5.0, 5), (400, 1.0, 10), (4000, 1.0, 10)])  # fmt: skip
def test_the_warm_up_is_a_share_of_a_short_run(number, epochs, warmup):
    settings = RewardSettings(prompts_per_batch=4, epochs=epochs)
    assert reward.stage._warmup_steps(number, settings) == warmup


def test_the_loss_that_is_told_is_that_of_the_epoch_that_is_kept(store, tmp_path, monkeypatch):
    scores = iter([3.0, 2.0, 1.0])
    monkeypatch.setattr(sft_stage, "mean_reward", lambda *_: next(scores))
    entry = run(sft, store, tmp_path, reward="reward/tiny", name="kept", epochs=3.0, lr=1e-3)
    history = json.loads((entry.path / "history.json").read_text())
    losses = [row["eval_loss"] for row in history if "eval_loss" in row]
    assert entry.manifest["metrics"]["validation_reward"] == 3.0
    assert entry.manifest["metrics"]["validation_loss"] == round(losses[0], 4) > round(min(losses), 4)


def test_a_long_prompt_shortens_no_other_answer_and_one_without_room_is_not_asked(
    store, tmp_path, monkeypatch
):
    rooms = []

    def generate(policy, asked, *args, **kwargs):
        made = sft_trainer_generate(policy, asked, *args, **kwargs)
        rooms.append([(len(row), len(sample.tokens)) for row, sample in zip(asked, made, strict=True)])
        return made

    sft_trainer_generate = sft_trainer.generate
    monkeypatch.setattr(sft_trainer, "generate", generate)
    long, too_long = "Say two three four. " * 5, "Say two three four. " * 30
    (tmp_path / "long.jsonl").write_text(
        "".join(json.dumps({"prompt": p, "completion": "one"}) + "\n" for p in [*PROMPTS[:3], long, too_long])
    )
    settings = SFTSettings(
        base="sft/tiny", data=rows(tmp_path / "rows.jsonl", 8), validation_data=str(tmp_path / "long.jsonl"),
        reward="reward/tiny", epochs=1.0, max_length=64, skip_long=True, name="rooms",
    )  # fmt: skip
    sft.run(settings, store, quiet)
    (made,) = rooms
    assert len(made) == 4 and all(prompt + answer <= 64 for prompt, answer in made)
    longest = max(prompt for prompt, _ in made)
    assert max(answer for _, answer in made) > 64 - longest


def test_rewards_need_a_validation_prompt_with_room(store, tmp_path):
    (tmp_path / "check.jsonl").write_text(json.dumps({"prompt": "Say two " * 60, "completion": "one"}) + "\n")
    settings = SFTSettings(
        base="sft/tiny", data=rows(tmp_path / "rows.jsonl", 8), validation_data=str(tmp_path / "check.jsonl"),
        reward="reward/tiny", max_length=48, name="none",
    )  # fmt: skip
    with pytest.raises(InputError, match="no validation prompt leaves room"):
        sft.run(settings, store, quiet)


@pytest.mark.parametrize("stage", [sft, reward])
def test_a_tracker_that_is_not_there_is_one_line_and_commas_stand_between_two(stage, store, tmp_path):
    with pytest.raises(InputError, match="report_to = tensorboard, nonsense: nonsense is not supported"):
        run(stage, store, tmp_path, report_to="tensorboard, nonsense", name="tracked")
    with pytest.raises(InputError, match="report_to = comet_ml: CometCallback requires comet-ml"):
        run(stage, store, tmp_path, report_to="comet_ml", name="tracked")
    assert [*parts.trackers("none")] == [] and [*parts.trackers("tensorboard")] == ["tensorboard"]
