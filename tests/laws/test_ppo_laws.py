"""What must not happen in PPO: one test for each, on the loop that `rlhf ppo` runs."""

import dataclasses
import math

import pytest
import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from rlhf.errors import InputError, TrainingError
from rlhf.learning.passes import completion_logprobs
from rlhf.learning.prompts import prompt_order
from rlhf.machine.devices import has_fast_bf16
from stages.ppo import experience, loop
from tests.tiny_ppo import (
    EVERYTHING,
    MODELS,
    TEXTS,
    OftenEnds,
    close_histories,
    config,
    history_and_weights,
    policy,
    same,
    scalar,
    trainer,
    weights,
)


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.5])
@pytest.mark.parametrize("name", MODELS)
def test_before_the_first_update_every_ratio_is_1(name, temperature):
    made = trainer(config(temperature=temperature), processing_class=OftenEnds(), **MODELS[name]())
    rollout = experience.sample(made.args, made.model, made.prompts * 3, made.tokenizer, iteration=0)
    lengths = rollout.mask.sum(1)
    assert len(set(map(len, rollout.prompts))) > 2 and 1 <= lengths.min() < lengths.max()
    assert rollout.ended.sum() > 0
    logprobs = completion_logprobs(made.model, rollout, temperature).detach()
    torch.testing.assert_close(logprobs, rollout.logprobs, atol=1e-4, rtol=0)
    first = made.train()[0]
    assert first["policy/sampling_gap"] < 1e-4


@pytest.mark.parametrize("shift", [0.05, 0.5])
def test_a_sampler_that_disagrees_with_the_forward_pass_is_logged_or_stops_the_run(monkeypatch, shift):
    real = experience.generate
    shifted = lambda *args, **more: [  # noqa: E731
        dataclasses.replace(sample, logprobs=[x - shift for x in sample.logprobs])
        for sample in real(*args, **more)
    ]
    monkeypatch.setattr(experience, "generate", shifted)
    made = trainer()
    if shift > loop.MAX_SAMPLING_GAP:
        before = weights(made.model)
        with pytest.raises(TrainingError, match=r"0.50 nats a token"):
            made.train()
        assert same(before, weights(made.model))
    else:
        assert made.train()[0]["policy/sampling_gap"] == pytest.approx(shift, abs=1e-4)


@pytest.mark.skipif(not has_fast_bf16(torch.device("cpu")), reason="the processor has no bfloat16 units")
def test_in_bfloat16_sampler_and_forward_pass_stay_close():
    wide = policy(n_embd=128, initializer_range=0.1)
    gap = trainer(config(bf16="on", max_new_tokens=40), model=wide).train()[0]["policy/sampling_gap"]
    assert gap < 0.01


@pytest.mark.parametrize("micro_batch_size", [1, 2, 3])
def test_no_split_into_micro_batches_changes_a_logged_number_or_a_weight(micro_batch_size):
    whole, a = history_and_weights(config(**EVERYTHING, micro_batch_size=8))
    split, b = history_and_weights(config(**EVERYTHING, micro_batch_size=micro_batch_size))
    close_histories(whole, split, 1e-5)
    for one, other in zip(a.model.parameters(), b.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_no_padding_changes_a_logged_number(monkeypatch):
    narrow, _ = history_and_weights(config(**EVERYTHING))
    monkeypatch.setattr(experience, "ROUND_TO", 32)
    wide, _ = history_and_weights(config(**EVERYTHING))
    close_histories(narrow, wide, 1e-5)


def test_logged_numbers_are_means_over_all_minibatches():
    """policy/loss and its like, added up anew from every minibatch the update saw."""
    seen = []
    real = loop.policy_loss

    def watched(logprobs, old, advantages, *clips):
        loss = real(logprobs, old, advantages, *clips)
        seen.append((loss.detach().double(), (logprobs - old).detach().double(), logprobs != 0))
        return loss

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "policy_loss", watched)
        row = trainer(config(episodes=8, inner_epochs=3, minibatch_size=3, lr=3e-3)).train()[0]
    assert len(seen) == 9
    tokens = sum(int(mask.sum()) for _, _, mask in seen)
    ratios = torch.cat([log_ratio[mask].exp() for _, log_ratio, mask in seen])
    assert row["policy/loss"] == pytest.approx(
        sum(float(loss.sum()) for loss, _, _ in seen) / tokens, abs=1e-6
    )
    assert row["policy/ratio"] == pytest.approx(float(ratios.mean()), abs=1e-5)
    assert row["policy/clip_fraction"] == pytest.approx(
        float(((ratios - 1).abs() > 0.2).double().mean()), abs=1e-6
    )
    assert row["policy/approx_kl"] == pytest.approx(float((ratios - 1 - ratios.log()).mean()), abs=1e-5)


