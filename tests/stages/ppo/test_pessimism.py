"""`rlhf reward --heads` and `rlhf ppo --pessimism` on a tiny model: what is trained, saved, climbed and refused."""

import pytest
import torch
from safetensors.torch import load_file

from rlhf.errors import InputError
from rlhf.learning.reward_sources import combined_reward, load_rewards
from rlhf.learning.rollout import Rollout
from rlhf.models.checkpoints import load_scalar
from rlhf.models.tokenizer import load_tokenizer
from rlhf.sampling.generate import Sample
from rlhf.store import Store
from stages import ppo, reward
from stages.settings import PPOSettings, RewardSettings

SMALL = {"episodes": 16, "batch_size": 8, "minibatch_size": 8, "max_new_tokens": 8}


def quiet(line):
    pass


def test_an_ensembles_lower_bound_is_what_ppo_climbs(base_store, data, tmp_path):
    store, base = Store(tmp_path / "store"), str(base_store.resolve("base").path)
    how = {"init": base, "data": data["rankings"], "prompts_per_batch": 4, "max_length": 64}
    made = reward.run(RewardSettings(**how, heads=6, name="heads"), store, say=quiet)
    plain = reward.run(RewardSettings(**how, name="plain"), store, say=quiet)
    # The model itself is the same: heads are fitted behind its training.
    one, other = (load_scalar(entry.path).state_dict() for entry in (made, plain))
    assert all(torch.equal(one[name], other[name]) for name in one)
    heads = load_file(made.path / "heads.safetensors")
    assert heads["weight"].shape == (6, 32) and store.verify("reward/heads") == []

    tokenizer = load_tokenizer(made.path)
    rows = [tokenizer.encode_prompt("Which color has kite 1?")] * 2
    samples = [Sample(tokenizer.encode_completion(text), [0.0] * 99, True) for text in ("It is red.", "No.")]
    samples = [Sample(s.tokens, s.logprobs[: len(s.tokens)], True) for s in samples]
    rollout = Rollout.from_samples(rows, samples, tokenizer.pad_id, round_to=8, end_id=tokenizer.eos_id)
    scores = {}
    for k in (None, 1.0, 2.0):
        sources, _, _ = load_rewards(store, "reward/heads")
        scores[k] = combined_reward(sources, tokenizer, bf16="off", pessimism=k).components(rollout)[:, 0]
    assert (scores[1.0] > scores[2.0]).all()
    assert not torch.allclose(scores[None], scores[1.0])

    run = {"policy": base, "prompts": data["demonstrations"], **SMALL}
    ends = [
        ppo.run(PPOSettings(**run, reward="reward/heads", pessimism=k, name="p"), store, quiet)
        for k in (None, 2.0)
    ]
    assert ends[0].manifest["metrics"]["reward"] != ends[1].manifest["metrics"]["reward"]
    with pytest.raises(InputError, match="--heads"):
        ppo.run(PPOSettings(**run, reward="reward/plain", pessimism=2.0, name="p"), store, quiet)
