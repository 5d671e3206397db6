"""PPOTrainer: every setting is obeyed, KL and scores by hand, PPO-ptx, and data and models as people have them."""

import dataclasses
import itertools
import json
import math

import pytest
import torch
from datasets import Dataset

from rlhf.errors import InputError
from rlhf.learning.metrics import TokenMeans
from rlhf.models.checkpoints import load_policy
from rlhf.models.tokenizer import load_tokenizer, train_tokenizer
from stages.ppo import PPOConfig, advantages
from stages.ppo.loop import add_ptx_gradient
from stages.ppo.trainer import run
from stages.settings import PPOSettings
from tests.tiny_ppo import (
    CONFIG,
    PROMPTS,
    TEXTS,
    TOKENIZER,
    OftenEnds,
    config,
    count_e,
    history_and_weights,
    llama,
    policy,
    quiet,
    same,
    scalar,
    scalar_llama,
    tiny_store,
    trainer,
    weights,
)


def test_ppo_raises_a_reward_it_can_reach():
    args = config(
        episodes=640, batch_size=64, minibatch_size=16, kl_coef=0.01, lr=3e-3, missing_eos_penalty=0.0
    )
    scores = [row["reward/score"] for row in trainer(args, reward_model=count_e).train()]
    assert sum(scores[-3:]) / 3 > sum(scores[:3]) / 3 + 0.5


CHANGED = {
    "episodes": 24, "batch_size": 4, "minibatch_size": 2, "inner_epochs": 2, "lr": 1e-3, "value_lr": 3e-3, "kl_coef": 3.0,
    "kl_estimator": "k3", "kl_budget": 1e-4, "kl_budget_action": "stop", "adaptive_kl": True, "kl_target": 1.0,
    "kl_horizon": 50, "clip": 0.01, "value_clip": 0.01, "value_coef": 10.0, "gamma": 0.5, "lam": 0.3,
    "whiten_rewards": True, "temperature": 0.7, "max_new_tokens": 6, "missing_eos_penalty": 3.0, "reward_combine": "min",
    "reward_weights": "1,3", "pessimism": 5.0, "normalize_scores": True, "clip_scores": 0.01,
    "warmup_iterations": 3, "ptx_coef": 3.0, "ptx_examples": 3, "max_grad_norm": 1e-3, "adam_eps": 1e-2, "bf16": "on",
    "last_blocks": 1, "seed": 1, "completions_per_prompt": 2, "clip_high": 0.01, "dual_clip": 3.0, "entropy_coef": 0.1,
    "advantages": "reinforce++", "kl_in": "loss", "top_p": 0.5, "top_k": 5, "recompute_logprobs": True, "importance_cap": 0.5,
    "overlong_buffer": 8, "overlong_penalty": 3.0, "filter_overlong": True, "filter_equal_scores": True,
    "value_warmup_iterations": 1, "lr_decay": "linear", "max_staleness": 1,
}  # fmt: skip
NEEDED = {  # settings without which another has nothing to act on
    "kl_budget_action": {"kl_budget": 1e-4}, "kl_target": {"adaptive_kl": True, "kl_target": 0.05}, "kl_horizon": {"adaptive_kl": True},
    "pessimism": {"reward_combine": "lower-bound"}, "ptx_coef": {"ptx_coef": 1.0}, "ptx_examples": {"ptx_coef": 1.0},
    "kl_in": {"kl_estimator": "k3"}, "importance_cap": {"top_p": 0.8}, "overlong_penalty": {"overlong_buffer": 8},
    "filter_equal_scores": {"completions_per_prompt": 2}, "dual_clip": {"clip": 0.1, "inner_epochs": 8, "lr": 0.1},
    "max_staleness": {"importance_cap": 2.0, "recompute_logprobs": True}, "advantages": {"value_lr": 1e-3},
}  # fmt: skip
MEMORY_OR_FILES_ONLY = {
    "gradient_checkpointing",
    "micro_batch_size",
    "save_every",
    "keep_every",
    "keep_state",
    "samples_every",
    "eval_every",
    "report_to",
    "shard",
    "sampler",
    "sampler_urls",
    "sampler_folder",
    "sampler_dtype",
    "ema_decay",
    "skip_long",
}  # each has a test of its own


