"""`last_blocks` through the stages, on four makes of model."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from rlhf.store import Store
from stages import reward_model, sft
from stages.settings import RewardSettings, SFTSettings


def quiet(line):
    pass


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Demonstrations, which serve as prompts too, and rankings."""
    folder = tmp_path_factory.mktemp("data")
    answers = {"completions": ["It is red.", "No.", "Blue boat"], "ranks": [0, 2, 1]}
    return {
        "demonstrations": write(folder / "d.jsonl", [{"prompt": f"Say {i}", "completion": f"I say {i}."} for i in range(12)]),
        "rankings": write(folder / "r.jsonl", [{"prompt": f"Which color has kite {i}?", **answers} for i in range(12)]),
    }  # fmt: skip


@pytest.fixture(scope="module")
def tuned(foreign_model, data, tmp_path_factory):
    """A store with an SFT and a reward model of which the last block was trained."""
    store = Store(tmp_path_factory.mktemp("store"))
    small = {"last_blocks": 1, "lr": 1e-2, "name": "f"}
    sft.run(
        SFTSettings(
            base=str(foreign_model), data=data["demonstrations"], epochs=1.0, batch_size=4, **small
        ),
        store, quiet,
    )  # fmt: skip
    reward_model.run(RewardSettings(data=data["rankings"], prompts_per_batch=4, **small), store, say=quiet)
    return store


def trunk(model):
    return model.base_model.state_dict()


def moved(one, other):
    assert one.keys() == other.keys()
    return {name for name in one if not torch.equal(one[name], other[name])}


def test_what_lies_below_the_last_block_stays_bit_for_bit(foreign_model, tuned):
    base = trunk(AutoModelForCausalLM.from_pretrained(foreign_model))
    policy = AutoModelForCausalLM.from_pretrained(tuned.resolve("sft").path)
    reward = AutoModelForSequenceClassification.from_pretrained(tuned.resolve("reward").path)
    above = {name for name in base if name.startswith(("h.1.", "layers.1.", "ln_f.", "norm."))}
    assert moved(base, trunk(policy)) == above
    assert moved(trunk(policy), trunk(reward)) <= above and len(moved(trunk(policy), trunk(reward))) > 4
    assert (
        policy.config.architectures
        == AutoModelForCausalLM.from_pretrained(foreign_model).config.architectures
    )
