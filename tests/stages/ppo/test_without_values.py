"""PPO without a value model, and what its users turn on: groups, truncated rollouts, filters, samples, trl beside it."""

import itertools
import json
import math

import pytest
import torch
from transformers import AutoTokenizer

from rlhf.errors import InputError, TrainingError
from rlhf.learning.passes import completion_logprobs
from rlhf.learning.rewards import completion_texts
from rlhf.learning.rl import kl_k1
from rlhf.learning.rollout import Rollout
from rlhf.sampling.generate import Sample
from rlhf.store import Store
from stages.ppo import loop
from stages.ppo.advantages import experience_of, learned_rows, penalties
from stages.ppo.experience import gather_experience, judge, sample
from stages.ppo.trainer import run
from stages.settings import PPOSettings
from tests.tiny_ppo import (
    PROMPTS,
    TOKENIZER,
    OftenEnds,
    close_histories,
    config,
    count_e,
    history_and_weights,
    llama,
    policy,
    quiet,
    same,
    scalar,
    trainer,
    weights,
)

GROUPS = {"completions_per_prompt": 4}
WITHOUT_VALUES = {
    "rloo": {"advantages": "rloo"} | GROUPS,
    "grpo": {"advantages": "grpo", "kl_in": "loss", "kl_estimator": "k3"} | GROUPS,
    "reinforce++": {"advantages": "reinforce++"},
}


@pytest.mark.parametrize("name", WITHOUT_VALUES)
def test_without_a_value_model_a_reward_in_reach_is_raised_and_none_is_saved(name, tmp_path):
    args = config(
        episodes=960, batch_size=64, minibatch_size=16, kl_coef=0.01, lr=3e-3, missing_eos_penalty=0.0,
        **WITHOUT_VALUES[name],
    )  # fmt: skip
    made = trainer(args, reward_model=count_e)
    history = made.train()
    scores = [row["reward/score"] for row in history]
    assert sum(scores[-3:]) / 3 > sum(scores[:3]) / 3 + 0.5
    assert made.value_model is None and not any(key.startswith("value/") for row in history for key in row)
    made.save_model(tmp_path / "out")
    assert not (tmp_path / "out/value").exists() and (tmp_path / "out/model.safetensors").exists()


@pytest.mark.parametrize("name", WITHOUT_VALUES)
def test_a_run_without_values_goes_on_bit_for_bit(name, tmp_path):
    args = config(episodes=32, save_every=2, ema_decay=0.5, **WITHOUT_VALUES[name])
    whole, a = history_and_weights(args)
    stopped = trainer(args, output_dir=tmp_path)

    def pull_the_plug(show=stopped.save_state):
        show()
        raise KeyboardInterrupt

    stopped.save_state = pull_the_plug
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    b = trainer(args, output_dir=tmp_path)
    assert b.learner.iteration == 2 and b.train() == whole
    assert same(weights(a.model), weights(b.model)) and same(
        a.learner.average.weights, b.learner.average.weights
    )


@pytest.mark.parametrize("name", WITHOUT_VALUES)
def test_no_split_into_micro_batches_changes_a_number(name):
    more = {"entropy_coef": 0.01, "dual_clip": 3.0, "clip_high": 0.3, "top_p": 0.9, "inner_epochs": 2}
    args = [config(micro_batch_size=size, **more | WITHOUT_VALUES[name]) for size in (8, 3)]
    close_histories(*(history_and_weights(each)[0] for each in args), 1e-5)


def test_completions_of_a_prompt_stand_together_and_prompts_are_seen_once_a_pass():
    args = config(episodes=48, batch_size=16, **GROUPS)
    sampling = trainer(args).sampling
    texts = [f"{prompt.prompt}" for prompt in sampling.prompts]
    drawn = [[f"{prompt.prompt}" for prompt in sampling.prompts_of(i)] for i in range(3)]
    assert all(rows[i] == rows[i - i % 4] for rows in drawn for i in range(16))
    assert sorted(p for rows in drawn for p in rows[::4])[::2] == sorted(texts)  # twelve groups, two passes
    shorter = trainer(config(episodes=24, batch_size=16, **GROUPS)).sampling
    assert [len(shorter.prompts_of(i)) for i in (0, 1)] == [16, 8]