def test_neither_reference_nor_reward_model_learns():
    reward_model = scalar()
    made = trainer(reward_model=reward_model)
    before = [weights(made.reference), weights(reward_model), weights(made.model), weights(made.value_model)]
    made.train()
    after = [weights(made.reference), weights(reward_model), weights(made.model), weights(made.value_model)]
    assert [same(a, b) for a, b in zip(before, after, strict=True)] == [True, True, False, False]
    frozen = [*made.reference.parameters(), *reward_model.parameters()]
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in frozen)


def test_with_adapters_only_they_learn_and_the_policy_without_them_is_the_reference():
    base = policy()
    before = weights(base)
    made = trainer(model=base, peft_config=LoraConfig(r=2, target_modules="all-linear"))
    first, *_ = made.train()
    assert made.reference is None
    assert first["kl/sequence"] == pytest.approx(0, abs=1e-5) and first["kl/sequence_k3"] == pytest.approx(
        0, abs=1e-9
    )  # new adapters do nothing
    state = made.model.state_dict()
    for name, value in before.items():
        found = [v for key, v in state.items() if name in key.replace(".base_layer", "")]
        assert any(torch.equal(v, value) for v in found), name
    assert any(v.abs().sum() > 0 for key, v in state.items() if "lora_B" in key)


def test_the_learning_rate_warms_up_by_iterations_not_by_optimizer_steps():
    made = trainer(config(episodes=48, inner_epochs=2, warmup_iterations=4, lr=1e-3, value_lr=1e-2))
    rates = [row["policy/lr"] for row in made.train()]
    assert rates == pytest.approx([1e-4, 3.25e-4, 5.5e-4, 7.75e-4, 1e-3, 1e-3])
    assert made.learner.value_optimizer.optimizers[0].param_groups[0]["lr"] == 1e-2


def test_the_last_iteration_takes_the_rest_of_the_episodes():
    history = trainer(config(episodes=19)).train()
    assert [row["episodes"] for row in history] == [8, 16, 19]


def test_every_prompt_is_seen_once_before_any_is_seen_again():
    order = [i for first in range(0, 30, 8) for i in prompt_order(10, first, min(8, 30 - first), seed=3)]
    assert [sorted(order[start : start + 10]) for start in (0, 10, 20)] == [list(range(10))] * 3
    assert order[:10] != order[10:20]