@pytest.mark.parametrize("field", CHANGED)
def test_every_setting_is_obeyed(field):
    base = {"inner_epochs": 1, "lr": 1e-2, "value_lr": 1e-2, "episodes": 32} | NEEDED.get(field, {})
    rewards = {"reward_model": [scalar(), count_e]}
    plain, a = history_and_weights(config(**base), **rewards)
    changed, b = history_and_weights(config(**base | {field: CHANGED[field]}), **rewards)
    assert plain != changed or not same(weights(a.model), weights(b.model))


def test_no_setting_is_left_out_of_these_tests():
    fields = dataclasses.fields(PPOConfig)
    assert CHANGED.keys() | MEMORY_OR_FILES_ONLY == {field.name for field in fields}
    assert {field.name for field in fields if not field.metadata["decides"]} <= MEMORY_OR_FILES_ONLY


def test_kept_policies_are_those_of_runs_that_ended_there(tmp_path):
    args = config(episodes=32, keep_every=1, lr=1e-2)
    made = trainer(args, output_dir=tmp_path / "work")
    made.train()
    made.save_model(tmp_path / "result")
    assert sorted(path.name for path in (tmp_path / "result/checkpoints").iterdir()) == [
        "000008",
        "000016",
        "000024",
    ]
    shorter = trainer(config(episodes=16, lr=1e-2))
    shorter.train()
    assert same(weights(load_policy(tmp_path / "result/checkpoints/000016")), weights(shorter.model))
    assert load_tokenizer(tmp_path / "result/checkpoints/000016").vocab_size


# ── KL, scores, PPO-ptx ───────────────────────────────────────────────────────────────────────────────────────────

FAR = {"lr": 2e-2, "kl_coef": 0.01, "episodes": 80, "missing_eos_penalty": 0.0}


def test_a_kl_budget_stops_the_run_before_an_update_beyond_it():
    free = trainer(config(**FAR), reward_model=count_e).train()
    budget = max(row["kl/sequence"] for row in free) / 2
    made = trainer(config(**FAR, kl_budget=budget, kl_budget_action="stop"), reward_model=count_e)
    history = made.train()
    passed = [row["kl/sequence"] > budget for row in history]
    assert len(history) < len(free) and passed == [False] * (len(history) - 1) + [True]
    assert "policy/loss" in history[0] and "policy/loss" not in history[-1]
    assert made.learner.iteration == len(history) - 1


STOPS = CONFIG | FAR | {"kl_budget": 0.05, "kl_budget_action": "stop", "normalize_scores": True}


def test_what_a_kl_budget_stopped_is_over_however_often_it_is_begun_again(tmp_path):
    args = config(**STOPS, samples_every=1)
    made = trainer(args, reward_model=count_e, output_dir=tmp_path)
    history = [*made.train()]
    wrote = (tmp_path / "samples.jsonl").read_text()
    again = trainer(args, reward_model=count_e, output_dir=tmp_path)
    assert len(history) < args.num_iterations
    assert made.train() == history == again.train()
    assert (tmp_path / "samples.jsonl").read_text() == wrote


def test_a_run_that_a_kl_budget_stopped_and_one_made_longer_are_alike(tmp_path):
    store = tiny_store(tmp_path / "store")
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS))

    def ended(**more):
        entry = run(PPOSettings(**CONFIG | {"prompts": str(prompts)} | more), store, quiet)
        history = json.loads((entry.path / "history.json").read_text())
        return history, entry.manifest["metrics"]["episodes"], (entry.path / "model.safetensors").read_bytes()

    short = ended(**STOPS, name="short", keep_state=True)
    assert short[1] == 8 * (len(short[0]) - 1) < 80  # completions of the last row were not learned from
    longer = ended(extend="ppo/short", episodes=96, name="longer")
    assert short == longer == ended(**STOPS | {"episodes": 96}, name="whole")


def test_a_kl_budget_makes_kl_dearer_while_it_is_passed():
    history = trainer(config(**FAR, kl_budget=1e-3), reward_model=count_e).train()
    for row, after in itertools.pairwise(history):
        over = row["kl/sequence"] / 1e-3
        wanted = row["kl/beta"] * min(over, 2.0) if over > 1 else max(0.01, 0.9 * row["kl/beta"])
        assert after["kl/beta"] == pytest.approx(wanted)
    assert history[-1]["kl/beta"] > 0.02