# ── truncated rollouts ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("cut", [{"top_p": 0.5}, {"top_k": 5}, {"top_k": 9, "top_p": 0.8}], ids=str)
def test_log_probabilities_of_truncated_rollouts_are_the_policys_and_weights_the_mass_kept(cut):
    made = trainer(config(temperature=0.8, **cut), model=policy(initializer_range=0.5))
    judged = judge(
        made.args,
        made.learner,
        made.reference,
        made.reward,
        sample(made.args, made.model, made.prompts, TOKENIZER, 0),
    )
    rollout = judged.rollout
    for i, (prompt, said) in enumerate(zip(rollout.prompts, rollout.completions, strict=True)):
        with torch.no_grad():
            logits = made.model(input_ids=torch.tensor([prompt + said])).logits[0, len(prompt) - 1 : -1]
        for t, token in enumerate(said):
            p = (logits[t].double() / 0.8).softmax(-1)
            kept = p.sort(descending=True).values[: cut.get("top_k", len(p))]
            before = (kept / kept.sum()).cumsum(0) - kept / kept.sum()
            kept = kept[before < cut.get("top_p", 1.0)]
            assert float(p[token]) >= float(kept[-1]) - 1e-9
            assert float(rollout.logprobs[i, t]) == pytest.approx(float(p[token].log()), abs=1e-4)
            mass = math.exp(float(rollout.logprobs[i, t] - rollout.sampler_logprobs[i, t]))
            assert mass == pytest.approx(float(kept.sum()), rel=1e-3)
    experience, _ = gather_experience(made.args, made.learner, made.reward, judged)
    weighed = loop.actor_loss(made.args, 0.0, experience, rollout.logprobs, None)
    weights_ = torch.where(rollout.mask, (rollout.logprobs - rollout.sampler_logprobs).exp(), 0)
    torch.testing.assert_close(weighed, -weights_ * experience.advantages)
    assert made.train()[0]["policy/sampling_gap"] < 1e-4


@pytest.mark.parametrize("shift", [0.5, -0.5])
def test_a_sampler_off_its_nucleus_is_caught(monkeypatch, shift):
    """By more than the nucleus explains: kept mass lies between top_p and 1."""
    import dataclasses

    from stages.ppo import experience

    real = experience.generate
    monkeypatch.setattr(
        experience,
        "generate",
        lambda *args, **more: [
            dataclasses.replace(s, logprobs=[x - shift for x in s.logprobs]) for s in real(*args, **more)
        ],
    )
    with pytest.raises(TrainingError, match="nats a token"):
        trainer(config(top_p=0.9)).train()


# ── who is learned from ───────────────────────────────────────────────────────────────────────────────────────────


def rollout_of(*completions):
    """(text, ended) each, four to a prompt."""
    samples = [
        Sample(TOKENIZER.encode(text), [-1.0] * len(TOKENIZER.encode(text)), ended)
        for text, ended in completions
    ]
    return Rollout.from_samples([[5, 6]] * len(samples), samples, TOKENIZER.pad_id)


def test_filters_leave_out_what_does_not_end_and_prompts_that_score_alike():
    rollout = rollout_of(
        *[("one", True)] * 4, ("two", True), ("three", False), ("four", True), ("the red kite", False)
    )
    scores = torch.tensor([1.0, 1, 1, 1, 2, 3, 4, 5])
    args = {"batch_size": 8, "missing_eos_penalty": 0.0} | GROUPS
    rows = lambda **more: learned_rows(config(**args, **more), rollout, scores).nonzero()[:, 0].tolist()  # noqa: E731
    assert rows(filter_equal_scores=True) == [4, 5, 6, 7]
    assert rows(filter_overlong=True) == [0, 1, 2, 3, 4, 6]
    both = config(**args, filter_overlong=True, filter_equal_scores=True, advantages="rloo", kl_coef=0.0)
    zeros = torch.zeros_like(rollout.logprobs)
    experience = experience_of(both, rollout, scores, zeros, zeros, 0.0)
    assert experience.rollout.completions == [rollout.completions[4], rollout.completions[6]]
    # The baseline is of the whole group, those left out counted.
    assert [round(float(a[0]), 4) for a in experience.advantages] == [-2.0, 0.6667]


