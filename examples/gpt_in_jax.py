"""The functions of examples/gpt_in_numpy.py with JAX's arrays have gradients: one training loop, and its speed beside torch's.

python -m examples.gpt_in_jax [--data FOLDER] [--steps 200]      (pip install 'rlhf-loop[jax]')
"""

import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from transformers import GPT2Config

from examples import results
from examples.gpt_in_numpy import gpt
from examples.texts import texts
from rlhf.inputs import packed_tokens
from rlhf.learning.head import token_logprobs
from rlhf.models.gpt import GPT
from rlhf.models.tokenizer import train_tokenizer

LR, BATCH, LENGTH = 1e-3, 8, 128


def loss_of(weights, config, rows):
    """Mean nats per token of rows (B, T + 1); the sum runs over `gpt` of one row, which JAX makes one of many."""
    logits = jax.vmap(lambda row: gpt(weights, config, row)[0])(rows[:, :-1])  # (B, T, V)
    return optax.softmax_cross_entropy_with_integer_labels(logits, rows[:, 1:]).mean()


def weights_of(model):
    """A torch GPT's weights as JAX's arrays, by the names that `gpt` knows."""
    return {
        name.removeprefix("transformer."): jnp.array(value.detach().numpy())
        for name, value in model.named_parameters()
    }


def jax_step(config, optimizer):
    """A compiled step: (weights, state, rows) → (weights, state, loss)."""

    @jax.jit
    def step(weights, state, rows):
        loss, gradients = jax.value_and_grad(partial(loss_of, config=config, rows=rows))(weights)
        updates, state = optimizer.update(gradients, state, weights)
        return optax.apply_updates(weights, updates), state, loss

    return step


def torch_step(model, optimizer, rows):
    """The same step on the core's GPT; returns the loss."""
    hidden = model.transformer(rows[:, :-1]).last_hidden_state.flatten(0, 1)
    loss = -token_logprobs(hidden, model.lm_head.weight, rows[:, 1:].flatten()).mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())


def batches(tokens, num_steps, seed):
    """Random windows (B, T + 1) of tokens (N,)."""
    rng = np.random.default_rng(seed)
    for _ in range(num_steps):
        starts = rng.integers(0, len(tokens) - LENGTH - 1, BATCH)
        yield tokens[starts[:, None] + np.arange(LENGTH + 1)]


def run(given):
    """Losses of both by step, and the time of each."""
    name, text = next(iter(texts(given.data).items()))
    tokenizer = train_tokenizer([text], 512)
    tokens = packed_tokens(tokenizer, [text]).numpy()
    config = GPT2Config(
        vocab_size=tokenizer.vocab_size, n_positions=LENGTH, n_embd=128, n_layer=4, n_head=4,
        embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0,
        bos_token_id=tokenizer.document_end_id, eos_token_id=tokenizer.eos_id, pad_token_id=tokenizer.pad_id,
    )  # fmt: skip
    torch.manual_seed(given.seed)
    model = GPT(config).train()
    rows = list(batches(tokens, given.steps, given.seed))
    optimizer = optax.adamw(LR, weight_decay=0.0)
    weights = weights_of(model)
    state, step = optimizer.init(weights), jax_step(config.to_dict(), optimizer)
    losses: dict[str, list[float]] = {"jax": [], "torch": []}
    seconds: dict[str, list[float]] = {"jax": [], "torch": []}
    adamw = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.0)
    for batch in rows:  # in turn, so that a slow minute of the machine meets both
        started = time.perf_counter()
        weights, state, loss = step(weights, state, batch)
        losses["jax"].append(float(loss))
        seconds["jax"].append(time.perf_counter() - started)
        started = time.perf_counter()
        losses["torch"].append(torch_step(model, adamw, torch.from_numpy(batch)))
        seconds["torch"].append(time.perf_counter() - started)
    return {
        "text": name,
        "losses": losses,
        "first_step_s": {side: each[0] for side, each in seconds.items()},
        "tokens_per_s": {side: BATCH * LENGTH / float(np.median(each[1:])) for side, each in seconds.items()},
        "generating": generating(model, config.to_dict(), weights, tokens[:32], given.tokens),
    }


def generating(model, config, weights, prompt, num_tokens):
    """Tokens per second of greedy generation with a KV cache: NumPy beside the core."""
    from examples.gpt_in_numpy import generate as numpy_generate
    from rlhf.sampling.generate import SamplingSettings, stream

    arrays = {name: np.asarray(value) for name, value in weights.items()}
    greedy = SamplingSettings(max_new_tokens=num_tokens, temperature=0.0)
    sides = {
        "numpy": lambda: list(numpy_generate(arrays, config, prompt, num_tokens)),
        "core": lambda: list(stream(model, prompt.tolist(), greedy, stop_ids=frozenset(), seed=0)),
    }
    found = {}
    for side, work in sides.items():
        work()
        started = time.perf_counter()
        found[side] = len(work()) / (time.perf_counter() - started)
    return found


if __name__ == "__main__":
    results.main("numpy-and-jax", __doc__, run, steps=200, tokens=90, seed=0)
