"""The LSTM learns what only its memory can tell, its attention sees no future, and sizes are equal."""

import argparse

import pytest
import torch

from examples import gpt_and_lstm as example
from examples.texts import texts
from rlhf.models.tokenizer import train_tokenizer


@pytest.mark.parametrize("attention", [False, True])
def test_no_state_depends_on_what_comes_later(attention):
    torch.manual_seed(0)
    trunk = example.LSTMTrunk(20, 16, attention)
    ids = torch.randint(0, 20, (2, 9))
    other = ids.clone()
    other[:, 6:] = 3
    one, two = trunk(ids).last_hidden_state, trunk(other).last_hidden_state
    assert torch.equal(one[:, :6], two[:, :6]) and not torch.allclose(one[:, 6:], two[:, 6:])


@torch.no_grad()
def test_attention_to_the_past_is_what_the_paper_writes():
    torch.manual_seed(0)
    layer, states = example.PastAttention(6, 4), torch.randn(1, 5, 6)
    out = layer(states)
    for t in range(5):
        scores = torch.stack(
            [
                layer.score.weight[0] @ (layer.query(states[0, t]) + layer.key(states[0, j])).tanh()
                for j in range(t + 1)
            ]
        )
        shares = scores.exp() / scores.exp().sum()
        past = sum(share * states[0, j] for j, share in enumerate(shares))
        wanted = states[0, t] + layer.out(torch.cat((states[0, t], past))).tanh()
        torch.testing.assert_close(out[0, t], wanted, atol=1e-5, rtol=1e-4)


def test_both_lstms_have_the_weights_of_the_gpt_within_two_per_cent():
    tokenizer = train_tokenizer(["a rose is a rose"], 300)
    gpt, *others = (example.count(example.built(kind, tokenizer)) for kind in example.KINDS)
    assert all(abs(other - gpt) < 0.02 * gpt for other in others)


@pytest.mark.parametrize("attention", [False, True])
def test_the_lstm_learns_to_say_again_what_it_read_three_tokens_ago(attention):
    torch.manual_seed(0)
    model = example.LSTM(6, 24, attention)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)

    def loss_of(rows):
        hidden = model.transformer(rows).last_hidden_state
        logits = hidden[:, 3:] @ model.lm_head.weight.T
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, :-3].flatten())

    first = float(loss_of(torch.randint(0, 6, (16, 12))).detach())
    for _ in range(250):
        loss = loss_of(torch.randint(0, 6, (16, 12)))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert first > 1.5 and float(loss.detach()) < 0.3  # without memory it stays at log 6


def test_the_whole_experiment_on_tiny_settings(monkeypatch):
    for name, value in {"LENGTH": 16, "WIDTH": 16, "HEADS": 2, "LAYERS": 1, "VOCABULARY": 270}.items():
        monkeypatch.setattr(example, name, value)
    short = texts()["starter corpus"][:8000]
    monkeypatch.setattr(example, "texts", lambda folder: {"short": short})
    found = example.run(argparse.Namespace(data=None, tokens=600, seeds=2))
    assert found["context"] == [1, 2, 4, 8, 16]
    for runs in found["runs"].values():
        assert set(runs) == set(example.KINDS)
        for made in (each for both in runs.values() for each in both):
            assert len(made["by_context"]) == 5 and 0 < made["bits_per_byte"] < 9
    # The groups of places are all places: weighed by their bytes they give the whole.
    kinds = found["runs"]["equal tokens"]["GPT"]
    assert min(kinds[0]["by_context"]) <= kinds[0]["bits_per_byte"] <= max(kinds[0]["by_context"])