def test_prompts_whose_answers_are_all_one_are_left_out_though_a_model_rounds_their_scores_otherwise():
    rollout = rollout_of(*[("one", True)] * 4, ("one", True), ("one", True), ("two", True), ("one", True))
    scores = torch.tensor([1.0, 1, 1 + 1e-6, 1, 1, 1, 2, 1])
    left = learned_rows(config(batch_size=8, filter_equal_scores=True, **GROUPS), rollout, scores)
    assert left.tolist() == [False] * 4 + [True] * 4


def test_an_iteration_that_leaves_nothing_to_learn_from_changes_no_weight():
    args = config(filter_equal_scores=True, **GROUPS, missing_eos_penalty=0.0)
    made = trainer(args, reward_model=lambda prompts, completions: [1.0] * len(prompts))
    before = weights(made.model)
    history = made.train()
    assert same(before, weights(made.model)) and [row["completion/learned"] for row in history] == [0.0, 0.0]


def test_penalties_by_hand():
    rollout = rollout_of(("e", True), ("one two three four", False))
    length = len(rollout.completions[1])
    args = config(
        max_new_tokens=length, overlong_buffer=length, overlong_penalty=2.0, missing_eos_penalty=0.5
    )
    short = len(rollout.completions[0]) / length * 2
    assert penalties(args, rollout).tolist() == pytest.approx([short, 2.5])


def test_in_the_value_warm_up_only_the_value_model_learns():
    made = trainer(
        config(episodes=24, value_warmup_iterations=2, ptx_coef=1.0, adaptive_kl=True, kl_horizon=100),
        pretrain_dataset=["Say one two. " * 50] * 5,
    )
    start, values = weights(made.model), weights(made.value_model)
    history = made.train()
    assert history[0].keys() >= {"value/loss", "value/grad_norm"} and "policy/grad_norm" not in history[0]
    assert [row["policy/approx_kl"] < 1e-9 for row in history[:2]] == [True, True]
    assert [abs(row["kl/sequence"]) < 1e-5 for row in history] == [
        True,
        True,
        True,
    ]  # before the third's update
    assert not same(start, weights(made.model)) and not same(values, weights(made.value_model))
    # Its KL of 0 does not make KL cheaper before it has learned anything.
    assert [row["kl/beta"] for row in history] == [made.args.kl_coef] * 3
    assert [row["policy/lr"] for row in history] == [0.0, 0.0, made.args.lr]


