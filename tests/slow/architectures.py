"""What this project does with every causal architecture of transformers, tried at a tiny size.

`python -m tests.slow.architectures` writes docs/architectures.md anew; with names only their rows.
"""

import math
import re
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

from rlhf.errors import InputError
from rlhf.learning.passes import text_logprobs
from rlhf.models.adapters import save_plain, with_adapters
from rlhf.models.checkpoints import load_policy, load_scalar
from rlhf.models.trunk import accepted
from rlhf.sampling.decoder import is_described
from rlhf.sampling.trial import cache_use, check_causal, check_trainable
from stages.ppo.trainer import PPOTrainer
from tests.slow.tiny_architectures import NAMES, tiny_config, tiny_model
from tests.tiny_ppo import PROMPTS, TOKENIZER, config, count_e, quiet

DOC = Path(__file__).parents[2] / "docs" / "architectures.md"
COLUMNS = (
    "SFT", "value model", "sampled by", "sampling = training", "PPO step", "saved and loaded", "adapters",
)  # fmt: skip


def tried(name):
    """For each of COLUMNS yes, or the reason of the refusal, or the error."""
    found = stages_tried(name)
    return found | {"adapters": adapters_tried(name) if found["SFT"] == "yes" else ""}


def adapters_tried(name):
    """Whether adapters learn, and merged, saved and loaded are what they were; else why not."""
    try:
        model = with_adapters(tiny_model(name), 2)
        check_trainable(model)
        model.eval()  # without dropout
        rows = torch.tensor([TOKENIZER.encode(" ".join(PROMPTS))[:24]] * 2)
        optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=0.05)
        before = whole_logits(model, rows).detach()
        for _ in range(3):
            (-text_logprobs(model, rows).mean()).backward()
            optimizer.step()
            optimizer.zero_grad()
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            save_plain(model, Path(folder))
            learned, loaded = whole_logits(model, rows), whole_logits(load_policy(folder), rows)
        assert not torch.allclose(learned, before, atol=1e-3), "nothing was learned"
        assert torch.allclose(loaded, learned, atol=1e-4), "another model was saved"
        return "yes"
    except InputError as refused:
        return re.sub(r"/\S*: ", "", f"refused: {refused}", count=1)  # without the folder
    except Exception as error:
        return f"fails: {said(error)}"


def stages_tried(name):
    """What `tried` finds of the stages that train all weights."""
    found = dict.fromkeys(COLUMNS, "")
    column = COLUMNS[0]
    try:
        model = tiny_model(name)
    except Exception as error:
        return found | {column: refusal(name) or f"no tiny model: {said(error)}"}
    try:
        check_causal(model)  # as SFT does
        check_trainable(model)
        rows = torch.tensor([TOKENIZER.encode(" ".join(PROMPTS))[:24]] * 2)
        model.train()  # Reformer has no gradient else
        (-text_logprobs(model, rows).mean()).backward()
        assert all(each.grad is None or each.grad.isfinite().all() for each in model.parameters())
        model = tiny_model(name)
        found[column], column = "yes", COLUMNS[1]
        made = PPOTrainer(
            config(episodes=4, batch_size=4), processing_class=TOKENIZER, model=model, reward_model=count_e, train_dataset=PROMPTS,
            say=quiet,
        )  # fmt: skip
        found[column], found[COLUMNS[2]], column = "yes", way_of(made.model), COLUMNS[4]
        (row,) = made.train()
        gap = row["policy/sampling_gap"]
        found[COLUMNS[3]] = "yes" if gap < 1e-4 else f"{gap:.1e} nats apart"
        assert math.isfinite(row["policy/loss"])
        found[column], column = "yes", COLUMNS[5]
        with tempfile.TemporaryDirectory() as folder:
            made.save_model(folder)
            check_same(made, rows, folder)
        found[column] = "yes"
    except InputError as refused:
        found[column] = f"refused: {refused}"
    except Exception as error:
        found[column] = f"fails: {said(error)}"
    return found


