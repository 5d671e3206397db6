"""Blocks streamed from their files: the tokens of the model in memory, under a limit that the whole model exceeds."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config

from rlhf.errors import InputError
from rlhf.models.checkpoints import load_policy
from rlhf.models.gpt import GPT
from rlhf.models.offload import load_offloaded
from rlhf.sampling.generate import SamplingSettings, generate
from tests.slow.tiny_architectures import tiny_model
from tests.stages.conftest import foreign_model  # noqa: F401

ENDS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
SMALL = {"vocab_size": 60, "n_embd": 32, "n_layer": 2, "n_head": 2, **ENDS}


def tokens_of(model, prompts=((5, 6, 7), (9,))):
    settings = SamplingSettings(max_new_tokens=8, temperature=1.0)
    found = generate(model, [list(p) for p in prompts], settings, stop_ids=frozenset({0}), seed=1)
    return [sample.tokens for sample in found]


def test_our_gpt_streams_to_the_same_tokens(tmp_path):
    torch.manual_seed(0)
    GPT(GPT2Config(vocab_size=60, n_embd=32, n_layer=3, n_head=2, n_positions=32, **ENDS)).save_pretrained(
        tmp_path
    )
    model = load_offloaded(tmp_path)
    assert tokens_of(model) == tokens_of(load_policy(tmp_path))
    assert all(parameter.is_meta for parameter in model.transformer.h.parameters())  # nothing stays behind


def test_models_of_other_makes_stream_to_the_same_tokens(foreign_model):  # noqa: F811
    assert tokens_of(load_offloaded(foreign_model)) == tokens_of(load_policy(foreign_model))


def test_files_in_parts_and_published_names_are_read(tmp_path):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        GPT2Config(vocab_size=60, n_embd=32, n_layer=3, n_head=2, **ENDS)
    )
    model.save_pretrained(tmp_path / "parts", max_shard_size="30KB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 2
    model.transformer.save_pretrained(tmp_path / "trunk")  # as the published GPT-2 is: no prefix, no head
    wanted = tokens_of(load_policy(tmp_path / "parts"))
    assert (
        tokens_of(load_offloaded(tmp_path / "parts"))
        == wanted
        == tokens_of(load_offloaded(tmp_path / "trunk"))
    )


@torch.no_grad()
@pytest.mark.parametrize(
    "name", ["gemma4_text", "rwkv", "mamba"]
)  # weights that are buffers, and two kinds of states
def test_families_stream_to_the_numbers_of_the_model_in_memory(name, tmp_path):
    model = tiny_model(name)
    for key, buffer in model.named_buffers():
        if key in model.state_dict():
            buffer.uniform_(0.2, 1.0)
    model.save_pretrained(tmp_path)
    settings, prompts = SamplingSettings(max_new_tokens=8, temperature=0.0), [[5, 6, 7, 8, 9], [40, 41]]
    drawn = [
        generate(load(tmp_path), prompts, settings, stop_ids=frozenset(), seed=0)
        for load in (load_policy, load_offloaded)
    ]
    for one, other in zip(*drawn, strict=True):
        assert one.tokens == other.tokens and one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def as_int8(weights):
    save_file({name: weight.to(torch.int8) for name, weight in load_file(weights).items()}, weights)


DAMAGES = {
    "cut": (lambda weights: weights.write_bytes(weights.read_bytes()[:-5000]), "no whole safetensors file: it ends before"),
    "a pointer": (lambda weights: weights.write_text("version https://git-lfs.github.com"), "no whole safetensors file"),
    "nothing": (lambda weights: weights.write_bytes(b""), "no whole safetensors file"),
    "another shape": (
        lambda weights: GPT(GPT2Config(**SMALL | {"n_embd": 16})).save_pretrained(weights.parent / "b")
        or (weights.parent / "b" / weights.name).replace(weights), r"is \(60, 16\), and \(60, 32\) in the model",
    ),
    "of whole numbers": (as_int8, "is I8; only float weights can be streamed"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_not_streamed(damage, tmp_path):
    GPT(GPT2Config(**SMALL)).save_pretrained(tmp_path)
    damaging, said = DAMAGES[damage]
    damaging(tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=said) as refused:
        load_offloaded(tmp_path)
    assert str(tmp_path) in str(refused.value) and "\n" not in str(refused.value)


def test_weights_that_only_loading_puts_together_are_refused_with_that_reason(tmp_path):
    tiny_model("gpt_neox").save_pretrained(tmp_path)
    with pytest.raises(
        InputError, match=r"under another name or in parts, .* a gpt_neox that is loaded as a whole"
    ):
        load_offloaded(tmp_path)


def test_what_cannot_be_streamed_is_one_clear_line(tmp_path):
    with pytest.raises(InputError, match="safetensors files of a folder only"):
        load_offloaded(tmp_path)
    GPT(GPT2Config(vocab_size=60, n_embd=32, n_layer=3, n_head=2, **ENDS)).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "n_layer": 4}))
    with pytest.raises(InputError, match=r"h\.3\..* is not in its files"):
        load_offloaded(tmp_path)


UNDER_A_LIMIT = """
import resource, sys, torch
from rlhf import errors
from rlhf.models import checkpoints, offload
from rlhf.sampling.generate import SamplingSettings, generate
torch.set_num_threads(1)
held = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData")) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (held + 80 * 2**20,) * 2)
try:
    checkpoints.load_policy(sys.argv[1])
    print("the whole model fits")
except (errors.InputError, MemoryError):  # for want of memory
    model = offload.load_offloaded(sys.argv[1])
    settings = SamplingSettings(max_new_tokens=4, temperature=0.0)
    print(generate(model, [[5, 6, 7]], settings, stop_ids=frozenset(), seed=0)[0].tokens)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_a_model_larger_than_the_memory_allowed_generates_token_for_token(tmp_path):
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=200, n_embd=512, n_layer=12, n_head=8, n_positions=32, **ENDS)
    model = GPT(config)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").stat().st_size > 140 * 2**20
    settings = SamplingSettings(max_new_tokens=4, temperature=0.0)
    wanted = generate(model, [[5, 6, 7]], settings, stop_ids=frozenset(), seed=0)[0].tokens
    done = subprocess.run(
        [sys.executable, "-c", UNDER_A_LIMIT, str(tmp_path)], capture_output=True, text=True
    )
    assert done.stdout.strip() == str(wanted), done.stderr[-2000:]
