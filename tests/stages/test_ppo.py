"""PPOTrainer on models in memory: learning, what must not happen, and other people's models, rewards and data."""

import math

import pytest
import torch
from transformers import (
    GPT2Config,
)

from rlhf.errors import TrainingError
from rlhf.model import GPT, ScalarGPT
from rlhf.tokenizer import train_tokenizer
from stages.ppo import PPOConfig, PPOTrainer

TEXTS = ["The red kite is in the park. Tom has a blue boat. Say one two three four. The dog barks."] * 5
TOKENIZER = train_tokenizer(TEXTS, 300)
PROMPTS = ["one", "Say two", "The red kite", "Tom has a blue boat", "four", "The dog barks. Say three"]
CONFIG = {
    "episodes": 16, "batch_size": 8, "minibatch_size": 4, "max_new_tokens": 8, "bf16": "off", "warmup_iterations": 0,
}  # fmt: skip


def config(**more):
    return PPOConfig(**CONFIG | more)


def gpt2(**more):
    sizes = {"vocab_size": TOKENIZER.vocab_size, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}
    return GPT2Config(**sizes | more)


def policy(**more):
    torch.manual_seed(0)
    return GPT(gpt2(**more))


def scalar(**more):
    torch.manual_seed(1)
    return ScalarGPT(gpt2(**more))


def quiet(line):
    pass


def trainer(args=None, **more):
    parts = {
        "processing_class": TOKENIZER, "model": policy(), "reward_model": scalar(), "train_dataset": PROMPTS, "say": quiet,
    }  # fmt: skip
    return PPOTrainer(args or config(), **parts | more)


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def count_e(prompts, completions):
    """A reward that a policy can reach: how often the letter e stands in the answer."""
    return [float(text.count("e")) for text in completions]


def test_ppo_raises_a_reward_it_can_reach():
    args = config(
        episodes=640, batch_size=64, minibatch_size=16, kl_coef=0.01, lr=3e-3, missing_eos_penalty=0.0
    )
    scores = [row["reward/score"] for row in trainer(args, reward_model=count_e).train()]
    assert sum(scores[-3:]) / 3 > sum(scores[:3]) / 3 + 0.5


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
