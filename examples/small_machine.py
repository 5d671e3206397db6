"""A big model on a small machine: memory and time of what saves memory, each in a process of its own.

python -m examples.small_machine [--layers 12 --width 768] [--model FOLDER]      (GPT-2's size; a model of your own beside it)

Rows by torchao say so where it is missing: pip install 'rlhf-loop[torchao]'.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from torch import nn
from transformers import AutoConfig, GPT2Config
from transformers.pytorch_utils import Conv1D

from examples import results
from rlhf.errors import InputError
from rlhf.learning.head import token_logprobs
from rlhf.learning.optimizers import Optimizers, adamw
from rlhf.machine.memory import peak_mib, reset_peak
from rlhf.models.adapters import with_adapters
from rlhf.models.checkpoints import load_policy
from rlhf.models.gpt import GPT
from rlhf.models.last_blocks import freeze_lower
from rlhf.models.offload import load_offloaded
from rlhf.models.recompute import blocks_run_again
from rlhf.models.trunk import trunk_states
from rlhf.sampling.decoder import decoder_for
from rlhf.sampling.model_decoder import CacheUse, ModelDecoder
from rlhf.serving.precision import cast

ROOT = Path(__file__).parents[1]
SIZES = ("batch", "length", "new")
ENDS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}


class Way(NamedTuple):
    """What a way of training saves by."""

    last_blocks: int = 0  # the only ones that learn; 0: all weights do
    rank: int = 0  # of adapters, the only ones that learn; 0: none
    again: bool = False  # blocks are computed again for the gradient
    parts: int = 1  # micro-batches of a step
    half: bool = False  # products in bfloat16
    eight_bits: bool = False  # of optimizer state a value


TRAINING = {
    "all weights": Way(),
    "in four micro-batches": Way(parts=4),
    "blocks computed again": Way(again=True),
    "bfloat16 products": Way(half=True),
    "optimizer state of 8 bits (torchao)": Way(eight_bits=True),
    "8 bits, blocks again, micro-batches": Way(eight_bits=True, again=True, parts=4),
    "the last two blocks": Way(last_blocks=2),
    "LoRA of rank 8": Way(rank=8),
    "LoRA, blocks again, micro-batches": Way(rank=8, again=True, parts=4),
}
ANSWERING = ("float32", "bfloat16", "int8", "int4 (torchao)", "blocks from the disk")


def train(folder, name, given):
    """Two steps of AdamW; the second is timed."""
    way, model = TRAINING[name], load_policy(folder).train()
    if way.last_blocks:
        freeze_lower(model, way.last_blocks)
    if way.rank:
        model = with_adapters(model, way.rank)
    optimizer = optimizer_of(model, way.eight_bits)
    bare = model.get_base_model() if way.rank else model
    rows = torch.randint(1, bare.config.vocab_size, (given.batch, given.length + 1))
    for _ in range(2):
        started = time.perf_counter()
        for part in rows.chunk(way.parts):
            again_or_not = blocks_run_again([bare]) if way.again else nullcontext()
            with again_or_not, torch.autocast("cpu", torch.bfloat16, enabled=way.half):
                hidden = trunk_states(bare, part[:, :-1], torch.ones_like(part[:, :-1])).flatten(0, 1)
                loss = -token_logprobs(hidden, bare.lm_head.weight, part[:, 1:].flatten()).sum()
            (loss / rows[:, 1:].numel()).backward()
        optimizer.step(max_grad_norm=1.0)
    return time.perf_counter() - started


def optimizer_of(model, eight_bits):
    """AdamW over what learns, its two moments in float32 or in blocks of 8 bits (Dettmers et al. 2022)."""
    if not eight_bits:
        return adamw(model.parameters(), 1e-4)
    from torchao.optim import AdamW8bit

    learning = [weight for weight in model.parameters() if weight.requires_grad]
    return Optimizers(AdamW8bit(learning, lr=1e-4, weight_decay=0.0))


def in_four_bits(model):
    """The blocks' matrices in 4 bits, a scale for every 32 weights; embeddings and head in bfloat16."""
    from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig
    from torchao.quantization import quantize_

    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, Conv1D):  # torchao knows linear layers only
                setattr(module, name, as_linear(child))
    quantize_(
        model,
        PrototypeInt4WeightOnlyConfig(group_size=32),
        lambda module, name: isinstance(module, nn.Linear) and "lm_head" not in name,
    )
    return model


