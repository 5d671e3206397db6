"""Rewards in Python read the columns of their prompts by name, and may judge only some completions."""

import math

import pytest
import torch

from rlhf.errors import InputError
from rlhf.learning.reward_sources import combined_reward, load_function, reward_sources
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


MODULES = {
    "half_reward": b"def score(:",
    "wrong_reward": b"{}['colour']",
    "latin_reward": b"# -*- coding: latin-1 -*-\n# caf\xe9\ndef score(prompts, completions):\n    return [1.0]\n",
}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("half_reward:score", r"SyntaxError|half_reward\.py, line 1"),
        ("wrong_reward:score", "KeyError: 'colour'"),
        (":score", "ValueError: Empty module name"),
        (".half_reward:score", "TypeError"),
        ("sys:exit", "sys has no file of its own, by which a result would be known again"),
    ],
)
def test_a_module_that_cannot_be_used_is_named_in_one_line(name, said, tmp_path, monkeypatch):
    for module, code in MODULES.items():
        (tmp_path / f"{module}.py").write_bytes(code)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"reward {name}: .*({said})") as refused:
        load_function(name)
    assert "\n" not in str(refused.value)


def test_a_module_in_another_encoding_is_known_by_its_code(tmp_path, monkeypatch):
    (tmp_path / "latin_reward.py").write_bytes(MODULES["latin_reward"])
    monkeypatch.chdir(tmp_path)
    function, code = load_function("latin_reward:score")
    assert function([], []) == [1.0] and "def score" in code
