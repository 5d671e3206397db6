"""A GPT in NumPy goes on with a text, without torch: python -m examples.gpt_in_numpy FOLDER "Once upon a time"

T tokens, W tokens seen so far, C channels, H heads, D = C / H, V vocabulary. examples/gpt_in_jax.py trains it.
"""

import base64
import json
import sys
from pathlib import Path

import numpy as np
import tiktoken
from safetensors.numpy import load_file


def load(folder):
    """Weights by name, the config, and the tokenizer as a tiktoken encoding, of a checkpoint of the store."""
    read = {name: json.loads((Path(folder) / f"{name}.json").read_text()) for name in ("config", "encoding")}
    lines = [line.split() for line in (Path(folder) / "ranks.tiktoken").read_text().splitlines()]
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    encoding = tiktoken.Encoding("", pat_str=read["encoding"]["pattern"], mergeable_ranks=ranks, special_tokens=read["encoding"]["special_tokens"])  # fmt: skip
    weights = load_file(Path(folder) / "model.safetensors")
    return {name.removeprefix("transformer."): value for name, value in weights.items()}, read["config"], encoding  # fmt: skip


def linear(x, w, name):
    return x @ w[f"{name}.weight"] + w[f"{name}.bias"]


def norm(x, w, name, epsilon):
    centred = x - x.mean(-1, keepdims=True)
    return centred / (x.var(-1, keepdims=True) + epsilon) ** 0.5 * w[f"{name}.weight"] + w[f"{name}.bias"]


def gelu(x):
    return 0.5 * x * (1 + x.__array_namespace__().tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)))


def attention(x, w, name, num_heads, past):
    """x (T, C) → (T, C), and keys and values (2, H, W, D) with those of the past before them."""
    xp = x.__array_namespace__()
    q, k, v = xp.moveaxis(linear(x, w, f"{name}.c_attn").reshape(len(x), 3, num_heads, -1), 0, 2)  # (H, T, D)
    kept = xp.stack((k, v)) if past is None else xp.concat((past, xp.stack((k, v))), axis=2)
    scores = q @ kept[0].swapaxes(1, 2) / q.shape[-1] ** 0.5  # (H, T, W)
    places = xp.arange(scores.shape[2])
    scores = xp.where(places <= places[-len(x) :, None], scores, -1e30)
    shares = xp.exp(scores - scores.max(-1, keepdims=True))
    out = shares / shares.sum(-1, keepdims=True) @ kept[1]
    return linear(out.swapaxes(0, 1).reshape(x.shape), w, f"{name}.c_proj"), kept


def gpt(w, config, tokens, cache=None):
    """Logits (T, V) of tokens (T,) that follow those in the cache, and the cache with them, one array a block."""
    seen, epsilon = (cache[0].shape[2] if cache else 0), config["layer_norm_epsilon"]
    kept: list[np.ndarray] = []
    x = w["wte.weight"][tokens] + w["wpe.weight"][seen : seen + len(tokens)]
    for i in range(config["n_layer"]):
        normed = norm(x, w, f"h.{i}.ln_1", epsilon)
        attended, past = attention(normed, w, f"h.{i}.attn", config["n_head"], cache and cache[i])
        x, kept = x + attended, [*kept, past]
        inner = linear(norm(x, w, f"h.{i}.ln_2", epsilon), w, f"h.{i}.mlp.c_fc")
        x = x + linear(gelu(inner), w, f"h.{i}.mlp.c_proj")
    return norm(x, w, "ln_f", epsilon) @ w.get("lm_head.weight", w["wte.weight"]).T, kept


def generate(w, config, tokens, num_tokens, temperature=0.0, seed=0):
    """Tokens that follow, one by one; each new one alone is computed, those before it are in the cache."""
    rng, cache, new = np.random.default_rng(seed), None, tokens
    for _ in range(min(num_tokens, config["n_positions"] - len(tokens))):
        logits, cache = gpt(w, config, np.array(new), cache)
        noise = temperature * rng.gumbel(size=logits.shape[1])  # with it the highest logit is a sample
        new = [int((logits[-1] + noise).argmax())]
        yield new[0]


if __name__ == "__main__":
    w, config, encoding = load(sys.argv[1])
    tokens = encoding.encode(sys.argv[2], allowed_special="all")  # `<|user|>…<|end|><|assistant|>`: an answer
    print(encoding.decode(list(generate(w, config, tokens, num_tokens=100, temperature=0.8))))
