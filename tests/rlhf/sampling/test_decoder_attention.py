"""Attention of the compiled decoder over long texts: heads of many sizes, shared keys, windows, caps, any cut of the text."""

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, GPT2Config, MistralConfig, Phi3Config

from rlhf.machine import kernels
from rlhf.models.gpt import GPT
from rlhf.sampling.decoder import Decoder
from rlhf.sampling.families import describe

pytestmark = pytest.mark.skipif(kernels.library() is None, reason="no C++ compiler")
LENGTH = 203
SMALL = {
    "vocab_size": 50, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "initializer_range": 0.2,
    "max_position_embeddings": 256, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def heads(queries, keys, size):
    return {"num_attention_heads": queries, "num_key_value_heads": keys, "head_dim": size}


CONFIGS = {
    "one head of queries on each of keys": MistralConfig(**SMALL, **heads(3, 3, 16), sliding_window=None),
    "two": MistralConfig(**SMALL, **heads(4, 2, 32), sliding_window=None),
    "three": MistralConfig(**SMALL, **heads(6, 2, 80), sliding_window=None),
    "seven": MistralConfig(**SMALL, **heads(7, 1, 48), sliding_window=None),
    "eight, of a size that no table has": MistralConfig(**SMALL, **heads(8, 1, 112), sliding_window=None),
    "a window": MistralConfig(**SMALL, **heads(4, 2, 96), sliding_window=21),
    "a wide window": MistralConfig(**SMALL, **heads(4, 1, 128), sliding_window=67),
    "caps and windows": Gemma2Config(**SMALL, **heads(4, 2, 256), sliding_window=35, attn_logit_softcapping=2.0),
    "half a head rotated": Phi3Config(**SMALL, num_attention_heads=3, num_key_value_heads=1, partial_rotary_factor=0.5),
    "learned positions": GPT2Config(
        vocab_size=50, n_positions=256, n_embd=64, n_layer=2, n_head=4, initializer_range=0.2
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=CONFIGS)
def model(request):
    torch.manual_seed(0)
    config = CONFIGS[request.param]
    if isinstance(config, GPT2Config):
        return GPT(config).eval()
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()


def text(seed):
    return torch.randint(3, 50, (LENGTH,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 4e-2)])
def test_every_token_of_a_long_text_gets_the_logits_of_the_forward_pass(model, dtype, tolerance):
    decoder = Decoder(describe(model, dtype), 1)
    with torch.no_grad():
        theirs = model(input_ids=torch.tensor([text(0)])).logits[0]
    difference = (decoder.read_each(0, text(0)) - theirs).abs()
    assert difference.max() <= tolerance * theirs.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_logits_are_the_same_bits_however_the_text_is_cut_and_beside_whom(model, dtype):
    whole = Decoder(describe(model, dtype), 1).read_each(0, text(1))
    cut = Decoder(describe(model, dtype), 3)
    cut.read([0, 1], [text(1)[:1], text(2)[:37]])
    place = 1
    for size in (1, 2, 5, 30, 64, 3):
        logits = cut.read([0, 1], [text(1)[place : place + size], text(2)[place : place + 1]])
        place += size
        assert torch.equal(logits[0], whole[place - 1])
    for slot in (0, 1):
        more = cut.step([0, 1], torch.tensor([text(1)[place], 5 + slot]))
        assert torch.equal(more[0], whole[place])
        place += 1
    assert torch.equal(cut.read_each(0, text(1)[place:]), whole[place:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_slot_does_not_feel_what_stood_in_it(model, dtype):
    """Keys and values of a text before, that were no numbers, stand where the next one has not written yet."""
    fresh, used = Decoder(describe(model, dtype), 1), Decoder(describe(model, dtype), 1)
    used.read([0], [text(3)])
    for storage in used.storage[0]:
        storage.fill_(float("nan"))
    used.forget(0)
    used.known[0] = 0
    for first, last in ((0, 1), (1, 2), (2, 35), (35, 36), (36, LENGTH)):
        assert torch.equal(used.read([0], [text(4)[first:last]]), fresh.read([0], [text(4)[first:last]]))
