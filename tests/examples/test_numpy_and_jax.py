"""The GPT in NumPy and JAX against the core's: logits, the cache, gradients, a step; and no torch in the first."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GPT2Config

from examples import gpt_in_numpy
from rlhf.models.checkpoints import load_policy
from rlhf.models.gpt import GPT
from rlhf.sampling.generate import SamplingSettings, stream

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def checkpoint(base_store):
    return base_store.resolve("base").path


def test_logits_are_those_of_the_core(checkpoint):
    weights, config, encoding = gpt_in_numpy.load(checkpoint)
    tokens = encoding.encode("The red kite is in the park. Tom has a blue boat.")
    ours, cache = gpt_in_numpy.gpt(weights, config, np.array(tokens))
    theirs = load_policy(checkpoint)(torch.tensor([tokens])).logits[0]
    np.testing.assert_allclose(ours, theirs.detach().numpy(), atol=1e-4)
    assert len(cache) == config["n_layer"] and cache[0].shape[2] == len(tokens)


def test_tokens_one_by_one_through_the_cache_have_the_logits_of_all_at_once(checkpoint):
    weights, config, _ = gpt_in_numpy.load(checkpoint)
    tokens = np.array([5, 300, 7, 7, 42, 511, 3])
    whole, _ = gpt_in_numpy.gpt(weights, config, tokens)
    first, cache = gpt_in_numpy.gpt(weights, config, tokens[:3])
    rows = [first]
    for token in tokens[3:]:
        row, cache = gpt_in_numpy.gpt(weights, config, np.array([token]), cache)
        rows.append(row)
    np.testing.assert_allclose(np.concatenate(rows), whole, atol=1e-4)


def test_greedy_tokens_are_those_of_the_core_up_to_the_end_of_the_context(checkpoint):
    weights, config, encoding = gpt_in_numpy.load(checkpoint)
    prompt = encoding.encode("The red kite")
    ours = list(gpt_in_numpy.generate(weights, config, prompt, 400))
    settings = SamplingSettings(max_new_tokens=400, temperature=0.0)
    assert ours == list(stream(load_policy(checkpoint), prompt, settings, stop_ids=frozenset(), seed=0))
    assert len(prompt) + len(ours) == config["n_positions"]


def test_the_file_is_at_most_eighty_lines_and_runs_without_torch(checkpoint):
    file = ROOT / "examples" / "gpt_in_numpy.py"
    assert len(file.read_text().splitlines()) <= 80
    code = (
        "import sys; sys.modules['torch'] = None; sys.argv = ['x', sys.argv[1], '<|user|>Hello<|end|><|assistant|>']\n"
        "import runpy; runpy.run_module('examples.gpt_in_numpy', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(checkpoint)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout.strip(), done.stderr


def test_samples_follow_the_probabilities(checkpoint):
    weights, config, _ = gpt_in_numpy.load(checkpoint)
    logits = gpt_in_numpy.gpt(weights, config, np.array([5]))[0][-1] / 0.5
    wanted = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    draws = [next(gpt_in_numpy.generate(weights, config, [5], 1, 0.5, seed)) for seed in range(2000)]
    top = int(wanted.argmax())
    share = draws.count(top) / len(draws)
    assert abs(share - wanted[top]) < 4 * (wanted[top] * (1 - wanted[top]) / len(draws)) ** 0.5 + 1e-3


@pytest.fixture
def jax_side():
    return pytest.importorskip("examples.gpt_in_jax", reason="jax is an extra")


def test_steps_in_jax_are_those_of_torch(jax_side):
    import jax
    import optax

    config = GPT2Config(
        vocab_size=60,
        n_positions=16,
        n_embd=24,
        n_layer=2,
        n_head=3,
        embd_pdrop=0,
        attn_pdrop=0,
        resid_pdrop=0,
    )
    torch.manual_seed(1)
    model = GPT(config).train()
    weights = jax_side.weights_of(model)
    rows = np.random.default_rng(0).integers(0, 60, (5, 3, 17))
    loss_of_rows = jax.jit(jax.value_and_grad(lambda w, rows: jax_side.loss_of(w, config.to_dict(), rows)))
    loss, gradients = loss_of_rows(weights, rows[0])
    torch_loss = model(torch.from_numpy(rows[0, :, :-1])).logits.log_softmax(-1)
    torch_loss = -torch_loss.gather(2, torch.from_numpy(rows[0, :, 1:, None])).mean()
    torch_loss.backward()
    assert float(loss) == pytest.approx(float(torch_loss.detach()), abs=1e-5)
    for name, parameter in model.named_parameters():
        mine = gradients[name.removeprefix("transformer.")]
        np.testing.assert_allclose(mine, parameter.grad.numpy(), atol=1e-5, err_msg=name)
    model.zero_grad()
    optimizer = optax.adamw(1e-3, eps=1e-6, weight_decay=0.01)
    adamw = torch.optim.AdamW(model.parameters(), lr=1e-3, eps=1e-6, weight_decay=0.01)
    state, step = optimizer.init(weights), jax_side.jax_step(config.to_dict(), optimizer)
    for batch in rows:
        weights, state, loss = step(weights, state, batch)
        assert float(loss) == pytest.approx(
            jax_side.torch_step(model, adamw, torch.from_numpy(batch)), abs=1e-4
        )
    for name, parameter in model.named_parameters():
        mine = weights[name.removeprefix("transformer.")]
        np.testing.assert_allclose(mine, parameter.detach().numpy(), atol=1e-4, err_msg=name)
