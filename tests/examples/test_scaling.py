"""The law is found again in runs made from it, with and without noise; its best size is the best of many."""

import argparse
import random

import pytest

from examples import scaling, scaling_page
from examples.scaling_law import Law, bootstrap, fit, middle_95
from rlhf.starter.corpus import corpus

TRUE = Law(floor=1.7, size_factor=400.0, size_exponent=0.5, data_factor=900.0, data_exponent=0.6)


def runs_of(law, noise=0.0, seed=0):
    rng = random.Random(seed)
    return [
        (n, d, law.loss(n, d) * (1 + rng.gauss(0, noise)))
        for n in (1e4, 4e4, 1.6e5, 6.4e5, 2.6e6) for d in (3e4, 1e5, 3e5, 1e6, 3e6)
    ]  # fmt: skip


@pytest.mark.parametrize(
    "law",
    [TRUE, Law(0.6, 50.0, 0.34, 30.0, 0.28), Law(2.5, 3000.0, 0.8, 5.0, 0.2)],
    ids=["even", "paper", "uneven"],
)
def test_a_law_without_noise_is_found_exactly(law):
    found = fit(runs_of(law))
    for name, value in vars(law).items():
        assert vars(found)[name] == pytest.approx(value, rel=0.02), name


def test_with_noise_the_bootstrap_interval_holds_the_true_prediction_and_exponents():
    runs = runs_of(TRUE, noise=0.004)
    laws = bootstrap(runs, 40)
    for true, values in (
        (TRUE.size_exponent, [law.size_exponent for law in laws]),
        (TRUE.data_exponent, [law.data_exponent for law in laws]),
        (TRUE.loss(1e7, 1e7), [law.loss(1e7, 1e7) for law in laws]),
    ):
        low, high = middle_95(values)
        assert low < true < high and high - low < 0.5 * true
    assert fit(runs).loss(1e7, 1e7) == pytest.approx(TRUE.loss(1e7, 1e7), rel=0.03)


def test_the_best_size_has_the_lowest_loss_of_its_compute():
    compute = 1e12
    best = TRUE.best_size(compute)
    losses = {n: TRUE.loss(n, compute / 6 / n) for n in (best * 1.2**power for power in range(-8, 9))}
    assert min(losses, key=losses.get) == pytest.approx(best)


def test_too_few_runs_are_refused():
    with pytest.raises(ValueError, match="4 runs"):
        fit(runs_of(TRUE)[:4])


def test_the_whole_experiment_on_tiny_settings(monkeypatch):
    tiny = {
        "LENGTH": 16,
        "BATCH": 4,
        "VOCABULARY": 270,
        "SIZES": ((1, 8), (1, 16), (1, 24)),
        "LARGEST": (1, 32),
    }
    for name, value in {**tiny, "SHARES": (1 / 4, 1 / 2)}.items():
        monkeypatch.setattr(scaling, name, value)
    monkeypatch.setattr(scaling, "corpus", lambda num_words, seed: corpus(3000, seed))
    found = scaling.run(argparse.Namespace(data=None, largest=2000, seeds=1, samples=4))
    assert len(found["runs"]) == 6 and len(found["largest"]) == 1
    assert found["largest"][0]["weights"] > max(run["weights"] for run in found["runs"])
    value, (low, high) = found["predicted"]
    assert low <= high and value > 0


def test_a_floor_that_the_fit_takes_down_to_nothing_is_shown_as_0():
    assert [scaling_page.number(value) for value in (2.26e-11, 0.2564, 65.53)] == ["0", "0.256", "65.5"]
