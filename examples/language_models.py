"""A GPT from one text: a vocabulary made of it beside published ones at equal compute, the curve, and samples on the way.

python -m examples.language_models [--data FOLDER] [--tokens 1000000]

Published encodings are downloaded once by tiktoken, or found where TIKTOKEN_CACHE_DIR says; without either they are left out.
"""

import math
from typing import Any

import torch

from examples import results
from examples.texts import divided, texts
from examples.training import train_as_pretrain
from rlhf.errors import InputError
from rlhf.inputs import packed_tokens
from rlhf.models.tokenizer import published_tokenizer, train_tokenizer
from rlhf.sampling.generate import SamplingSettings, generate
from stages.pretrain.held_out import HeldOut, token_sizes
from stages.pretrain.initial import new_model
from stages.pretrain.loop import NUM_MEASUREMENTS, Windows

LAYERS, WIDTH, HEADS, LENGTH, BATCH, VOCABULARY = 4, 128, 4, 128, 8, 1024
PUBLISHED = ("gpt2", "o200k_base")
PARTS = (NUM_MEASUREMENTS // 4, NUM_MEASUREMENTS // 2, NUM_MEASUREMENTS)


def tokenizers(seen):
    """The vocabulary made of the text, and the published ones that are to be had."""
    found = {"made of the text": train_tokenizer([seen], VOCABULARY)}
    for name in PUBLISHED:
        try:
            found[name] = published_tokenizer(name)
        except InputError as problem:
            print(problem, flush=True)
    return found


def multiplied(model):
    """Weights that every token is multiplied with; the head's are the token embedding's."""
    return model.num_parameters() - model.transformer.wpe.weight.numel()


def sample(model, tokenizer, num_tokens, seed):
    """What the model writes after a line break."""
    settings = SamplingSettings(max_new_tokens=min(num_tokens, LENGTH - 4), temperature=0.8)
    prompt, stops = tokenizer.encode("\n"), frozenset({tokenizer.document_end_id})
    made = generate(model, [prompt], settings, stop_ids=stops, seed=seed)
    return tokenizer.decode(made[0].tokens)


def learn(tokenizer, seen, unseen, num_tokens, seed, given):
    """A model trained on `seen`: what it reaches on `unseen`, its curve, and samples at a quarter, half and whole."""
    torch.manual_seed(seed)
    tokens, rest = packed_tokens(tokenizer, [seen]), packed_tokens(tokenizer, [unseen])
    held_out = HeldOut.of(rest, LENGTH, token_sizes(tokenizer))
    num_steps = max(1, round(num_tokens / (BATCH * LENGTH)))
    windows = Windows(num_steps=num_steps, batch_size=BATCH, length=LENGTH, seed=seed)
    model = new_model(tokenizer, LAYERS, WIDTH, HEADS, LENGTH, dropout=given.dropout)
    samples = {}

    def after(step, model):
        for part in PARTS:
            if part not in samples and step * NUM_MEASUREMENTS >= part * num_steps:
                samples[part] = sample(model, tokenizer, given.written, seed)

    curve = train_as_pretrain(model, tokens, held_out, windows, after_measuring=after)
    measured = held_out.measure(model)
    bytes_per_character = len(unseen.encode()) / len(unseen)
    return {
        "vocabulary": tokenizer.vocab_size,
        "weights": multiplied(model),
        "tokens": windows.num_tokens,
        "passes": windows.num_tokens / len(tokens),
        "characters_per_token": len(unseen) / len(rest),
        "nats_per_token": measured["loss"],
        "bits_per_byte": measured["bits_per_byte"],
        "nats_per_character": measured["bits_per_byte"] * math.log(2) * bytes_per_character,
        "curve": curve,
        "samples": [samples[part] for part in PARTS],
    }  # fmt: skip


def run(given):
    """Every text with every vocabulary, each as many tokens as have the products of the first."""
    found: dict[str, Any] = {}
    for name, text in texts(given.data).items():
        seen, unseen = divided(text)
        found[name], weights = {}, None
        for kind, tokenizer in tokenizers(seen).items():
            with torch.device("meta"):
                mine = multiplied(new_model(tokenizer, LAYERS, WIDTH, HEADS, LENGTH, dropout=0.0))
            weights = weights or mine
            num_tokens = given.tokens * weights / mine
            runs = [learn(tokenizer, seen, unseen, num_tokens, seed, given) for seed in range(given.seeds)]
            found[name][kind] = runs
            print(f"{name}, {kind}: {[made['bits_per_byte'] for made in runs]} bits a byte", flush=True)
    return found


if __name__ == "__main__":
    results.main("texts", __doc__, run, tokens=300_000, dropout=0.0, written=100, seeds=3)
