"""Rows padded on the right: what real tokens become without a mask, and who still gets one."""

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM, BertConfig, BertForSequenceClassification, Gemma3TextConfig

from rlhf.models.padding import pad_tokens
from rlhf.models.trunk import is_causal, trunk_states
from tests.rlhf.models.test_last_blocks import CONFIGS, SIZES

ROWS = [[5, 9, 2, 31, 7, 7, 40, 12], [3], [17, 4, 22, 8, 1]]


def model_of(config):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(copy.deepcopy(config)).eval()


def masked(model, tokens, mask):
    return model.base_model(input_ids=tokens, attention_mask=mask.long(), use_cache=False).last_hidden_state


@pytest.mark.parametrize("kind", CONFIGS)
def test_real_tokens_have_the_states_and_gradients_that_a_mask_gives(kind):
    model = model_of(CONFIGS[kind])
    tokens, mask = pad_tokens(ROWS, 0)
    results = []
    for run in (trunk_states, masked):
        model.zero_grad()
        states = run(model, tokens, mask)[mask]
        states.square().mean().backward()
        results.append((states.detach(), {n: p.grad for n, p in model.base_model.named_parameters()}))
    (ours, our_gradients), (theirs, their_gradients) = results
    assert (
        is_causal(model) or kind == "bloom"
    )  # whose attention says nothing of it, so that it keeps the mask
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(our_gradients, their_gradients)


def test_a_model_that_looks_ahead_keeps_its_mask():
    config = Gemma3TextConfig(
        **SIZES, head_dim=8, query_pre_attn_scalar=8, layer_types=["full_attention"] * 4, use_bidirectional_attention=True
    )  # fmt: skip
    model = model_of(config)
    tokens, mask = pad_tokens(ROWS, 0)
    assert not is_causal(model)
    torch.testing.assert_close(trunk_states(model, tokens, mask), masked(model, tokens, mask))
    encoder = BertForSequenceClassification(BertConfig(vocab_size=60, hidden_size=32, num_attention_heads=4))
    assert not is_causal(encoder)
