"""Every stage in order, with our GPT and with models of other makes, and resumed runs that end where whole runs end."""

import io
import json
import math
import re
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM

from annotate.labels import LabelStore
from rlhf.errors import InputError, StoreError
from rlhf.models.checkpoints import load_policy, load_scalar
from rlhf.state_parts import StateFile
from rlhf.store import Store
from stages import ppo, pretrain, quickstart, reward, sft
from stages.judging import evaluate
from stages.judging_settings import EvalSettings
from stages.labeling import sample
from stages.pretrain import loop
from stages.reward.trainer import RankingTrainer
from stages.settings import PPOSettings, RewardSettings, SampleSettings, SFTSettings
from stages.sft.trainer import DemonstrationTrainer
from stages.talk import terminal
from stages.talking_settings import ChatSettings
from stages.trainers import parts
from tests import forked
from tests.stages.conftest import tiny_pretraining

RECIPE = {
    "pretrain": {"layers": 2, "width": 32, "heads": 2, "vocab_size": 600, "tokens": 40_000, "threads": 1},
    "sft": {"num_demonstrations": 40, "epochs": 1.0},
    "sample": {"num_prompts": 4, "overlap": 2, "max_new_tokens": 16},
    "reward": {"epochs": 1.0, "prompts_per_batch": 8},
    "ppo": {"episodes": 32, "batch_size": 16, "minibatch_size": 8, "max_new_tokens": 16, "save_every": 1},
    "eval": {"num_prompts": 20, "max_new_tokens": 16},
}


def quiet(line):
    pass


def weights(folder):
    return load_policy(folder).state_dict()


def same_weights(a, b):
    one, other = weights(a), weights(b)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_whole_pipeline_then_nothing_is_done_twice(tmp_path):
    store, url = Store(tmp_path / "store"), str(tmp_path / "labels.db")
    results = quickstart.run(RECIPE, store, url, name="tiny", say=quiet)
    assert [entry.stage for entry in store.entries()] == ["base", "sft", "reward", "ppo"]
    assert {row["split"] for row in results["comparisons"]} == {"test", "held-out"}
    assert all(
        0 <= row["ci95"][0] <= row["win_rate"] <= row["ci95"][1] <= 1 for row in results["comparisons"]
    )
    report = (tmp_path / "store/reports/tiny-0/report.html").read_text()
    assert "<svg" in report and not re.search(r"(src|href)=.?https?:|url\(", report.replace("url(#", ""))
    reward = store.resolve("reward")
    assert reward.manifest["settings"]["labels"] in str(reward.manifest["data"])
    lines: list[str] = []
    quickstart.run(RECIPE, store, url, name="tiny", say=lines.append)
    assert len(store.entries()) == 4
    assert sum("is there already" in line for line in lines) == 4
    assert store.verify() == []
    with LabelStore(url) as labels:
        assert all(labeler["simulated"] for labeler in labels.labelers())


