"""Frozen models in bfloat16 where they are multiplied in it: less memory, the same numbers to the last bit."""

import copy

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, Gemma3TextConfig, GPT2Config, GPTNeoXConfig, LlamaConfig

from rlhf.learning.passes import completion_scores
from rlhf.learning.rollout import Rollout
from rlhf.machine.devices import autocast
from rlhf.models.checkpoints import scalar_from_policy
from rlhf.models.gpt import GPT
from rlhf.models.last_blocks import freeze_lower
from rlhf.sampling.generate import Sample
from stages.trainers.frozen import hold_products_in_bfloat16

SIZES = {
    "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
}  # fmt: skip
CONFIGS = {
    "gpt2": GPT2Config(vocab_size=60, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=None, eos_token_id=None),
    "llama": LlamaConfig(**SIZES, num_key_value_heads=2, tie_word_embeddings=True),
    "gemma": Gemma3TextConfig(
        **SIZES, num_key_value_heads=2, head_dim=8, query_pre_attn_scalar=8, sliding_window=4,
        layer_types=["sliding_attention", "full_attention"],
    ),
    "gpt_neox": GPTNeoXConfig(**SIZES),
}  # fmt: skip
TOKENS = torch.arange(1, 41).view(2, 20)


def causal(kind):
    torch.manual_seed(0)
    config = copy.deepcopy(CONFIGS[kind])
    return (GPT(config) if kind == "gpt2" else AutoModelForCausalLM.from_config(config)).eval()


def logits(model):
    with torch.no_grad(), autocast(torch.device("cpu"), "on"):
        return model(TOKENS).logits


def num_bytes(model):
    return sum(p.numel() * p.element_size() for p in model.parameters())


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_frozen_model_takes_less_memory_and_computes_the_same(kind):
    model = causal(kind).requires_grad_(False)
    before, size = logits(model), num_bytes(model)
    saved = hold_products_in_bfloat16(model)
    assert saved > 0.3 * size and num_bytes(model) == size - saved
    assert torch.equal(logits(model), before)


def test_a_reward_model_gives_the_same_scores():
    model = scalar_from_policy(causal("llama")).eval().requires_grad_(False)
    rows = Rollout.from_samples(
        [[3, 4, 5], [6]], [Sample([7, 8], [0.0] * 2, True), Sample([9], [0.0], True)], 0, 8
    )

    def scores():
        with torch.no_grad(), autocast(torch.device("cpu"), "on"):
            return completion_scores(model, rows)

    before = scores()
    assert hold_products_in_bfloat16(model) and torch.equal(scores(), before)


def test_what_learns_and_what_a_learning_model_shares_stay_in_float32():
    policy = causal("llama")
    freeze_lower(policy, 1)
    assert hold_products_in_bfloat16(policy, [policy]) == 0
    assert all(p.dtype == torch.float32 for p in policy.parameters())
    hold_products_in_bfloat16(policy)
    assert all(p.dtype == torch.float32 for p in policy.parameters() if p.requires_grad)


class InFloat32(nn.Linear):
    """A layer that computes in float32 wherever it is, as routers of experts do."""

    def forward(self, x):
        with torch.autocast("cpu", enabled=False):
            return nn.functional.linear(x.float(), self.weight.float())


def test_a_model_that_would_compute_something_else_stays_as_it_was():
    model = causal("llama").requires_grad_(False)
    layer = model.model.layers[1].mlp
    router = InFloat32(*reversed(layer.down_proj.weight.shape), bias=False)
    router.weight = layer.down_proj.weight
    layer.down_proj = router
    before, size = logits(model), num_bytes(model)
    assert hold_products_in_bfloat16(model) == 0
    assert num_bytes(model) == size and torch.equal(logits(model), before)
