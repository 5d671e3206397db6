"""Sampling: honest log-probabilities, whatever the batch, for our GPT and for other people's models."""

import copy
import math
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
)
from transformers.pytorch_utils import Conv1D

from rlhf.errors import InputError
from rlhf.learning.passes import completion_logprobs
from rlhf.learning.rollout import Rollout
from rlhf.machine import decoding
from rlhf.models.checkpoints import attention_for
from rlhf.models.gpt import GPT
from rlhf.sampling.decoder import Decoder, decoder_for, is_described
from rlhf.sampling.families import describe
from rlhf.sampling.generate import SamplingSettings, draw, generate, stream

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
    configs = {"llama": LlamaConfig, "qwen": Qwen2Config, "gemma": Gemma2Config}
    changes = {"gemma": {"sliding_window": 6, "head_dim": 8}, "llama": {"head_dim": 16}}
    config = configs[kind](**SMALL, **changes.get(kind, {}))
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture(scope="module", params=["gpt", "llama", "qwen", "gemma"])
def model(request):
    found = build(request.param)
    with torch.no_grad():  # sharper than at initialisation, so that a wrong position or mask shows
        for parameter in found.parameters():
            parameter.mul_(2.0)
    return found


PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14], [5, 6], [20, 21, 22, 23]]


def sample(model, prompts=PROMPTS, batch_size=64, **settings):
    chosen = SamplingSettings(**{"max_new_tokens": 16, **settings})
    return generate(model, prompts, chosen, stop_ids=STOP, seed=3, batch_size=batch_size)


def test_logprobs_are_those_of_a_full_pass(model):
    rollout = Rollout.from_samples(PROMPTS, sample(model), 2, 1)
    with torch.no_grad():
        ratio = (completion_logprobs(model, rollout) - rollout.logprobs).exp()
    assert (ratio[rollout.mask] - 1).abs().max() < 1e-4


def test_a_completion_does_not_depend_on_its_batch(model):
    together, alone = sample(model), sample(model, batch_size=1)
    assert [s.tokens for s in together] == [s.tokens for s in alone]


def test_a_completion_depends_on_its_place_and_is_told_as_soon_as_it_is_whole(model):
    told = {}
    places = [4, 1, 2]
    some = generate(
        model, [PROMPTS[place] for place in places], SamplingSettings(max_new_tokens=16), stop_ids=STOP,
        seed=3, batch_size=2, places=places, on_sample=lambda place, sample: told.setdefault(place, sample),
    )  # fmt: skip
    together = sample(model)
    assert [s.tokens for s in some] == [together[place].tokens for place in places]
    assert told == dict(zip(places, some, strict=True))


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
    asked = SamplingSettings(max_new_tokens=40)
    (one,) = generate(model, [PROMPTS[2]], asked, stop_ids=STOP, seed=9)
    streamed = list(stream(model, PROMPTS[2], asked, stop_ids=STOP, seed=9))
    assert streamed == (one.tokens[:-1] if one.ended else one.tokens)


@pytest.mark.parametrize(
    ("truncation", "support"), [({"top_k": 2}, {0, 1}), ({"top_p": 0.6}, {0, 1}), ({}, {0, 1, 2, 3})]
)
def test_truncation_keeps_the_most_probable_tokens(truncation, support):
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log().expand(4000, 4)
    uniforms = (torch.arange(4000) + 0.5) / 4000
    tokens, _ = draw(logits, uniforms.double(), SamplingSettings(**truncation))
    assert set(tokens.tolist()) == support


