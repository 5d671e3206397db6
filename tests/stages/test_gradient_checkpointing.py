"""`gradient_checkpointing`: the same numbers, from blocks that run once more in the backward pass."""

import pytest
import torch
from torch.nn.modules.module import register_module_forward_hook

from rlhf.models.checkpoints import load_policy, load_scalar
from rlhf.models.trunk import blocks_of
from rlhf.store import Store
from stages import reward, sft
from stages.settings import RewardSettings, SFTSettings
from tests.tiny_ppo import EVERYTHING, MODELS, config, quiet, trainer, weights


def runs_of_each_block(model):
    """For each block a list that grows when it runs with gradients wanted."""
    runs = []
    for block in blocks_of(model):
        runs.append([])
        # not the block itself: its own hooks do not run again
        next(block.children()).register_forward_hook(
            lambda *_, seen=runs[-1]: seen.append(1) if torch.is_grad_enabled() else None
        )
    return runs


@pytest.mark.parametrize("last_blocks", [0, 1])
@pytest.mark.parametrize("kind", MODELS)
def test_ppo_is_bit_for_bit_the_same(kind, last_blocks):
    if last_blocks and "lora" in kind:
        pytest.skip("one or the other")
    results = []
    for again in (False, True):
        args = config(**EVERYTHING, last_blocks=last_blocks, gradient_checkpointing=again)
        made = trainer(args, pretrain_dataset=["The red kite is in the park."] * 9, **MODELS[kind]())
        history = made.train()
        results.append((history, weights(made.model), weights(made.learner.value_model)))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


def test_in_ppo_a_learning_block_runs_twice_for_a_gradient_and_a_frozen_one_not_at_all():
    runs = {}
    for again in (False, True):
        made = trainer(config(episodes=8, last_blocks=1, gradient_checkpointing=again))
        counted = runs_of_each_block(made.model)
        made.train()
        runs[again] = [len(seen) for seen in counted]
    assert runs[False] == [0, 2] and runs[True] == [0, 4]


STAGES = {
    "sft": (sft, SFTSettings, "base", "demonstrations", load_policy),
    "reward": (reward, RewardSettings, "init", "rankings", load_scalar),
}


@pytest.mark.parametrize("stage", STAGES)
def test_stages_of_trl_give_the_same_model_from_more_passes(
    stage, foreign_model, data, tmp_path, monkeypatch
):
    # a pass with a gradient before the training, the same in both runs, which is not to be counted
    monkeypatch.setattr(f"stages.{stage}.stage.check_trainable", lambda model: None)
    run, settings, source, rows, load = STAGES[stage]
    passes, results = {False: 0, True: 0}, []
    for again in passes:

        def count(module, args, output, again=again):
            passes[again] += torch.is_grad_enabled()

        given = {
            source: str(foreign_model),
            "data": data[rows],
            "epochs": 1.0,
            "gradient_checkpointing": again,
        }
        hook = register_module_forward_hook(count)
        try:
            entry = run.run(settings(**given), Store(tmp_path / str(again)), say=quiet)
        finally:
            hook.remove()
        results.append(weights(load(entry.path)))
    torch.testing.assert_close(results[0], results[1])
    assert passes[True] > 1.5 * passes[False] > 0
