"""A big model on a small machine: memory and time of what saves memory, each in a process of its own.

python -m examples.small_machine [--layers 12 --width 768]      (GPT-2's size)
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

import torch
from transformers import GPT2Config

from examples import results
from rlhf.learning.head import token_logprobs
from rlhf.learning.optimizers import adamw
from rlhf.machine.memory import peak_mib, reset_peak
from rlhf.models.adapters import with_adapters
from rlhf.models.checkpoints import load_policy
from rlhf.models.gpt import GPT
from rlhf.models.last_blocks import freeze_lower
from rlhf.models.offload import load_offloaded
from rlhf.models.recompute import blocks_run_again
from rlhf.sampling.decoder import decoder_for
from rlhf.serving.precision import cast

ROOT = Path(__file__).parents[1]
ENDS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
# Blocks that learn (0: all), adapters' rank, recomputation, micro-batches, bfloat16 products.
TRAINING = {
    "all weights": (0, 0, False, 1, False),
    "in four micro-batches": (0, 0, False, 4, False),
    "blocks computed again": (0, 0, True, 1, False),
    "bfloat16 products": (0, 0, False, 1, True),
    "the last two blocks": (2, 0, False, 1, False),
    "LoRA of rank 8": (0, 8, False, 1, False),
    "LoRA, blocks again, micro-batches": (0, 8, True, 4, False),
}
ANSWERING = ("float32", "bfloat16", "int8", "blocks from the disk")


def train(folder, way, given):
    """Two steps of AdamW; the second is timed."""
    last_blocks, rank, again, parts, half = TRAINING[way]
    model = load_policy(folder).train()
    if last_blocks:
        freeze_lower(model, last_blocks)
    if rank:
        model = with_adapters(model, rank)
    optimizer = adamw(model.parameters(), 1e-4)
    bare = model.get_base_model() if rank else model
    rows = torch.randint(1, given.vocabulary, (given.batch, given.length + 1))
    for _ in range(2):
        started = time.perf_counter()
        for part in rows.chunk(parts):
            again_or_not = blocks_run_again([bare]) if again else nullcontext()
            with again_or_not, torch.autocast("cpu", torch.bfloat16, enabled=half):
                hidden = bare.transformer(part[:, :-1]).last_hidden_state.flatten(0, 1)
                loss = -token_logprobs(hidden, bare.lm_head.weight, part[:, 1:].flatten()).sum()
            (loss / rows[:, 1:].numel()).backward()
        optimizer.step(max_grad_norm=1.0)
    return time.perf_counter() - started


@torch.no_grad()
def answer(folder, way, given):
    """Seconds of `given.new` greedy tokens after a prompt of eight."""
    offloaded = way == "blocks from the disk"
    model, packed = (load_offloaded(folder), False) if offloaded else cast(load_policy(folder), way)
    decoder = decoder_for(model, 1, packed)
    started = time.perf_counter()
    logits = decoder.read([0], [list(range(1, 9))])
    for _ in range(given.new):
        logits = decoder.step([0], logits.argmax(-1))
    return time.perf_counter() - started


def measured(kind, way, folder, given):
    """Seconds and the most memory, in a process that does nothing else; None with the reason where it cannot."""
    sizes = [
        "--batch",
        given.batch,
        "--length",
        given.length,
        "--new",
        given.new,
        "--vocabulary",
        given.vocabulary,
    ]
    command = [sys.executable, "-m", "examples.small_machine", "--side", kind, way, folder, *map(str, sizes)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        return {"way": way, "failed": done.stderr.strip().splitlines()[-1]}
    return {"way": way, **json.loads(done.stdout.strip().splitlines()[-1])}


def side(arguments):
    """The process of one way: prints its numbers."""
    asked = argparse.ArgumentParser()
    asked.add_argument("--side", nargs=3)
    for name in ("batch", "length", "new", "vocabulary"):
        asked.add_argument(f"--{name}", type=int)
    given = asked.parse_args(arguments)
    kind, way, folder = given.side
    torch.manual_seed(0)
    reset_peak()
    seconds = {"train": train, "answer": answer}[kind](folder, way, given)
    print(json.dumps({"seconds": seconds, "peak_mib": peak_mib()}))


def run(given):
    """A random model of the size asked for, trained and asked in every way."""
    config = GPT2Config(
        vocab_size=given.vocabulary, n_layer=given.layers, n_embd=given.width, n_head=max(1, given.width // 64),
        embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0, **ENDS,
    )  # fmt: skip
    torch.manual_seed(0)
    model = GPT(config)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        found = {"weights": model.num_parameters(), "checkpoint_mib": 4 * model.num_parameters() / 2**20}
        del model
        found["training"] = [measured("train", way, folder, given) for way in TRAINING]
        found["answering"] = [measured("answer", way, folder, given) for way in ANSWERING]
    return found


if __name__ == "__main__":
    if "--side" in sys.argv:
        side(sys.argv[1:])
    else:
        results.main(
            "small-machine", __doc__, run,
            layers=12, width=768, vocabulary=50_257, batch=8, length=128, new=16,
        )  # fmt: skip