@pytest.mark.parametrize("name", ["gpt", "llama", "llama with lora"])
def test_the_checkpoint_holds_policy_value_model_and_averaged_weights(name, tmp_path):
    made = trainer(config(ema_decay=0.5), **MODELS[name]())
    made.train()
    made.save_model(tmp_path / "out")
    kind = AutoModelForCausalLM
    saved, averaged = (kind.from_pretrained(tmp_path / folder).eval() for folder in ("out", "out/ema"))
    value = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out/value").eval()
    tokens = torch.arange(2, 22)[None]
    with torch.no_grad():
        wanted = made.model.eval()(input_ids=tokens).logits
        torch.testing.assert_close(saved(input_ids=tokens).logits, wanted, atol=1e-4, rtol=1e-4)
        assert not torch.allclose(averaged(input_ids=tokens).logits, wanted, atol=1e-4)
        ours = made.value_model.eval()(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits
        torch.testing.assert_close(value(input_ids=tokens).logits, ours, atol=1e-4, rtol=1e-4)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").eos_token == "<|end|>"


@pytest.mark.parametrize("name", ["gpt", "gpt with lora"])
def test_a_resumed_run_goes_on_bit_for_bit_and_its_reference_is_still_the_start(name, tmp_path):
    args = config(**EVERYTHING | {"episodes": 32}, save_every=1)
    whole, a = history_and_weights(args, **MODELS[name]())
    stopped = trainer(args, pretrain_dataset=TEXTS, output_dir=tmp_path, **MODELS[name]())
    save, count = stopped.save_state, [0]

    def pull_the_plug():
        save()
        count[0] += 1
        if count[0] == 2:
            raise KeyboardInterrupt

    stopped.save_state = pull_the_plug
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    torch.rand(5)
    said = []
    b = trainer(args, pretrain_dataset=TEXTS, output_dir=tmp_path, say=said.append, **MODELS[name]())
    assert b.learner.iteration == 2 and "ppo: continuing at iteration 2" in said
    start = MODELS[name]()["model"]
    if b.reference is not None:
        assert same(weights(b.reference), weights(start)) and not same(weights(b.model), weights(start))
    assert b.train() == whole  # every number of every iteration, KL to the reference among them
    assert same(weights(a.model), weights(b.model)) and same(weights(a.value_model), weights(b.value_model))
    assert same(a.learner.average.weights, b.learner.average.weights)
    one, other = a.learner.state_dict(), b.learner.state_dict()
    for name in ("policy_optimizer", "value_optimizer"):
        for x, y in zip(one[name][0]["state"].values(), other[name][0]["state"].values(), strict=True):
            assert all(torch.equal(torch.as_tensor(x[key]), torch.as_tensor(y[key])) for key in x)
    assert one["beta"] == other["beta"] and one["moments"] == other["moments"]
    assert torch.equal(one["generator"], other["generator"])


def test_state_of_other_settings_is_refused(tmp_path):
    trainer(config(save_every=1), output_dir=tmp_path / "new").train()
    with pytest.raises(InputError, match="other settings"):
        trainer(config(save_every=1, lr=1.0), output_dir=tmp_path / "new")


def test_a_run_that_memory_stopped_goes_on_with_settings_that_need_less(tmp_path):
    whole, _ = history_and_weights(config(episodes=24, save_every=1))
    trainer(config(episodes=24, save_every=2, micro_batch_size=8), output_dir=tmp_path).train()
    less = config(episodes=24, save_every=1, micro_batch_size=1, gradient_checkpointing=True)
    made = trainer(less, output_dir=tmp_path)
    assert made.learner.iteration == 2
    close_histories(made.train(), whole, 1e-5)


def test_a_loss_that_is_no_number_stops_and_changes_no_weight():
    made = trainer(value_model=scalar())
    with torch.no_grad():
        made.value_model.score.weight.fill_(math.nan)
    before, values = weights(made.model), weights(made.value_model)
    with pytest.raises(TrainingError, match="loss is not finite"):
        made.train()
    assert same(before, weights(made.model))
    assert all(
        torch.equal(a.nan_to_num(), b.nan_to_num())
        for a, b in zip(values.values(), weights(made.value_model).values(), strict=True)
    )


def test_a_gradient_of_the_value_model_that_is_no_number_changes_no_weight_of_the_policy():
    made = trainer()
    made.value_model.score.weight.register_hook(lambda gradient: gradient * math.inf)
    before, values = weights(made.model), weights(made.value_model)
    with pytest.raises(TrainingError, match="gradient is not finite"):
        made.train()
    assert same(before, weights(made.model)) and same(values, weights(made.value_model))


def test_a_score_that_is_no_number_is_said_to_come_from_the_reward():
    with pytest.raises(TrainingError, match="reward gave a score"):
        trainer(reward_model=lambda prompts, completions: [math.nan] * len(prompts)).train()