def test_the_shaped_rewards_are_made_of_normalised_clipped_and_penalised_scores(monkeypatch):
    """By hand: scores 0…7, running moments of one batch, clipped to ±1.2, −3 where an answer did not end."""
    seen = []
    real = advantages.kl_shaped
    monkeypatch.setattr(
        advantages, "kl_shaped", lambda scores, *rest: seen.append(scores) or real(scores, *rest)
    )
    args = config(
        episodes=8, normalize_scores=True, clip_scores=1.2, missing_eos_penalty=3.0, max_new_tokens=3
    )
    reward = lambda prompts, completions: [float(i) for i in range(len(prompts))]  # noqa: E731
    made = trainer(args, processing_class=OftenEnds(), reward_model=reward)
    row = made.train()[0]
    assert 0 < row["completion/ended"] < 1
    normal = [(i - 3.5) / 5.25**0.5 for i in range(8)]
    clipped = torch.tensor([min(max(x, -1.2), 1.2) for x in normal])
    penalty = (clipped - seen[0]).round(decimals=4)
    assert set(penalty.tolist()) == {0.0, 3.0}
    assert float((penalty == 0).float().mean()) == row["completion/ended"]
    assert row["reward/score"] == 3.5 and row["reward/score_std"] == pytest.approx(5.25**0.5)
    # What is climbed, once more in the reward's unit; the KL is 0 before the first update.
    assert row["reward/objective"] == pytest.approx(5.25**0.5 * float(seen[0].mean()) + 3.5, abs=1e-4)


def test_each_reward_of_several_is_logged_by_its_name():
    row = trainer(reward_model=[count_e, scalar()]).train()[0]
    parts = [value for name, value in row.items() if name in ("reward/count_e", "reward/ScalarGPT")]
    assert len(parts) == 2 and row["reward/score"] == pytest.approx(sum(parts) / 2, abs=1e-6)


@pytest.mark.parametrize(
    ("names", "logged"),
    [
        (("a", "a", "a-1"), ("a-2", "a-3", "a-1")),
        (("b", "score"), ("b", "score-2")),
        (("score_std", "objective"), ("score_std-1", "objective-2")),
    ],
)
def test_rewards_whose_names_are_taken_are_numbered_until_each_has_its_own(names, logged):
    def always(score, name):
        given = lambda prompts, completions: [score] * len(completions)  # noqa: E731
        given.__name__ = name
        return given

    scores = [2.0**place for place in range(len(names))]
    args = config(episodes=8, reward_weights=",".join("1" * len(names)))
    made = trainer(args, reward_model=[always(*pair) for pair in zip(scores, names, strict=True)])
    row = made.train()[0]
    assert [row[f"reward/{name}"] for name in logged] == scores
    assert (row["reward/score"], row["reward/score_std"]) == (sum(scores), 0.0)


def test_the_gradient_of_ppo_ptx_is_gamma_times_the_mean_per_token_of_eight_rows_per_episode():
    made = trainer(config(ptx_coef=27.8, micro_batch_size=3), pretrain_dataset=TEXTS)
    rows = made.pretraining.rows(iteration=1, step=2, num_rows=made.args.ptx_examples * 2)
    assert rows.shape == (16, 64)  # the context is 64, shorter than the usual 128
    means = TokenMeans()
    add_ptx_gradient(made.args, made.model.eval(), rows, means)
    given = {name: p.grad.clone() for name, p in made.model.named_parameters()}
    made.model.zero_grad()
    loss = made.model(
        input_ids=rows, labels=rows
    ).loss  # transformers' own: the mean over all predicted tokens
    (27.8 * loss).backward()
    for name, parameter in made.model.named_parameters():
        torch.testing.assert_close(given[name], parameter.grad, atol=1e-4, rtol=1e-4)
    assert means.means(["ptx/loss"])["ptx/loss"] == pytest.approx(float(loss), abs=1e-5)


