"""Do size and data decide everything? Small runs, a law through them, and the largest run predicted before it is made.

python -m examples.scaling [--data FOLDER] [--largest 1200000]
"""

import time

import torch

from examples import results
from examples.scaling_law import bootstrap, fit, middle_95
from examples.texts import divided, texts
from examples.training import train_as_pretrain
from rlhf.inputs import packed_tokens
from rlhf.models.tokenizer import train_tokenizer
from rlhf.starter.corpus import corpus
from stages.pretrain.held_out import HeldOut, token_sizes
from stages.pretrain.initial import new_model
from stages.pretrain.loop import Windows

LENGTH, BATCH, VOCABULARY = 128, 8, 512
SIZES = ((2, 16), (2, 32), (3, 64), (4, 96))  # blocks and width
LARGEST = (4, 128)
SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2)  # of the largest run's tokens


def one_run(size, num_tokens, tokenizer, tokens, held_out, seed):
    """A model trained from scratch on about that many tokens: weights, tokens, held-out loss and bits per byte."""
    torch.manual_seed(seed)
    layers, width = size
    model = new_model(tokenizer, layers, width, max(1, width // 32), LENGTH, dropout=0.0)
    num_steps = max(1, num_tokens // (BATCH * LENGTH))
    windows = Windows(num_steps=num_steps, batch_size=BATCH, length=LENGTH, seed=seed)
    started = time.process_time()
    train_as_pretrain(model, tokens, held_out, windows, bf16="off")
    measured = held_out.measure(model)
    print(f"{layers} × {width}, {windows.num_tokens:,} tokens: {measured['loss']:.3f}", flush=True)
    return {
        "size": f"{layers} × {width}",
        "weights": model.num_parameters() - model.transformer.wpe.weight.numel(),
        "tokens": windows.num_tokens,
        "loss": measured["loss"],
        "bits_per_byte": measured["bits_per_byte"],
        "cpu_s": time.process_time() - started,
    }


def text_of(given):
    """All texts of a folder in one, or a starter corpus in which the largest run reads no place twice."""
    if given.data:
        found = texts(given.data)
        return " and ".join(found), "\n\n".join(found.values())
    return "starter corpus", "\n\n".join(corpus(given.largest, seed=0))


def run(given):
    """The runs, the law with its intervals, what it says of the largest run, and what that one then reached."""
    name, text = text_of(given)
    seen, unseen = divided(text)
    tokenizer = train_tokenizer([seen], VOCABULARY)
    tokens = packed_tokens(tokenizer, [seen])
    held_out = HeldOut.of(
        packed_tokens(tokenizer, [unseen])[:40_000], LENGTH, token_sizes(tokenizer), bf16="off"
    )
    material = (tokenizer, tokens, held_out)
    runs = [
        one_run(size, int(share * given.largest), *material, seed)
        for seed in range(given.seeds) for size in SIZES for share in SHARES
    ]  # fmt: skip
    points = [(each["weights"], each["tokens"], each["loss"]) for each in runs]
    law, laws = fit(points), bootstrap(points, given.samples)
    with torch.device("meta"):
        model = new_model(tokenizer, *LARGEST, LARGEST[1] // 32, LENGTH, dropout=0.0)
    weights = model.num_parameters() - model.transformer.wpe.weight.numel()
    num_tokens = given.largest // (BATCH * LENGTH) * BATCH * LENGTH
    predicted = law.loss(weights, num_tokens), middle_95([each.loss(weights, num_tokens) for each in laws])
    print(f"predicted {predicted[0]:.3f} {predicted[1]}", flush=True)
    largest = [one_run(LARGEST, num_tokens, *material, seed) for seed in range(given.seeds)]
    return {
        "text": name,
        "text_tokens": len(tokens),
        "runs": runs,
        "law": vars(law),
        "intervals": {key: middle_95([vars(each)[key] for each in laws]) for key in vars(law)},
        "predicted": predicted,
        "largest": largest,
        "best_size": law.best_size(6 * weights * num_tokens),
    }


if __name__ == "__main__":
    results.main("scaling", __doc__, run, largest=800_000, seeds=3, samples=200)
