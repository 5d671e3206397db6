"""Sampling: honest log-probabilities, whatever the batch, for our GPT and for other people's models."""

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, Qwen2Config

from rlhf.errors import InputError
from rlhf.generate import SamplingSettings, draw, generate, stream
from rlhf.model import GPT
from rlhf.rollout import Rollout, completion_logprobs

STOP = frozenset({1})
SMALL = {
    "vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 2, "eos_token_id": 1, "bos_token_id": 0,
}  # fmt: skip


def build(kind):
    torch.manual_seed(0)
    if kind == "gpt":
        return GPT(
            GPT2Config(vocab_size=40, n_positions=64, n_embd=32, n_layer=2, n_head=4, pad_token_id=2)
        ).eval()
    config = LlamaConfig(**SMALL) if kind == "llama" else Qwen2Config(**SMALL)
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture(scope="module", params=["gpt", "llama", "qwen"])
def model(request):
    found = build(request.param)
    with torch.no_grad():  # sharper than at initialisation, so that a wrong position or mask shows
        for parameter in found.parameters():
            parameter.mul_(2.0)
    return found


PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14], [5, 6], [20, 21, 22, 23]]


def sample(model, prompts=PROMPTS, batch_size=64, **settings):
    chosen = SamplingSettings(**{"max_new_tokens": 16, **settings})
    return generate(model, prompts, chosen, stop_ids=STOP, pad_id=2, seed=3, batch_size=batch_size)


def test_logprobs_are_those_of_a_full_pass(model):
    rollout = Rollout.from_samples(PROMPTS, sample(model), 2, 1)
    with torch.no_grad():
        ratio = (completion_logprobs(model, rollout) - rollout.logprobs).exp()
    assert (ratio[rollout.mask] - 1).abs().max() < 1e-4


def test_a_completion_does_not_depend_on_its_batch(model):
    together, alone = sample(model), sample(model, batch_size=1)
    assert [s.tokens for s in together] == [s.tokens for s in alone]


def test_completions_stop_at_the_stop_token_or_at_the_limit(model):
    for one in sample(model, PROMPTS * 8):
        assert one.ended == (one.tokens[-1] in STOP)
        assert not set(one.tokens[:-1]) & STOP
        assert one.ended or len(one.tokens) == 16


def test_greedy_takes_the_argmax(model):
    for prompt, one in zip(PROMPTS, sample(model, temperature=0.0), strict=True):
        row = list(prompt)
        for token in one.tokens:
            with torch.no_grad():
                assert int(model(input_ids=torch.tensor([row])).logits[0, -1].argmax()) == token
            row.append(token)


def test_stream_gives_the_tokens_of_generate(model):
    settings = SamplingSettings(max_new_tokens=16)
    (one,) = generate(model, [PROMPTS[2]], settings, stop_ids=STOP, pad_id=2, seed=9)
    streamed = list(stream(model, PROMPTS[2], settings, stop_ids=STOP, seed=9))
    assert streamed == (one.tokens[:-1] if one.ended else one.tokens)


@pytest.mark.parametrize(
    ("settings", "support"), [({"top_k": 2}, {0, 1}), ({"top_p": 0.6}, {0, 1}), ({}, {0, 1, 2, 3})]
)
def test_truncation_keeps_the_most_probable_tokens(settings, support):
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log().expand(4000, 4)
    uniforms = (torch.arange(4000) + 0.5) / 4000
    tokens, _ = draw(logits, uniforms.double(), SamplingSettings(**settings))
    assert set(tokens.tolist()) == support


def test_draws_follow_the_probabilities():
    probabilities = torch.tensor([0.4, 0.3, 0.2, 0.1])
    uniforms = (torch.arange(1000) + 0.5) / 1000
    tokens, logprobs = draw(probabilities.log().expand(1000, 4), uniforms.double(), SamplingSettings())
    assert torch.allclose(torch.bincount(tokens) / 1000, probabilities, atol=2e-3)
    assert torch.allclose(logprobs.exp(), probabilities[tokens], atol=1e-6)


def test_a_prompt_without_room_is_refused():
    model = build("gpt")
    with pytest.raises(InputError, match="prompt 1 is empty"):
        sample(model, [[]])
    with pytest.raises(InputError, match="context is 64"):
        sample(model, [list(range(3, 40)) * 2])