def as_linear(layer):
    """A linear layer that computes what a Conv1D does."""
    inputs, outputs = layer.weight.shape
    linear = nn.Linear(inputs, outputs, device="meta")
    linear.weight, linear.bias = nn.Parameter(layer.weight.detach().T.contiguous()), layer.bias
    return linear


def decoder_of(folder, name):
    """What answers in that way."""
    if name == "blocks from the disk":
        return decoder_for(load_offloaded(folder), 1)
    if name.startswith("int4"):
        return ModelDecoder(in_four_bits(load_policy(folder, torch.bfloat16)), CacheUse())
    model, packed = cast(load_policy(folder), name)
    return decoder_for(model, 1, packed)


@torch.no_grad()
def answer(folder, name, given):
    """Seconds of `given.new` greedy tokens after a prompt of eight."""
    decoder = decoder_of(folder, name)
    started = time.perf_counter()
    logits = decoder.read([0], [list(range(1, 9))])
    for _ in range(given.new):
        logits = decoder.step([0], logits.argmax(-1))
    return time.perf_counter() - started


def measured(kind, way, folder, given):
    """Seconds and the most memory, in a process that does nothing else; None with the reason where it cannot."""
    sizes = [word for size in SIZES for word in (f"--{size}", getattr(given, size))]
    command = [sys.executable, "-m", "examples.small_machine", "--side", kind, way, folder, *map(str, sizes)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        return {"way": way, "failed": done.stderr.strip().splitlines()[-1]}
    return {"way": way, **json.loads(done.stdout.strip().splitlines()[-1])}


def side(arguments):
    """The process of one way: prints its numbers."""
    asked = argparse.ArgumentParser()
    asked.add_argument("--side", nargs=3)
    for name in SIZES:
        asked.add_argument(f"--{name}", type=int)
    given = asked.parse_args(arguments)
    kind, way, folder = given.side
    torch.manual_seed(0)
    reset_peak()
    seconds = {"train": train, "answer": answer}[kind](folder, way, given)
    print(json.dumps({"seconds": seconds, "peak_mib": peak_mib()}))


def random_model(given):
    """A GPT of the size asked for, with random weights."""
    torch.manual_seed(0)
    return GPT(
        GPT2Config(
            vocab_size=given.vocabulary, n_layer=given.layers, n_embd=given.width, n_head=max(1, given.width // 64),
            embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0, **ENDS,
        )
    )  # fmt: skip


def num_weights(folder):
    """How many numbers a checkpoint stores."""
    count = 0
    for path in Path(folder).glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            names = file.keys()
            count += sum(math.prod(file.get_slice(name).get_shape()) for name in names)
    return count


def all_ways(folder, given):
    """A checkpoint trained and asked in every way."""
    files = Path(folder).glob("*.safetensors")
    return {
        "kind": AutoConfig.from_pretrained(folder).model_type,
        "weights": num_weights(folder),
        "checkpoint_mib": sum(file.stat().st_size for file in files) / 2**20,
        "training": [measured("train", way, folder, given) for way in TRAINING],
        "answering": [measured("answer", way, folder, given) for way in ANSWERING],
    }


def run(given):
    """A random model of the size asked for, and the reader's own."""
    if given.model and not num_weights(given.model):
        raise InputError(
            f"{given.model}: no *.safetensors there; --model is a folder with a model, such as store/base/0001-gemma"
        )
    with tempfile.TemporaryDirectory() as folder:
        random_model(given).save_pretrained(folder)
        found = {"a GPT of random weights": all_ways(folder, given)}
    if given.model:
        found[f"the model {Path(given.model).resolve().name}"] = all_ways(given.model, given)
    return found


if __name__ == "__main__":
    if "--side" in sys.argv:
        side(sys.argv[1:])
    else:
        results.main(
            "small-machine", __doc__, run,
            layers=12, width=768, vocabulary=50_257, batch=8, length=128, new=16, model="",
        )  # fmt: skip
