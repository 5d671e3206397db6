"""Rewards in Python read the columns of their prompts by name, and may judge only some completions."""

import math

import pytest
import torch

from rlhf.errors import InputError
from rlhf.learning.reward_sources import combined_reward, reward_sources
from rlhf.learning.rollout import Rollout
from rlhf.sampling.generate import Sample
from tests.tiny_ppo import TOKENIZER, config, trainer

ROWS = [{"prompt": "one", "answer": "one", "level": 1}, {"prompt": "two", "answer": "two"}]


def rollout(columns=ROWS):
    prompts = [TOKENIZER.encode_prompt(row["prompt"]) for row in ROWS]
    samples = [Sample(TOKENIZER.encode_completion(text), [0.0] * 9, True) for text in ("one", "three")]
    samples = [Sample(s.tokens, s.logprobs[: len(s.tokens)], s.ended) for s in samples]
    return Rollout.from_samples(
        prompts, samples, TOKENIZER.pad_id, conversations=[r["prompt"] for r in ROWS], columns=columns
    )


def score(*functions, columns=ROWS, **more):
    reward = combined_reward(reward_sources(list(functions), None), TOKENIZER, **more)
    return reward.combined(reward.components(rollout(columns))).tolist()


def is_right(prompts, completions, answer):
    return [float(said == wanted) for said, wanted in zip(completions, answer, strict=True)]


def test_a_function_gets_the_columns_it_names():
    assert score(is_right) == [1.0, 0.0]
    seen = {}

    def takes_all(prompts, completions, **columns):
        seen.update(columns)
        return [0.0, 0.0]

    score(takes_all)
    assert seen == {"answer": ["one", "two"], "level": [1, None]}
    assert score(lambda prompts, completions: [1.0, 2.0]) == [1.0, 2.0]
    assert score(lambda prompts, completions, missing="x": [1.0, 2.0]) == [1.0, 2.0]


def test_a_column_that_no_prompt_has_is_named():
    def wants_truth(prompts, completions, ground_truth):
        return [0.0, 0.0]

    with pytest.raises(
        InputError, match="wants_truth: no prompt has a column ground_truth; there are: answer, level"
    ):
        score(wants_truth)


def test_none_judges_not():
    def first(prompts, completions):
        return [1.0, None]

    def both(prompts, completions):
        return [3.0, 5.0]

    assert score(first, both) == [2.0, 5.0]  # the mean of those that judge
    assert score(first, both, weights=(1.0, 1.0)) == [
        4.0,
        5.0,
    ]  # a weighted sum leaves the other out, as trl's
    assert score(first, both, combine="min") == [1.0, 5.0]
    low = score(first, both, combine="lower-bound", pessimism=1.0)
    assert low == pytest.approx([2.0 - 1.0, 5.0])
    assert score(first) == [1.0, 0.0]  # a completion that nobody judges is neither good nor bad


def test_ppo_gives_rewards_the_columns_of_a_data_set():
    seen = []

    def check(prompts, completions, answer):
        seen.extend(zip(prompts, answer, strict=True))
        return [None if i % 2 else 1.0 for i in range(len(completions))]

    run = trainer(config(), reward_model=check, train_dataset=ROWS)
    history = run.train()
    assert set(seen) == {("one", "one"), ("two", "two")}
    assert all(math.isfinite(value) for row in history for value in row.values())
    assert torch.isfinite(torch.tensor([row["reward/score"] for row in history])).all()
