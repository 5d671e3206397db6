"""Blocks streamed from their files: the tokens of the model in memory, under a limit that the whole model exceeds."""

import json
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config

from rlhf.errors import InputError
from rlhf.models.checkpoints import load_policy
from rlhf.models.gpt import GPT
from rlhf.models.offload import load_offloaded
from rlhf.sampling.generate import SamplingSettings, generate
from tests.stages.conftest import foreign_model  # noqa: F401

ENDS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}


def tokens_of(model, prompts=((5, 6, 7), (9,))):
    settings = SamplingSettings(max_new_tokens=8, temperature=1.0)
    found = generate(model, [list(p) for p in prompts], settings, stop_ids=frozenset({0}), pad_id=0, seed=1)
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
from rlhf.models import checkpoints, offload
from rlhf.sampling.generate import SamplingSettings, generate
torch.set_num_threads(1)
held = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData")) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (held + 80 * 2**20,) * 2)
try:
    checkpoints.load_policy(sys.argv[1])
    print("the whole model fits")
except (RuntimeError, MemoryError):
    model = offload.load_offloaded(sys.argv[1])
    settings = SamplingSettings(max_new_tokens=4, temperature=0.0)
    print(generate(model, [[5, 6, 7]], settings, stop_ids=frozenset(), pad_id=0, seed=0)[0].tokens)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_a_model_larger_than_the_memory_allowed_generates_token_for_token(tmp_path):
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=200, n_embd=512, n_layer=12, n_head=8, n_positions=32, **ENDS)
    model = GPT(config)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").stat().st_size > 140 * 2**20
    settings = SamplingSettings(max_new_tokens=4, temperature=0.0)
    wanted = generate(model, [[5, 6, 7]], settings, stop_ids=frozenset(), pad_id=0, seed=0)[0].tokens
    done = subprocess.run(
        [sys.executable, "-c", UNDER_A_LIMIT, str(tmp_path)], capture_output=True, text=True
    )
    assert done.stdout.strip() == str(wanted), done.stderr[-2000:]