# ── settings, samples ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"advantages": "rloo"}, "completions_per_prompt to 2 or more"),
        ({"advantages": "grpo"}, "completions_per_prompt to 2 or more"),
        ({"filter_equal_scores": True}, "completions_per_prompt to 2 or more"),
        ({"completions_per_prompt": 3}, "multiple of completions_per_prompt"),
        ({"completions_per_prompt": 0}, "at least 1"),
        ({"completions_per_prompt": 4, "episodes": 18}, "episodes = 18"),
        ({"advantages": "rloo", "gamma": 0.9, **GROUPS}, "gamma"),
        ({"advantages": "rloo", "whiten_rewards": True, **GROUPS}, "whiten_rewards"),
        ({"advantages": "grpo", "whiten_rewards": True, **GROUPS}, "whiten_rewards"),
        ({"advantages": "reinforce++", "value_warmup_iterations": 1}, "no value model"),
        ({"value_warmup_iterations": 2}, "learn in none"),
        ({"kl_in": "loss"}, "k1"),
        ({"top_p": 0.0}, "top_p"), ({"top_p": 1.5}, "top_p"), ({"top_p": math.nan}, "top_p"), ({"top_k": -1}, "top_k"),
        ({"dual_clip": 1.1}, "dual_clip"), ({"clip_high": -0.1}, "clip_high"), ({"entropy_coef": math.nan}, "entropy_coef"),
        ({"importance_cap": 2.0}, "recompute_logprobs"),
        ({"overlong_buffer": 9}, "more than max_new_tokens"), ({"overlong_penalty": -1.0}, "overlong_penalty"),
        ({"samples_every": -1}, "samples_every"),
        ({"samples_every": 1}, "output_dir or logging_dir"),
        ({"keep_every": 1}, "keep_every: give output_dir"),
        ({"keep_every": 2}, "the run has 2 iterations"),
        ({"kl_budget_action": "stop"}, "set kl_budget, or leave it at tighten"),
        ({"kl_target": 0.1}, "set adaptive_kl"), ({"kl_horizon": 100}, "set adaptive_kl"),
        ({"overlong_penalty": 9.0}, "set overlong_buffer"),
        ({"overlong_buffer": 4, "overlong_penalty": 0.0}, "set overlong_penalty"),
        ({"ptx_examples": 2}, "set ptx_coef"),
        ({"sampler_dtype": "bfloat16"}, "sampler = vllm"),
        *(({setting: 0.5, **WITHOUT_VALUES[name]}, f"{setting} = 0.5.* advantages = gae, or leave it at")
          for name, setting in itertools.product(WITHOUT_VALUES, ("lam", "value_lr", "value_clip", "value_coef"))),
    ],
    ids=str,
)  # fmt: skip
def test_settings_that_mean_nothing_are_refused(given, said):
    with pytest.raises(InputError, match=said):
        trainer(config(**given))


@pytest.mark.parametrize(
    ("given", "said"),
    [({"ptx_data": "texts.txt"}, "set ptx_coef"), ({"eval_prompts": "p.txt"}, "set eval_every")],
)
def test_files_that_nothing_would_read_are_refused(given, said, tmp_path):
    with pytest.raises(InputError, match=said):
        run(PPOSettings(**given), Store(tmp_path), quiet)


def test_a_value_model_that_nobody_asks_is_refused():
    with pytest.raises(InputError, match="value_model"):
        trainer(config(**WITHOUT_VALUES["rloo"]), value_model=scalar())