def test_a_misspelt_recipe_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(InputError, match="kl_coeff"):
        quickstart.run({**RECIPE, "ppo": {"kl_coeff": 1}}, Store(tmp_path), None, say=quiet)
    with pytest.raises(InputError, match="größe 2"):
        quickstart.run(RECIPE, Store(tmp_path), None, name="größe 2", say=quiet)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def rankings_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "rankings.jsonl"
    rows = [
        {
            "prompt": f"Which color has kite {i}?",
            "completions": ["The kite is red.", "No.", "Blue boat"],
            "ranks": [0, 2, 1],
        }
        for i in range(12)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_other_peoples_models_go_through_every_stage(foreign_model, rankings_file, tmp_path):
    store = Store(tmp_path / "store")
    demonstrations = tmp_path / "demonstrations.jsonl"
    rows = [{"prompt": f"Say {i}", "completion": f"I say {i}."} for i in range(12)]
    demonstrations.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tuned = sft.run(
        SFTSettings(base=str(foreign_model), data=str(demonstrations), epochs=1.0, batch_size=4, name="f"),
        store,
        quiet,
    )
    batch = sample.run(
        SampleSettings(policy="sft", prompts=str(demonstrations), k=3, max_new_tokens=8, num_prompts=4),
        store, str(tmp_path / "l.db"), quiet,
    )  # fmt: skip
    with LabelStore(tmp_path / "l.db") as labels:
        assert labels.progress(batch).tasks == 4
    scored_by = reward.run(
        RewardSettings(init="sft", data=str(rankings_file), prompts_per_batch=4, name="f"), store, say=quiet
    )
    final = ppo.run(
        PPOSettings(
            policy="sft", reward="reward", prompts=str(demonstrations), episodes=16, batch_size=8, minibatch_size=4,
            max_new_tokens=8, name="f",
        ),
        store, quiet,
    )  # fmt: skip
    assert not same_weights(tuned.path, final.path)
    assert load_scalar(scored_by.path).config.num_labels == 1
    assert type(AutoModelForCausalLM.from_pretrained(final.path)) is type(
        AutoModelForCausalLM.from_pretrained(foreign_model)
    )
    settings = EvalSettings(
        policy="ppo",
        against="sft",
        prompts=str(demonstrations),
        reward="reward",
        num_prompts=4,
        max_new_tokens=8,
    )
    result = evaluate.run(settings, store, quiet)
    assert result["judge"].startswith("reward/") and list(result["policies"]) == ["sft", "ppo"]
    assert math.isfinite(result["policies"]["ppo"]["kl"])
    answer = io.StringIO()
    talk = ChatSettings(policy="ppo", max_new_tokens=4, temperature=0.0)
    terminal.run(talk, store, str(store.root / "labels.db"), io.StringIO("Say 1\n"), answer)
    assert answer.getvalue().endswith("\n")


def test_a_reward_model_of_another_make_and_vocabulary_teaches_any_policy(foreign_model, trained, tmp_path):
    reward = trained.resolve("reward")
    final = ppo.run(
        PPOSettings(policy=str(foreign_model), reward=str(reward.path), prompts=None, **PPO | {"episodes": 16}),
        Store(tmp_path), quiet,
    )  # fmt: skip
    assert math.isfinite(final.manifest["metrics"]["kl"])
    assert not same_weights(foreign_model, final.path)


@pytest.fixture(scope="module")
def trained(base_store, rankings_file, tmp_path_factory):
    """The base store with an SFT and a reward model added."""
    tuned = sft.run(SFTSettings(num_demonstrations=40, epochs=1.0, name="tiny"), base_store, quiet)
    reward.run(
        RewardSettings(data=str(rankings_file), prompts_per_batch=4, name="tiny"), base_store, say=quiet
    )
    assert tuned.manifest["parents"]["base"]["ref"] == "base/0001-tiny"
    return base_store


class Stop(Exception):
    """Stands for the plug being pulled."""


def pull_plug_after(monkeypatch, saver, name, saves):
    """Let a stage save its state `saves` times, by what `saver` has under this name, and fail right after."""
    real, count = getattr(saver, name), [0]

    def save(*given):
        real(*given)
        count[0] += 1
        if count[0] == saves:
            raise Stop

    monkeypatch.setattr(saver, name, save)


PPO = {
    "episodes": 64,
    "batch_size": 16,
    "minibatch_size": 8,
    "max_new_tokens": 12,
    "save_every": 1,
    "ema_decay": 0.9,
}


def test_interrupted_ppo_ends_bit_for_bit_where_uninterrupted_ppo_ends(trained, monkeypatch):
    whole = ppo.run(PPOSettings(**PPO, name="whole"), trained, quiet)
    with monkeypatch.context() as patch, pytest.raises(Stop):
        pull_plug_after(patch, StateFile, "save", 2)
        ppo.run(PPOSettings(**PPO, name="stopped"), trained, quiet)
    lines: list[str] = []
    resumed = ppo.run(PPOSettings(**PPO, name="stopped"), trained, lines.append)
    assert any("continuing at iteration 2" in line for line in lines)
    assert same_weights(whole.path, resumed.path) and same_weights(whole.path / "ema", resumed.path / "ema")
    assert not same_weights(whole.path, whole.path / "ema")


def test_interrupted_pretraining_ends_bit_for_bit_where_uninterrupted_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SAVE_EVERY_S", 0.0)
    store = Store(tmp_path)
    whole = pretrain.run(tiny_pretraining(tokens=12_000, name="whole"), store, quiet)
    with monkeypatch.context() as patch, pytest.raises(Stop):
        pull_plug_after(patch, loop, "save_state", 5)
        pretrain.run(tiny_pretraining(tokens=12_000, name="stopped"), store, quiet)
    only = Store(tmp_path, resume_only=True)
    with pytest.raises(StoreError, match="--resume: no base run"):
        pretrain.run(tiny_pretraining(tokens=12_000, name="never-started"), only, quiet)
    resumed = pretrain.run(tiny_pretraining(tokens=12_000, name="stopped"), only, quiet)
    assert same_weights(whole.path, resumed.path)


@pytest.mark.parametrize("more", [{"probe_l2": 0.1}, {"muon_lr": 0.01}])
def test_an_interrupted_reward_model_ends_where_an_uninterrupted_one_ends(
    trained, monkeypatch, more, tmp_path
):
    monkeypatch.setattr(parts, "SAVE_EVERY_S", 0.0)
    rows = [
        {"prompt": f"Say {word}.", "completions": [word, "no"], "ranks": [0, 1]} for word in "abcdefghijkl"
    ]
    data = tmp_path / "rankings.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    small = {
        "data": str(data),
        "prompts_per_batch": 2,
        "epochs": 2.0,
        "validation_fraction": 0.0,
    } | more
    whole = reward.run(RewardSettings(**small, name=f"whole-{next(iter(more))}"), trained, say=quiet)
    compute, calls = RankingTrainer.compute_loss, []

    def pull_plug(self, *args, **more):
        calls.append(1)
        if len(calls) == 6:
            raise Stop
        return compute(self, *args, **more)

    again = RewardSettings(**small, name=f"stopped-{next(iter(more))}")
    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(RankingTrainer, "compute_loss", pull_plug)
        reward.run(again, trained, say=quiet)
    resumed = reward.run(again, trained, say=quiet)
    one, other = (load_scalar(entry.path).state_dict() for entry in (whole, resumed))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not torch.equal(one["score.weight"], load_scalar(trained.resolve("reward/tiny").path).score.weight)