@settings(max_examples=200)
@given(st.integers(0, 2**32 - 1), st.integers(1, 400), st.sampled_from([0.0, 2**-53, 0.5, 1 - 2**-53]))
def test_a_draw_is_the_first_token_at_which_the_running_sum_passes(seed, size, uniform):
    generator = np.random.default_rng(seed)
    logits = torch.from_numpy(generator.normal(scale=5, size=(3, size)).astype(np.float32))
    logits[torch.from_numpy(generator.random((3, size)) < 0.5)] = float("-inf")  # as after top-k
    logits[:, int(generator.integers(size))] = 0.0
    uniforms = torch.tensor([uniform, *generator.random(2)], dtype=torch.float64)
    tokens, logprobs = draw(logits, uniforms, SamplingSettings())
    for row, wanted, token, logprob in zip(logits, uniforms, tokens, logprobs, strict=True):
        probabilities = row.double().softmax(0)
        running = probabilities.cumsum(0)
        assert probabilities[token] > 0
        assert running[token] >= wanted - 1e-6 and running[token] - probabilities[token] <= wanted + 1e-6
        assert math.isclose(logprob, probabilities[token].log(), abs_tol=1e-5)


def test_a_wide_nucleus_is_found_too():
    """A flat distribution over more tokens than are looked at first."""
    logits = torch.arange(2000, 0, -1).float().log().expand(500, 2000)
    uniforms = (torch.arange(500).double() + 0.5) / 500
    tokens, _ = draw(logits, uniforms, SamplingSettings(top_p=0.5))
    mass = (torch.arange(2000, 0, -1).double() / sum(range(2001))).cumsum(0)
    last = int((mass < 0.5).sum())  # the token that reaches one half
    assert tokens.max() <= last and tokens.max() > 0.9 * last


def test_a_repetition_penalty_is_that_of_transformers(model):
    ours = sample(model, temperature=0.0, max_new_tokens=40, repetition_penalty=1.5)
    assert ours != sample(model, temperature=0.0, max_new_tokens=40)
    for prompt, one in zip(PROMPTS, ours, strict=True):
        theirs = model.generate(
            torch.tensor([prompt]), do_sample=False, max_new_tokens=40, repetition_penalty=1.5,
            eos_token_id=1, pad_token_id=2,
        )  # fmt: skip
        assert one.tokens == theirs[0, len(prompt) :].tolist()


def test_the_penalty_leaves_the_reported_logprobs_alone():
    logits = torch.tensor([[2.0, 1.0, -1.0]])
    seen = torch.tensor([[True, False, False]])
    penalty = SamplingSettings(repetition_penalty=3.0)
    # 2/3 < 1: token 1 is now the most probable, e^1 / (e^(2/3) + e^1 + e^-1); drawn from 0.40 on.
    token, logprob = draw(logits, torch.tensor([0.45], dtype=torch.float64), penalty, seen)
    assert token == 1 and math.isclose(logprob, logits[0].log_softmax(0)[1], abs_tol=1e-6)
    greedy, _ = draw(logits, torch.zeros(1), replace(penalty, temperature=0.0), seen)
    assert greedy == 1


def test_casting_frozen_weights_once_changes_nothing_and_they_come_back(model, monkeypatch):
    model.requires_grad_(False)
    before = dict(model.named_parameters())
    with torch.autocast("cpu", torch.bfloat16):
        once = sample(model)
        with monkeypatch.context() as patch:
            patch.setattr("rlhf.sampling.generate.frozen_weights_cast", lambda _: nullcontext())
            assert sample(model) == once
    model.requires_grad_(True)
    after = dict(model.named_parameters())
    assert all(after[name] is parameter for name, parameter in before.items())


def like_llama(config_class=LlamaConfig, **changes):
    torch.manual_seed(0)
    size = {name: value for name, value in {**SMALL, "head_dim": 16, **changes}.items() if value is not None}
    config = config_class(**size)
    return AutoModelForCausalLM.from_config(config, **attention_for(config)).eval()


def gpt_of(**changes):
    torch.manual_seed(0)
    size = {"vocab_size": 40, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 2, "pad_token_id": 2}
    return GPT(GPT2Config(**size | changes)).eval()


def with_lora(model, **more):
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", **more)).eval()
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora" in name:
                parameter.normal_(std=0.3)
    return adapted