def test_ppo_ptx_is_stable_at_27_8_and_lowers_the_loss_on_the_text():
    more = {
        "episodes": 256,
        "batch_size": 32,
        "minibatch_size": 8,
        "kl_coef": 0.01,
        "lr": 1e-3,
        "missing_eos_penalty": 0.0,
    }
    plain = trainer(config(**more), reward_model=count_e)
    mixed = trainer(
        config(**more, ptx_coef=27.8, ptx_examples=2), reward_model=count_e, pretrain_dataset=TEXTS
    )
    plain.train()
    losses = [row["ptx/loss"] for row in mixed.train()]
    assert losses[-1] < losses[0] - 0.5 and all(
        math.isfinite(x) for row in mixed.log.history for x in row.values()
    )
    text = mixed.pretraining.rows(0, 0, 16)
    with torch.no_grad():
        on_text = [float(made.model(input_ids=text, labels=text).loss) for made in (plain, mixed)]
    assert on_text[1] < on_text[0] - 0.5


def test_ppo_ptx_without_text_and_text_without_ppo_ptx_are_refused():
    with pytest.raises(InputError, match="needs texts"):
        trainer(config(ptx_coef=1.0))
    with pytest.raises(InputError, match="ptx_coef is 0"):
        trainer(pretrain_dataset=TEXTS)
    with pytest.raises(InputError, match="PPO-ptx needs"):
        trainer(config(ptx_coef=1.0), pretrain_dataset=["short"])


# ── data and models as people have them ───────────────────────────────────────────────────────────────────────────


def test_prompts_may_be_text_or_conversations_and_the_reward_sees_them_so():
    rows = [[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say one"}], "two"]
    seen = []

    def reward(prompts, completions):
        seen.extend(prompts)
        return [0.0] * len(prompts)

    for prompts in ({"prompt": [rows[0]] * 2}, {"prompt": ["two"] * 2}):
        trainer(reward_model=reward, train_dataset=Dataset.from_dict(prompts)).train()
    assert len(seen) == 32 and all(prompt in rows for prompt in seen)
    assert seen[0] == rows[0] and seen[-1] == "two"


def test_a_column_that_not_every_prompt_has_is_there_whichever_prompts_are_drawn():
    seen = []

    def function(prompts, completions, answer, **others):
        seen.extend(zip(prompts, answer, strict=True))
        assert set(others) == {"hint"}
        return [1.0 if wanted is None else 0.0 for wanted in answer]

    rows = [{"prompt": "Say a", "answer": "a"}, {"prompt": "Say b"}, {"prompt": "Say c", "hint": "c"}]
    trainer(
        config(episodes=3, batch_size=1, minibatch_size=1), train_dataset=rows, reward_model=function
    ).train()
    assert sorted(seen, key=str) == [("Say a", "a"), ("Say b", None), ("Say c", None)]


def test_a_data_set_of_token_ids_is_refused_with_the_columns_it_has():
    with pytest.raises(InputError, match=r"row 1: .*input_ids.*`prompt` of text or messages"):
        trainer(train_dataset=Dataset.from_dict({"input_ids": [[1, 2, 3]]}))


def test_hugging_face_tokenizers_and_models_are_taken_as_they_are():
    fast = TOKENIZER.fast()
    made = trainer(
        processing_class=fast, model=llama(), reward_model=scalar_llama(), reward_processing_class=fast
    )
    assert len(made.train()) == 2
    assert [row.tokens for row in made.prompts] == [TOKENIZER.encode_prompt(prompt) for prompt in PROMPTS]


def test_the_value_model_is_the_reward_model_only_where_it_reads_the_same_tokens():
    said = []
    model = scalar()
    made = trainer(reward_model=[count_e, model], say=said.append)
    assert same(weights(made.value_model), weights(model)) and not said
    other = train_tokenizer(TEXTS, 290)
    made = trainer(reward_model=scalar(vocab_size=290), reward_processing_class=other, say=said.append)
    assert said == [
        "ppo: no reward model reads the policy's tokens: the value model is the policy's trunk with a new head"
    ]
    assert same(weights(made.value_model.transformer), weights(policy().transformer))
    assert len(made.train()) == 2


def test_a_reference_that_is_the_policy_itself_is_refused():
    model = policy()
    with pytest.raises(InputError, match="frozen copy"):
        trainer(model=model, ref_model=model)