def refusal(name):
    """Why a checkpoint of this kind is refused, which nobody can have made here; "" where it is not."""
    with tempfile.TemporaryDirectory() as folder:
        tiny_config(name).save_pretrained(folder)
        save_file({}, Path(folder) / "model.safetensors", {"format": "pt"})
        try:
            load_policy(folder)
        except InputError as refused:
            said = f"{refused}".replace(f"{folder}: ", "")
            return "" if "is not in it" in said else f"refused: {said}"  # as are all weights of this file


def way_of(model):
    """How its tokens are drawn."""
    if is_described(model):
        return "bare weights"
    use = cache_use(model)
    if use is None:
        return "whole texts"
    return (
        "its cache"
        + ("" if use.padded else ", texts of one length together")
        + ("" if use.pieces else ", whole prompts")
    )


def check_same(made, rows, folder):
    """That what was saved is what comes back."""
    loaded, values = load_policy(folder), load_scalar(Path(folder) / "value")
    with torch.no_grad():
        assert torch.allclose(whole_logits(loaded, rows), whole_logits(made.model.eval(), rows), atol=1e-5)
    assert torch.equal(values.score.weight, made.value_model.score.weight)


def whole_logits(model, rows):
    return model(**accepted(model, input_ids=rows, use_cache=False)).logits


def said(error):
    return f"{type(error).__name__}: {(str(error).strip() or '-').splitlines()[0]}"


def line(name, row):
    """A row of the page's table."""
    return (
        f"| {name} | " + " | ".join(row[column].replace("|", "/")[:200] or "–" for column in COLUMNS) + " |"
    )


def main(names):
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity(transformers.logging.CRITICAL)
    lines = []
    for name in names:
        started = time.monotonic()
        lines.append(line(name, tried(name)))
        print(lines[-1], f"{time.monotonic() - started:.1f} s", flush=True)
    return lines


HEAD = f"""# Architectures

What becomes of every causal language model of transformers {transformers.__version__}, each tried at a tiny size with random
weights on a CPU: the gradient of SFT's loss; a value model over its trunk; log-probabilities of sampling within 1e-4 nats of
those of training; an iteration of PPO; policy and value model saved, loaded and equal; adapters
(`lora_rank`) trained, merged, saved, loaded and equal. Encoders are tried as decoders (`is_decoder`). A dash: not reached. A
refusal comes before anything is trained. `python -m tests.slow.architectures` makes this page;
`tests/slow/test_architectures.py` tries its rows again.

Sampled by: *bare weights*, compiled loops over the described model; *its cache*, the model's own forward pass over
transformers' cache, all rows in one pass; *whole texts*, the forward pass over the whole of every text for each token, which
is slow and always right. A trial of a few tokens chooses (`rlhf/sampling/trial.py`). Sparse attention that chooses among places
(DeepSeek 3.2 and others) is tried where it chooses all: among equal scores `torch.topk` chooses by the width of the row.

The tiny models have heads of 8 numbers and the compiled loops take multiples of 16, so that no row is sampled by bare weights. With heads
of 16 these are, whose parts `rlhf/sampling/families.py` knows: gpt2, which is loaded as our own GPT, cwm, exaone4, gemma, gemma2, gemma3_text,
granite without its multipliers, internlm3, iquestcoder, llama, ministral3, mistral, mllama, olmo2, phi3, qwen2, qwen3, seed_oss and smollm3.

| architecture | {" | ".join(COLUMNS)} |
{"|---" * (len(COLUMNS) + 1)}|
"""


if __name__ == "__main__":
    found = main(sys.argv[1:] or NAMES)
    if sys.argv[1:]:
        anew = {row.split(" | ")[0]: row for row in found}
        rows = DOC.read_text().splitlines()
        DOC.write_text("\n".join(anew.get(row.split(" | ")[0], row) for row in rows) + "\n")
    else:
        DOC.write_text(HEAD + "\n".join(found) + "\n")