@pytest.mark.parametrize("more", [{}, {"dropout": 0.2}, {"packing": True}])
def test_sft_interrupted_within_an_epoch_goes_on_there(trained, monkeypatch, more):
    monkeypatch.setattr(parts, "SAVE_EVERY_S", 0.0)
    small = {"num_demonstrations": 60, "batch_size": 4, "epochs": 1.0} | more
    whole = sft.run(SFTSettings(**small, name=f"whole-{next(iter(more), 'plain')}"), trained, quiet)
    again = SFTSettings(**small, name=f"stopped-{next(iter(more), 'plain')}")
    step, calls = DemonstrationTrainer.training_step, []

    def pull_plug(self, *args, **more):
        calls.append(self.state.global_step)
        if len(calls) == 4:
            raise Stop
        return step(self, *args, **more)

    monkeypatch.setattr(DemonstrationTrainer, "training_step", pull_plug)
    with pytest.raises(Stop):
        sft.run(again, trained, quiet)
    resumed = sft.run(again, trained, quiet)
    assert calls[:5] == [0, 1, 2, 3, 3], "it goes on at the step it was stopped in"
    assert same_weights(whole.path, resumed.path)


@pytest.mark.parametrize("more", [{"packing": True}, {"reward": "reward"}, {"dropout": 0.2}])
def test_sft_packs_drops_out_and_picks_by_reward(trained, more):
    made = sft.run(SFTSettings(num_demonstrations=40, epochs=2.0, name="more", **more), trained, quiet)
    assert ("validation_reward" in made.manifest["metrics"]) == ("reward" in more)
    assert made.manifest["metrics"]["validation_loss"] < 8
    assert list((trained.root / "logs" / "sft-more").glob("events*"))


def test_a_prompt_longer_than_the_context_is_refused_by_number(trained, tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps({"prompt": "short"}) + "\n" + json.dumps({"prompt": "long " * 300}) + "\n")
    with pytest.raises(InputError, match="prompt 2 has"):
        ppo.run(PPOSettings(prompts=str(path), episodes=8, batch_size=8, name="x"), trained, quiet)


def test_sampling_twice_into_one_batch_is_refused_if_the_inputs_differ(trained, tmp_path):
    first = SampleSettings(num_prompts=5, max_new_tokens=8, batch="r")
    sample.run(first, trained, str(tmp_path / "l.db"), quiet)
    sample.run(first, trained, str(tmp_path / "l.db"), quiet)
    with pytest.raises(InputError, match="other inputs"):
        sample.run(
            SampleSettings(num_prompts=6, max_new_tokens=8, batch="r"), trained, str(tmp_path / "l.db"), quiet
        )


def test_eval_prints_one_json_object(trained):
    arguments = [
        "eval",
        "--policy",
        "sft",
        "--against",
        "base",
        "--num-prompts",
        "12",
        "--max-new-tokens",
        "8",
        "--json",
    ]
    command = [sys.executable, "-m", "stages.cli", *arguments, "--store", str(trained.root)]
    done = forked.run(command, check=True)
    result = json.loads(done.stdout)
    (row,) = result["comparisons"]
    assert (row["policy"], row["against"], row["n"]) == ("sft", "base", 12)
    assert {"kl", "mean_score", "mean_length", "ended"} <= result["policies"]["sft"].keys()