def test_samples_are_kept_with_score_and_kl_and_a_resumed_run_writes_none_twice(tmp_path):
    args = config(episodes=40, samples_every=2, save_every=1, lr=1e-2)
    made = trainer(args, reward_model=count_e, output_dir=tmp_path / "work", processing_class=OftenEnds())
    save = made.save_state

    def pull_the_plug():
        save()
        if made.learner.iteration == 2:
            with open(tmp_path / "work/samples.jsonl", "a") as file:  # as of an iteration that was not saved
                file.write('{"iteration": 2, "prompt": "ONE"}\n{"iteration": 2, "pro')
            raise KeyboardInterrupt

    made.save_state = pull_the_plug
    with pytest.raises(KeyboardInterrupt):
        made.train()
    made = trainer(args, reward_model=count_e, output_dir=tmp_path / "work", processing_class=OftenEnds())
    history = made.train()
    made.save_model(tmp_path / "out")
    rows = [json.loads(line) for line in (tmp_path / "out/samples.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [i for i in (0, 2, 4) for _ in range(8)]
    for iteration in (0, 2, 4):
        here = [row for row in rows if row["iteration"] == iteration]
        assert {row["prompt"] for row in here} <= set(PROMPTS)
        assert [row["score"] for row in here] == count_e(None, [row["completion"] for row in here])
        mean = lambda name: sum(row[name] for row in here) / 8  # noqa: B023, E731
        assert mean("score") == pytest.approx(history[iteration]["reward/score"])
        assert mean("kl") == pytest.approx(history[iteration]["kl/sequence"], abs=1e-5)
        assert mean("ended") == pytest.approx(history[iteration]["completion/ended"])


# ── trl on the same batch ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    model = llama(initializer_range=0.3)
    model.save_pretrained(folder)
    TOKENIZER.fast().save_pretrained(folder)
    return folder


def letters(completions, **columns):
    """trl's reward: the letters of each completion, in tens."""
    return [len(text.strip()) / 10 for text in completions]


def trl_batch(kind, folder, tmp_path, **more):
    """A trl trainer of that kind and what it sampled and scored: its tensors."""
    import trl
    from datasets import Dataset

    settings = getattr(trl, f"{kind}Config")(
        output_dir=str(tmp_path), per_device_train_batch_size=8, num_generations=4, max_completion_length=8, bf16=False,
        use_cpu=True, report_to="none", temperature=1.0, beta=0.3, **more,
    )  # fmt: skip
    made = getattr(trl, f"{kind}Trainer")(
        str(folder), reward_funcs=letters, args=settings, train_dataset=Dataset.from_list([{"prompt": p} for p in PROMPTS]),
        processing_class=AutoTokenizer.from_pretrained(folder),
    )  # fmt: skip
    with torch.no_grad():  # so that reference and policy differ
        for p in made.model.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    made.model.eval()
    rows = [{"prompt": p} for p in PROMPTS[:2] for _ in range(4)]
    torch.manual_seed(5)
    return made, made._generate_and_score_completions(rows)


def as_rollout(made, batch):
    """The same tokens as our rollout, with our log-probabilities."""
    prompts = [
        ids[m.bool()].tolist() for ids, m in zip(batch["prompt_ids"], batch["prompt_mask"], strict=True)
    ]
    said = [
        ids[m.bool()].tolist()
        for ids, m in zip(batch["completion_ids"], batch["completion_mask"], strict=True)
    ]
    samples = [Sample(ids, [0.0] * len(ids), True) for ids in said]
    from dataclasses import replace

    rollout = Rollout.from_samples(prompts, samples, TOKENIZER.pad_id)
    passes = [completion_logprobs(model, rollout).detach() for model in (made.model, made.ref_model)]
    return replace(rollout, logprobs=passes[0]), passes[1]


def test_grpo_has_trls_advantages_loss_and_gradient(folder, tmp_path):
    made, batch = trl_batch("GRPO", folder, tmp_path, loss_type="bnpo", use_bias_correction_kl=False)
    rollout, ref_logprobs = as_rollout(made, batch)
    args = config(batch_size=8, kl_coef=0.3, **WITHOUT_VALUES["grpo"])
    scores = torch.tensor(letters(completion_texts(rollout, TOKENIZER)))
    assert len(set(scores.tolist())) > 2
    experience = experience_of(args, rollout, scores, ref_logprobs, torch.zeros_like(ref_logprobs), 0.3)
    ours = experience.advantages[:, 0]
    torch.testing.assert_close(ours, batch["advantages"], atol=1e-5, rtol=1e-5)

    def gradient(loss):
        made.model.zero_grad()
        loss.backward()
        return [p.grad.clone() for p in made.model.parameters()]

    theirs = made._compute_loss(made.model, batch)
    mine = loop.actor_loss(args, 0.3, experience, completion_logprobs(made.model, rollout), None)
    mine = mine.sum() / experience.num_tokens
    assert float(mine) == pytest.approx(float(theirs), abs=1e-5)
    for one, other in zip(gradient(mine), gradient(theirs), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_rloo_has_trls_advantages_with_the_kl_in_the_reward(folder, tmp_path):
    made, batch = trl_batch("RLOO", folder, tmp_path)
    rollout, ref_logprobs = as_rollout(made, batch)
    scores = torch.tensor(letters(completion_texts(rollout, TOKENIZER)))
    assert float(kl_k1(rollout.logprobs, ref_logprobs).sum(1).abs().max()) > 0.1
    args = config(batch_size=8, **WITHOUT_VALUES["rloo"])
    experience = experience_of(args, rollout, scores, ref_logprobs, torch.zeros_like(ref_logprobs), 0.3)
    torch.testing.assert_close(experience.advantages[:, 0], batch["advantages"], atol=1e-4, rtol=1e-4)