DESCRIBED = {
    "gpt": gpt_of,
    "gpt, scaled by layer, relu": lambda: gpt_of(scale_attn_by_inverse_layer_idx=True, activation_function="relu"),
    "gpt, adapters": lambda: with_lora(gpt_of(), fan_in_fan_out=True),
    "llama": like_llama,
    "llama, biases": lambda: like_llama(attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
    "llama, gelu": lambda: like_llama(hidden_act="gelu"),
    "llama, slower rotation": lambda: like_llama(
        rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}
    ),
    "llama, adapters": lambda: with_lora(like_llama()),
    "mistral": lambda: like_llama(MistralConfig),
    "mistral, window": lambda: like_llama(MistralConfig, sliding_window=6),
    "qwen 2": lambda: like_llama(Qwen2Config, num_attention_heads=2),
    "qwen 2, window in the upper half": lambda: like_llama(
        Qwen2Config, use_sliding_window=True, sliding_window=6, max_window_layers=1
    ),
    "qwen 3": lambda: like_llama(Qwen3Config),
    "olmo 2": lambda: like_llama(Olmo2Config, hidden_size=64, head_dim=None),
    "phi 3": lambda: like_llama(Phi3Config, hidden_size=64, head_dim=None),
    "phi 3, half rotated": lambda: like_llama(
        Phi3Config, hidden_size=64, head_dim=None,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
    ),
    "gemma": lambda: like_llama(GemmaConfig),
    "gemma 2": lambda: like_llama(Gemma2Config, sliding_window=6, attn_logit_softcapping=2.0, query_pre_attn_scalar=9),
    "gemma 3": lambda: like_llama(
        Gemma3TextConfig, sliding_window=6, layer_types=["sliding_attention", "full_attention"], query_pre_attn_scalar=9,
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=DESCRIBED)
def described(request):
    """A model whose every weight is drawn: biases and gains that are not 0 and 1 show a mistake."""
    model = DESCRIBED[request.param]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    assert is_described(model)
    return model


def test_described_models_are_sampled_as_their_forward_pass_says(described):
    rollout = Rollout.from_samples(PROMPTS, sample(described, max_new_tokens=40), 2, 1)
    with torch.no_grad():
        assert (completion_logprobs(described, rollout) - rollout.logprobs).abs().max() < 1e-4


@torch.no_grad()
def test_slots_give_the_logits_of_the_forward_pass_whoever_comes_and_goes(described):
    texts = [torch.randint(0, 40, (length,)).tolist() for length in (1, 30, 9, 60, 12)]

    def expected(text):
        return described(input_ids=torch.tensor([text])).logits[0, -1]

    decoder = decoder_for(described, 3)
    first = decoder.read([2, 0], [texts[0], texts[1][:17]]).clone()
    assert torch.allclose(first[0], expected(texts[0]), atol=1e-4)
    assert torch.allclose(first[1], expected(texts[1][:17]), atol=1e-4)
    decoder.read([0, 1], [texts[1][17:-2], texts[2]])
    for text, logits in zip(texts[1:3], decoder.step([0, 1], torch.tensor([texts[1][-2], 7])), strict=True):
        text = text[:-1] if text is texts[1] else [*text, 7]
        assert torch.allclose(logits, expected(text), atol=1e-4)
    decoder.forget(1)
    assert torch.allclose(decoder.read([1], [texts[3]])[0], expected(texts[3]), atol=1e-4)
    last = decoder.step([1, 0], torch.tensor([5, texts[1][-1]]))
    assert torch.allclose(last[0], expected([*texts[3], 5]), atol=1e-4)
    assert torch.allclose(last[1], expected(texts[1]), atol=1e-4)
    for slot in range(3):
        decoder.forget(slot)
    assert not decoder.lengths.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_slot_has_the_same_logits_bit_for_bit_in_any_company_and_pieces(described, dtype):
    texts = [torch.randint(0, 40, (length,)).tolist() for length in (50, 3, 7, 1, 22, 19)]
    family = describe(described, dtype)
    alone = Decoder(family, 1)
    logits = [alone.read([0], [texts[0][:1]])[0].clone()]
    logits += [alone.step([0], torch.tensor([token]))[0].clone() for token in texts[0][1:]]
    together = Decoder(family, 6)
    whole = together.read([3, 0, 1, 2, 4, 5], texts)[0].clone()
    assert torch.equal(whole, logits[-1])
    together.forget(3)
    for at, token in enumerate(texts[0]):
        both = together.step([1, 3], torch.tensor([5, token]))
        assert torch.equal(both[1], logits[at])


def test_the_number_of_threads_changes_no_logit(described):
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(Decoder(describe(described, torch.bfloat16), 1).read([0], [list(range(40))]).clone())
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def rows_read(monkeypatch):
    """How many tokens each call of the compiled pass gets."""
    counts, decode = [], decoding.decode

    def counted(model, batch, dtype):
        counts.append(batch.rows)
        decode(model, batch, dtype)

    monkeypatch.setattr(decoding, "decode", counted)
    return counts


def test_a_beginning_that_prompts_share_is_read_once(described, monkeypatch):
    torch.manual_seed(1)
    system = torch.randint(3, 40, (20,)).tolist()
    prompts = [[*system, *torch.randint(3, 40, (number % 5 + 1,)).tolist()] for number in range(6)] * 4
    alone = sample(described, prompts, batch_size=1)
    counts = rows_read(monkeypatch)
    assert sample(described, prompts) == alone
    assert (
        sum(counts[:3]) <= 25 + 5 * 6 + 18
    )  # the first one, five ends of others, a token of each repetition


@torch.no_grad()
def test_a_slot_begins_with_what_a_forgotten_one_held(described, monkeypatch):
    monkeypatch.setattr("rlhf.sampling.decoder.REMEMBERED", 100)
    decoder = decoder_for(described, 3)
    texts = [torch.randint(0, 40, (50,)).tolist() for _ in range(3)]
    for slot, text in enumerate(texts):
        decoder.read([slot], [text])
    decoder.forget(1)
    longer = [*texts[1], 5, 6]
    assert decoder.recall(1, longer) == 50
    assert torch.allclose(
        decoder.read([1], [longer[50:]])[0], described(torch.tensor([longer])).logits[0, -1], atol=1e-4
    )
    for slot in (1, 0, 2):
        decoder.forget(slot)
    assert decoder.recall(1, [*texts[0][:30], 1, 2]) >= 30
    last = described(torch.tensor([[*texts[0][:30], 1, 2]])).logits[0, -1]
    assert torch.allclose(
        decoder.read([1], [[1, 2]] if decoder.lengths[1] == 30 else [[2]])[0], last, atol=1e-4
    )
    decoder.forget(1)
    assert decoder.recall(0, texts[1][:15] + [39] * 20) == 0  # too little in common
    assert sum(pair is not None for pair in decoder.storage) == 2 and decoder.known.sum() <= 100


def test_packed_weights_give_the_logits_of_weights_rounded_to_127_steps_a_row(described):
    """A slow obvious version: every product's weights rounded by torch, then the model's own decoder."""
    text = torch.randint(0, 40, (1, 30))[0].tolist()
    packed = Decoder(describe(described, torch.float32, packed=True), 1).read([0], [text])[0].clone()
    bare = copy.deepcopy(described)
    bare = bare.merge_and_unload() if hasattr(bare, "merge_and_unload") else bare
    head = bare.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.detach().clone())  # the embedding stays as it is
    with torch.no_grad():
        for layer in bare.modules():
            if type(layer) in (torch.nn.Linear, Conv1D):
                outputs = 1 if type(layer) is Conv1D else 0
                step = layer.weight.abs().amax(1 - outputs, keepdim=True) / 127
                layer.weight.copy_((layer.weight / step).round() * step)
        assert torch.allclose(packed, bare(input_ids=torch.tensor([text])).logits[0, -1], atol=2e-3)


