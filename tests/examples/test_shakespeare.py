"""Nats a character by `rlhf pretrain` on nanoGPT's split; what is chosen by never reads the last tenth."""

import argparse
import math

import pytest

from examples import shakespeare as example
from examples.texts import divided
from rlhf.models.checkpoints import load_policy

TINY = {
    "vocab_size": 270, "layers": 1, "width": 16, "heads": 2, "length": 16, "batch": 2,
    "tokens": 800, "dropout": 0.1, "lr": 1e-2, "muon_lr": 0.02, "threads": 1, "seed": 0,
}  # fmt: skip


@pytest.fixture
def run(tmp_path, monkeypatch):
    def once(text, choosing, store):
        monkeypatch.setattr(example, "texts", lambda folder: {"moon": text})
        given = argparse.Namespace(data=None, choosing=choosing, store=str(tmp_path / store), **TINY)
        return example.run(given), next((tmp_path / store / "base").glob("0*"))

    return once


def test_the_unit_is_nats_a_character_of_the_last_tenth(run):
    text = "夏の夜、月が出た。The moon rose.\n" * 80
    found, _ = run(text, 0, "whole")
    _, unseen = divided(text)
    nats = found["bits_per_byte"] * math.log(2) * len(unseen.encode()) / len(unseen)
    assert found["nats_per_character"] == pytest.approx(nats)
    assert len(found["curve"]) == 20 and found["curve"][-1][1] < found["curve"][0][1]
    again, _ = run(text, 0, "whole")  # the store has it already
    assert again == found


def test_settings_are_chosen_without_the_last_tenth(run):
    text = "The moon rose over the hill.\n" * 80
    other = divided(text)[0] + "9" * len(divided(text)[1])
    made = [run(each, 1, store) for each, store in ((text, "one"), (other, "two"))]
    weights = [load_policy(folder).state_dict() for _, folder in made]
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])
    assert made[0][0]["nats_per_character"] == made[1][0]["nats_per_character"]
