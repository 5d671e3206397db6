"""`rlhf ppo` and `rlhf best-of-n` by the command line: functions, other families' reward models, adapters, the best of n."""

import json

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForSequenceClassification,
)

from rlhf.data import read_demonstrations
from rlhf.models.checkpoints import load_policy
from rlhf.models.tokenizer import train_tokenizer
from rlhf.store import Store
from tests import command_line
from tests.tiny_ppo import PROMPTS, TOKENIZER, policy, ppo_command, scalar, tiny_store, weights


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a store, prompts, a module of rewards, and a reward model of another make."""
    folder = tmp_path_factory.mktemp("cli")
    tiny_store(folder / "store")
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": p}) + "\n" for p in PROMPTS))
    (folder / "my_rewards.py").write_text(
        "def letters(prompts, completions):\n    return [float(len(text)) for text in completions]\n"
    )
    backend = train_tokenizer(["blue boats, one by one"] * 5, 280).fast().backend_tokenizer
    template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant: "
    fast = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|endoftext|>", chat_template=template
    )
    fast.save_pretrained(folder / "qwen")
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(fast), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, num_labels=1, initializer_range=0.3, eos_token_id=fast.eos_token_id,
    )  # fmt: skip
    Qwen2ForSequenceClassification(config).save_pretrained(folder / "qwen")
    return folder


def rlhf(place, *arguments, status=0):
    done = command_line.rlhf(*arguments, folder=place)
    assert done.returncode == status, done.stderr[-3000:]
    return done


def trained(place, name, **settings):
    store = Store(place / "store")
    done = rlhf(place, *ppo_command(store, place / "prompts.jsonl", name, **settings))
    entry = store.resolve(f"ppo/{name}")
    assert done.stdout.strip() == entry.ref
    history = json.loads((entry.path / "history.json").read_text())
    assert len(history) == 2 and "policy/loss" in history[-1]
    return entry, history, done.stderr


def test_a_python_function_as_the_reward(place):
    entry, history, said = trained(place, "function", reward="my_rewards:letters")
    assert history[0]["reward/score"] > 1 and "policy's trunk with a new head" in said
    assert "reward function my_rewards:letters" in entry.manifest["data"]


def test_a_reward_model_of_another_architecture_and_tokenizer(place):
    _, history, said = trained(place, "qwen", reward=str(place / "qwen"))
    assert history[0]["reward/score_std"] > 0 and "policy's trunk with a new head" in said


def test_a_model_and_a_function_together(place):
    entry, history, said = trained(place, "both", reward="reward,my_rewards:letters", reward_weights="2,0.5")
    row = history[0]
    assert row["reward/score"] == pytest.approx(
        2 * row["reward/tiny"] + 0.5 * row["reward/letters"], abs=1e-5
    )
    assert "new head" not in said and set(entry.manifest["parents"]) == {"sft", "reward 1"}


def test_adapters_are_merged_into_the_checkpoint(place):
    entry, *_ = trained(place, "lora", lora_rank=4, lr=1e-2)
    saved = load_policy(entry.path)
    assert type(AutoModelForCausalLM.from_pretrained(entry.path)).__name__ == "GPT2LMHeadModel"
    moved = [n for n, value in weights(saved).items() if not torch.equal(value, policy().state_dict()[n])]
    assert moved and all(name.endswith("weight") for name in moved)


@pytest.mark.parametrize(
    ("reward", "complaint"),
    [
        ("nowhere:f", "No module named 'nowhere'"),
        ("my_rewards:f", "no attribute 'f'"),
        (",", "no reward; name"),
        ("sft", "not a reward model, score.weight is not in it"),
    ],
)
def test_a_reward_that_is_not_there_is_one_line(place, reward, complaint):
    done = rlhf(place, "ppo", "--store", "store", "--reward", reward, "--prompts", "prompts.jsonl", status=2)
    assert complaint in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_the_best_of_n_become_demonstrations(place):
    command = ["best-of-n", "--store", "store", "--reward", "my_rewards:letters", "--prompts", "prompts.jsonl", "--json",
               "--max-new-tokens", "40", "--temperature", "1.5", "--set", "missing_eos_penalty=1000"]  # fmt: skip
    one = json.loads(rlhf(place, *command, "--n", "1").stdout)
    many = json.loads(rlhf(place, *command, "--n", "32", "--out", "best.jsonl").stdout)
    assert one["mean_reward"] == one["mean_reward_of_best"] and one["kl_bound"] == 0
    assert many["mean_reward_of_best"] > many["mean_reward"]
    assert many["kl_bound"] == pytest.approx(2.497, abs=1e-3)  # log 32 − 31/32
    rows = read_demonstrations(place / "best.jsonl")
    assert len(rows) == many["written"] > 0 and {row.prompt for row in rows} <= set(PROMPTS)
    again = rlhf(place, *command, "--n", "2", "--out", "best.jsonl", status=2)
    assert "exists already" in again.stderr and len(read_demonstrations(place / "best.jsonl")) == len(rows)


@pytest.mark.parametrize(
    ("smaller", "complaint"),
    [
        ({"n_positions": 8}, "the context of 8 of reward_model small"),
        ({"vocab_size": 10}, "embedding 10; resize it"),
    ],
)
@pytest.mark.parametrize("command", ["ppo", "best-of-n"])
def test_a_reward_model_too_small_for_the_policys_tokens_is_one_line(
    place, command, smaller, complaint, tmp_path
):
    scalar(**smaller).save_pretrained(tmp_path / "small")
    TOKENIZER.save(tmp_path / "small")
    given = ["--store", "store", "--reward", str(tmp_path / "small"), "--prompts", "prompts.jsonl"]
    done = rlhf(place, command, *given, "--max-new-tokens", "8", status=2)
    assert complaint in done.stderr and "Traceback" not in done.stderr


def short(place, name, **settings):
    """A run of one iteration that keeps its state."""
    rlhf(place, *ppo_command(Store(place / "store"), place / "prompts.jsonl", name, **settings))


def test_a_finished_run_made_longer_ends_where_one_that_was_longer_from_the_start_ends(place):
    settings = {"lr": 1e-2, "ema_decay": 0.5, "adaptive_kl": True, "normalize_scores": True}
    whole, history, _ = trained(place, "whole", episodes=16, **settings)
    short(place, "short", episodes=8, keep_state=True, **settings)
    given = ["ppo", "--store", str(place / "store"), "--extend", "ppo/short"]
    done = rlhf(place, *given, "--episodes", "16", "--name", "longer")
    assert "goes on at iteration 1" in done.stderr
    store = Store(place / "store")
    longer = store.resolve("ppo/longer")
    assert json.loads((longer.path / "history.json").read_text()) == history
    for folder in ("", "value", "ema"):
        name = f"{folder}/model.safetensors".lstrip("/")
        assert (longer.path / name).read_bytes() == (whole.path / name).read_bytes(), name
    parents = longer.manifest["parents"]
    assert (
        parents["extended"]["ref"] == store.resolve("ppo/short").ref
        and longer.manifest["settings"]["lr"] == 1e-2
    )
    assert (
        rlhf(place, *given, "--episodes", "16", "--name", "longer").stdout.strip() == longer.ref
    )  # is there already
    for wrong, said in (
        (["--episodes", "8"], "give more in all"),
        (["--episodes", "24", "--lr", "0.5"], "goes on with lr = 0.01"),
        (["--episodes", "24", "--extend", "ppo/whole"], "keep_state=true"),
        (["--episodes", "24", "--extend", "ppo/nobody"], "no such checkpoint"),
    ):
        assert said in rlhf(place, *given, *wrong, status=2).stderr


def test_a_longer_run_needs_the_models_it_began_with(place):
    short(place, "other-start", episodes=8, keep_state=True)
    store = Store(place / "store")
    with store.new("sft", "newer", parents={}, settings={}, data={}, seed=1) as writer:
        policy(n_layer=1).save_pretrained(writer.path)
        TOKENIZER.save(writer.path)
    try:
        given = ["ppo", "--store", str(store.root), "--extend", "ppo/other-start", "--episodes", "16"]
        assert "its sft was sft/0001-tiny, not" in rlhf(place, *given, status=2).stderr
    finally:
        store.remove("sft/newer")