def test_weights_in_bfloat16_are_decoded_as_near_as_they_are_computed():
    model = like_llama(initializer_range=0.3).bfloat16()
    assert is_described(model)
    rollout = Rollout.from_samples(PROMPTS, sample(model, max_new_tokens=40), 2, 1)
    with torch.no_grad():
        gap = (completion_logprobs(model, rollout) - rollout.logprobs).abs()
    assert gap.max() < 0.3 and gap.mean() < 0.03  # of logits up to 10, rounded to 8 bits at every product


@pytest.mark.parametrize(
    "make",
    [
        lambda: like_llama(GraniteConfig, logits_scaling=2.0),
        lambda: like_llama(hidden_act="tanh"),
        lambda: like_llama(head_dim=8),
        lambda: like_llama().half(),
        lambda: with_lora(like_llama(), use_dora=True),
        lambda: like_llama(rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}),
        lambda: like_llama(CohereConfig),
        lambda: build("gpt"),
    ],
)
def test_what_the_decoder_would_compute_otherwise_is_left_to_the_model(make):
    assert not is_described(make())


def test_rows_that_end_make_room_for_the_next_prompts_and_change_nothing(described):
    prompts = [torch.randint(3, 40, (1 + number % 7,)).tolist() for number in range(40)]
    alone = [sample(described, prompts, batch_size=1, max_new_tokens=20)]
    for batch_size in (3, 8, 64):
        assert sample(described, prompts, batch_size=batch_size, max_new_tokens=20) == alone[0]


