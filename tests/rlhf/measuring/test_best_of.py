"""Best-of-n from one set of samples, and diversity, by hand and against drawing."""

import itertools
import math

import numpy as np
import pytest

from rlhf.measuring.best_of import best_of_curve, kl_of_best_of, powers_of_two
from rlhf.measuring.diversity import distinct_bigrams, repetition, share_alike


def test_every_n_is_the_mean_over_all_choices_of_n_samples():
    rng = np.random.default_rng(0)
    rewards, judged = rng.normal(size=(3, 6)), rng.normal(size=(3, 6))
    for point in best_of_curve(rewards, judged):
        chosen = [
            max(some, key=lambda i: rewards[p, i])
            for p in range(3)
            for some in itertools.combinations(range(6), point["n"])
        ]
        per_prompt = math.comb(6, point["n"])
        rows = np.repeat(np.arange(3), per_prompt)
        assert point["reward"] == pytest.approx(rewards[rows, chosen].mean(), abs=1e-4)
        assert point["judged"] == pytest.approx(judged[rows, chosen].mean(), abs=1e-4)


def test_n_is_a_power_of_two_up_to_all_samples():
    assert powers_of_two(1) == [1] and powers_of_two(6) == [1, 2, 4, 6]
    assert powers_of_two(64) == [1, 2, 4, 8, 16, 32, 64]


def test_kl_is_that_of_a_uniform_choice_worked_out():
    # Of two samples from a continuous distribution the better one has density 2 F f: KL = ∫ 2u log 2u du = log 2 − 1/2.
    assert kl_of_best_of(2) == pytest.approx(math.log(2) - 0.5)
    assert kl_of_best_of(1) == 0.0


def test_diversity_by_hand():
    assert distinct_bigrams(["a b c", "a b"]) == pytest.approx(2 / 3)
    assert distinct_bigrams(["one", ""]) == 0.0
    assert repetition(["a b c a b c", "x"]) == pytest.approx(1 / 4)
    assert repetition([]) == 0.0
    assert share_alike(["yes", "yes", "no"]) == pytest.approx(2 / 3)
