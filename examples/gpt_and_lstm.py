"""A GPT against an LSTM, with and without attention over its own past states: equal weights, equal tokens, equal time.

python -m examples.gpt_and_lstm [--data FOLDER] [--tokens 1000000]

Measured is held-out text in bits per byte, by how many tokens the model has seen before. T tokens, C channels, V vocabulary.
"""

import math
import time
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from examples import results
from examples.texts import divided, texts
from examples.training import train_as_pretrain
from rlhf.inputs import packed_tokens
from rlhf.models.tokenizer import train_tokenizer
from stages.pretrain.held_out import HeldOut, token_sizes
from stages.pretrain.initial import new_model
from stages.pretrain.loop import Windows

LENGTH, BATCH, VOCABULARY = 256, 4, 512
LAYERS, WIDTH, HEADS = 4, 128, 4
KINDS = ("GPT", "LSTM", "LSTM with attention")


class PastAttention(nn.Module):
    """What earlier states (B, T, C) say to each state: vᵀ tanh(W query + U key), Bahdanau et al. 2015, equation 6."""

    def __init__(self, width, inner):
        super().__init__()
        self.query, self.key = nn.Linear(width, inner), nn.Linear(width, inner, bias=False)
        self.score, self.out = nn.Linear(inner, 1, bias=False), nn.Linear(2 * width, width)

    def forward(self, states):
        T = states.shape[1]
        scores = self.score((self.query(states)[:, :, None] + self.key(states)[:, None]).tanh())[..., 0]
        later = torch.ones(T, T, dtype=torch.bool, device=states.device).triu(1)
        past = scores.masked_fill(later, -torch.inf).softmax(-1) @ states
        return states + self.out(torch.cat((states, past), -1)).tanh()


class LSTMTrunk(nn.Module):
    """Token ids (B, T) → hidden states (B, T, C), as the GPT's trunk has them."""

    def __init__(self, vocab_size, width, attention):
        super().__init__()
        self.wte = nn.Embedding(vocab_size, width)
        self.lstm = nn.LSTM(width, width, num_layers=2, batch_first=True)
        self.attention = PastAttention(width, 32) if attention else nn.Identity()
        self.norm = nn.LayerNorm(width)

    def forward(self, ids):
        states, _ = self.lstm(self.wte(ids))
        return SimpleNamespace(last_hidden_state=self.norm(self.attention(states)))


class LSTM(nn.Module):
    """An LSTM language model with the parts that the core's training loop asks for."""

    def __init__(self, vocab_size, width, attention):
        super().__init__()
        self.transformer = LSTMTrunk(vocab_size, width, attention)
        self.lm_head = nn.Linear(width, vocab_size, bias=False)
        nn.init.normal_(self.transformer.wte.weight, std=0.02)
        self.lm_head.weight = self.transformer.wte.weight

    @property
    def device(self):
        return self.lm_head.weight.device


def count(model):
    """Weights, a shared one once."""
    return sum(parameter.numel() for parameter in model.parameters())


def lstm_like(num_weights, vocab_size, attention):
    """The LSTM whose number of weights is nearest."""
    with torch.device("meta"):
        widths = {w: count(LSTM(vocab_size, w, attention)) for w in range(8, 1024, 4)}
    width = min(widths, key=lambda w: abs(widths[w] - num_weights))
    return LSTM(vocab_size, width, attention)


def built(kind, tokenizer):
    gpt = new_model(tokenizer, LAYERS, WIDTH, HEADS, LENGTH, dropout=0.0)
    return gpt if kind == "GPT" else lstm_like(count(gpt), tokenizer.vocab_size, "attention" in kind)


def edges():
    """Borders of the groups of places in a row: 0, 1, 2, 4, … LENGTH."""
    return [0, *(2**power for power in range(int(math.log2(LENGTH)) + 1))]


def by_context(held_out, model):
    """Bits per byte by how many tokens of context there are, one number for each group of `edges`."""
    nats, num_bytes = held_out.nats(model), held_out.sizes[held_out.targets]
    return [
        float(nats[:, low:high].sum() / math.log(2) / num_bytes[:, low:high].sum())
        for low, high in zip(edges(), edges()[1:], strict=False)
    ]


def one_run(kind, tokenizer, tokens, held_out, num_steps, seed):
    """A model trained from scratch: what it cost and what it reaches."""
    torch.manual_seed(seed)
    model = built(kind, tokenizer)
    windows = Windows(num_steps=num_steps, batch_size=BATCH, length=LENGTH, seed=seed)
    started = time.process_time()
    curve = train_as_pretrain(model, tokens, held_out, windows, bf16="off")
    seconds = time.process_time() - started
    measured = held_out.measure(model)
    return {
        "bits_per_byte": measured["bits_per_byte"],
        "by_context": by_context(held_out, model),
        "curve": curve,
        "cpu_s": seconds,
        "tokens": windows.num_tokens,
        "weights": count(model),
    }


def run(given):
    """Every kind at equal tokens, then the others with as much processor time as the GPT took."""
    name, text = next(iter(texts(given.data).items()))
    seen, unseen = divided(text)
    tokenizer = train_tokenizer([seen], VOCABULARY)
    tokens = packed_tokens(tokenizer, [seen])
    held_out = HeldOut.of(packed_tokens(tokenizer, [unseen]), LENGTH, token_sizes(tokenizer), bf16="off")
    num_steps = max(1, given.tokens // (BATCH * LENGTH))
    runs: dict[str, Any] = {"equal tokens": {}, "equal time": {}}
    for seed in range(given.seeds):
        for kind in KINDS:
            made = one_run(kind, tokenizer, tokens, held_out, num_steps, seed)
            runs["equal tokens"].setdefault(kind, []).append(made)
            print(
                f"{kind}, seed {seed}: {made['bits_per_byte']:.3f} bits a byte, {made['cpu_s']:.0f} s",
                flush=True,
            )
        gpt_s = runs["equal tokens"]["GPT"][seed]["cpu_s"]
        for kind in KINDS[1:]:
            steps = max(1, round(num_steps * gpt_s / runs["equal tokens"][kind][seed]["cpu_s"]))
            made = one_run(kind, tokenizer, tokens, held_out, steps, seed)
            runs["equal time"].setdefault(kind, []).append(made)
    runs["equal time"] = {"GPT": runs["equal tokens"]["GPT"], **runs["equal time"]}
    return {"text": name, "context": edges()[1:], "runs": runs, "length": LENGTH}


if __name__ == "__main__":
    torch.set_num_threads(1)  # processor time is compared, and more threads spend some of it waiting
    results.main("gpt-and-lstm", __doc__, run, tokens=250_000, seeds=3)