def test_adapters_are_sampled_with():
    model = build("gpt")
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora" in name:
                parameter.normal_(std=0.3)
    samples = sample(adapted, max_new_tokens=40)
    rollout = Rollout.from_samples(PROMPTS, samples, 2, 1)
    with torch.no_grad():
        ratio = (completion_logprobs(adapted, rollout) - rollout.logprobs).exp()
        with adapted.disable_adapter():
            bare = completion_logprobs(adapted, rollout)
    assert (ratio[rollout.mask] - 1).abs().max() < 1e-4
    assert (bare - rollout.logprobs).abs().max() > 0.1


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


@pytest.mark.parametrize("token", [40, -1, 50_000_000])
def test_a_token_that_the_model_has_not_is_refused_and_never_read(token):
    model, settings = build("llama"), SamplingSettings(max_new_tokens=2)
    said = f"has token {token}; the model has tokens 0 to 39"
    with pytest.raises(InputError, match=f"prompt 2 {said}"):
        generate(model, [[5], [6, token]], settings, stop_ids=STOP, seed=0)
    decoder = decoder_for(model, 1)
    assert isinstance(decoder, Decoder)
    wanted = decoder.read([0], [[5, 6]]).clone()
    decoder.forget(0)
    with pytest.raises(InputError, match=said):
        decoder.read([0], [[5, token]])
    assert not decoder.lengths.any() and torch.equal(decoder.read([0], [[5, 6]]), wanted)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("place", [2, 20])  # within what a model is tried on before, and beyond
@pytest.mark.parametrize("make", [GPT, GPT2LMHeadModel])
def test_logits_that_are_no_numbers_draw_no_token(make, place, temperature):
    model = make(GPT2Config(vocab_size=50, n_layer=1, n_head=2, n_embd=16, n_positions=32))
    model.transformer.wpe.weight.data[place] = float("nan")
    settings = SamplingSettings(max_new_tokens=28, temperature=temperature)
    rows = [[1, 2], [3, 4]]
    with pytest.raises(InputError, match="logits are no numbers"):
        generate(model, rows, settings, stop_ids=frozenset(), seed=0)
