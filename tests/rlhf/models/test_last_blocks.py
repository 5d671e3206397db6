"""Training the last blocks: what is frozen, and that a shared lower part changes no number; on six makes of model."""

import copy
import gc
import sys
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoConfig,
    LlamaConfig,
    Qwen2Config,
)

from rlhf.errors import InputError
from rlhf.learning.passes import completion_logprobs, completion_scores, completion_values
from rlhf.learning.rollout import Rollout
from rlhf.models.adapters import copy_sharing_frozen
from rlhf.models.checkpoints import load_policy, load_scalar, scalar_from_policy
from rlhf.models.gpt import GPT
from rlhf.models.last_blocks import freeze_lower
from rlhf.sampling.generate import Sample

SIZES = {
    "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
}  # fmt: skip
CONFIGS = {
    "gpt2": GPT2Config(
        vocab_size=60, n_embd=32, n_layer=4, n_head=4, n_positions=64, bos_token_id=None, eos_token_id=None
    ),
    "llama": LlamaConfig(**SIZES, tie_word_embeddings=False),
    "qwen": Qwen2Config(**SIZES, tie_word_embeddings=True),
    "gemma": Gemma3TextConfig(
        **SIZES, head_dim=8, query_pre_attn_scalar=8, sliding_window=4,
        layer_types=["sliding_attention", "full_attention"] * 2,
    ),
    "bloom": BloomConfig(vocab_size=60, hidden_size=32, n_layer=4, n_head=4, bos_token_id=None, eos_token_id=None, pad_token_id=None),
    "gpt_neo": GPTNeoConfig(
        vocab_size=60, hidden_size=32, num_layers=4, num_heads=4, attention_types=[[["global", "local"], 2]], window_size=4,
        max_position_embeddings=64, bos_token_id=None, eos_token_id=None,
    ),
}  # fmt: skip
BLOCK = dict.fromkeys(CONFIGS, "layers.") | dict.fromkeys(("gpt2", "bloom", "gpt_neo"), "h.")


@pytest.fixture(params=CONFIGS)
def kind(request):
    return request.param


def causal(kind):
    torch.manual_seed(0)
    config = copy.deepcopy(CONFIGS[kind])
    return (GPT(config) if kind == "gpt2" else AutoModelForCausalLM.from_config(config)).eval()


def scalar(kind):
    torch.manual_seed(1)
    return scalar_from_policy(causal(kind))


def rollout():
    generator = torch.Generator().manual_seed(2)
    rows = [torch.randint(1, 60, (n,), generator=generator).tolist() for n in (9, 3, 6, 1)]
    said = [torch.randint(1, 60, (n,), generator=generator).tolist() for n in (2, 7, 4, 1)]
    return Rollout.from_samples(rows, [Sample(x, [0.0] * len(x), True) for x in said], pad_id=0, round_to=8)


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_only_the_last_blocks_and_what_follows_them_learn(kind):
    model = causal(kind)
    lower = freeze_lower(model, 1)
    learns = {name for name, p in model.base_model.named_parameters() if p.requires_grad}
    norm = "ln_f." if BLOCK[kind] == "h." else "norm."
    assert learns == {
        n for n, _ in model.base_model.named_parameters() if n.startswith((BLOCK[kind] + "3.", norm))
    }
    assert set(lower.parameters) == {n for n, _ in model.base_model.named_parameters()} - learns
    # A head that is the embedding lies in the lower part; one of its own learns.
    assert model.get_output_embeddings().weight.requires_grad == (kind == "llama")


@pytest.mark.parametrize("head", ["policy", "value", "reward"])
def test_known_states_of_the_lower_part_change_neither_loss_nor_gradient(kind, head):
    """The oracle is the whole pass of an untouched model with its lower parameters' requires_grad switched off."""
    make, work = {
        "policy": (causal, completion_logprobs), "value": (scalar, completion_values), "reward": (scalar, completion_scores),
    }[head]  # fmt: skip
    plain, cut, given = make(kind), make(kind), rollout()
    lower = freeze_lower(cut, 2)
    for name, parameter in plain.base_model.named_parameters():
        parameter.requires_grad_(name not in lower.parameters)
    states = lower.states(cut, given.tokens, given.attention_mask)
    shared = Rollout(**{**vars(given), "lower": lower, "states": states})
    weights = torch.randn(work(plain, given).shape, generator=torch.Generator().manual_seed(3))
    one, other = (work(plain, given) * weights).sum(), (work(cut, shared) * weights).sum()
    one.backward()
    other.backward()
    torch.testing.assert_close(other, one, atol=1e-5, rtol=1e-5)
    wanted, found = gradients(plain), gradients(cut)
    assert wanted.keys() == found.keys() and len(found) > 8
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], atol=1e-5, rtol=1e-5)


def test_rows_of_a_rollout_keep_their_states(kind):
    model, given = causal(kind), rollout()
    lower = freeze_lower(model, 2)
    states = lower.states(model, given.tokens, given.attention_mask)
    part = Rollout(**{**vars(given), "lower": lower, "states": states}).select([3, 1])
    assert part.states.shape == (2, 16, 32)
    with torch.no_grad():
        for name, parameter in lower.parameters.items():
            if name.startswith(BLOCK[kind]):
                parameter.zero_()  # what these blocks compute is known and must not be asked for again
    torch.testing.assert_close(
        completion_logprobs(model, part), completion_logprobs(causal(kind), given.select([3, 1])), atol=1e-5, rtol=1e-5
    )  # fmt: skip


def test_a_model_whose_lower_part_is_equal_shares_it_and_another_does_not(kind):
    policy, value, other = causal(kind), scalar(kind), scalar(kind)
    lower = freeze_lower(policy, 2)
    assert not lower.is_of(value)
    before = completion_values(value, rollout())
    assert lower.share_with(value, policy) and lower.is_of(value)
    assert torch.equal(completion_values(value, rollout()), before)
    with torch.no_grad():
        next(p for n, p in other.base_model.named_parameters() if n in lower.parameters and "1" in n).view(
            -1
        )[0] += 1e-6
    assert not lower.share_with(other, policy) and not lower.is_of(other)
    assert not any(lower.share_with(scalar(name), policy) for name in CONFIGS if name != kind)


@pytest.mark.skipif(sys.platform != "linux", reason="which files are mapped is read from /proc")
def test_a_model_that_shares_another_lower_part_leaves_the_file_that_it_came_from(kind, tmp_path):
    """Mapped pages that were read count as held memory, and one weight in them holds all."""
    causal(kind).save_pretrained(tmp_path / "policy")
    scalar(kind).save_pretrained(tmp_path / "reward")
    policy, reward = load_policy(tmp_path / "policy"), load_scalar(tmp_path / "reward")
    before = completion_values(reward, rollout()).detach()  # a graph would hold the weights
    assert f"{tmp_path}/reward" in Path("/proc/self/maps").read_text()
    assert freeze_lower(policy, 2).share_with(reward, policy)
    gc.collect()
    assert f"{tmp_path}/reward" not in Path("/proc/self/maps").read_text()
    # Memory that begins elsewhere may be added up in another order.
    torch.testing.assert_close(completion_values(reward, rollout()), before, atol=1e-6, rtol=1e-5)


def test_a_copy_shares_the_lower_part_and_nothing_else(kind):
    policy = causal(kind)
    lower = freeze_lower(policy, 2)
    reference = copy_sharing_frozen(policy, [policy])
    assert (
        lower.is_of(reference)
        and policy.get_input_embeddings().weight is reference.get_input_embeddings().weight
    )
    upper = {id(p) for p in policy.parameters() if p.requires_grad}
    assert upper and not upper & {id(p) for p in reference.parameters()}
    if kind != "llama":
        assert reference.get_output_embeddings().weight is reference.get_input_embeddings().weight


@pytest.mark.parametrize("last_blocks", [-1, 4, 9])
def test_more_blocks_than_there_are_is_refused(last_blocks):
    with pytest.raises(InputError, match="the model has 4 blocks; choose 1 to 3"):
        freeze_lower(causal("llama"), last_blocks)


def test_a_model_whose_blocks_hand_on_something_else_is_refused():
    model, seen = causal("llama"), []
    model.model.layers[0].register_forward_hook(lambda module, args, output: seen.append(output))
    model.model.layers[3].register_forward_hook(lambda module, args, output: output + 0.1 * seen[-1])
    with pytest.raises(InputError, match="cannot be cut between two blocks"):
        freeze_lower(model, 2)
