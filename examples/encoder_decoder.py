"""The whole Transformer from the core's blocks: an encoder, a decoder that looks at it, and a classifier on an encoder.

python -m examples.encoder_decoder [--steps 3000]

Translated are numbers (four thousand two hundred seven ↔ 四千二百七) and dates (March 5, 1987 ↔ 一九八七年三月五日); classified is
what is wrong with an answer of the starter world. T target tokens, S source tokens, C channels, V vocabulary.
"""

import random

import torch
from torch import nn
from transformers import GPT2Config

from examples import results
from examples.words import direction, pairs, split
from rlhf.learning.optimizers import adamw
from rlhf.learning.training import warmup_cosine
from rlhf.machine.devices import best_device
from rlhf.models.cross_attention import CrossBlock
from rlhf.models.gpt import GPTPreTrained, Trunk
from rlhf.starter.demonstrations import slip
from rlhf.starter.items import take_items

PAD, BEGIN, END = 0, 1, 2
TONES = ("fine", "rude", "rambling", "endless", "refusal")


class EncoderDecoder(GPTPreTrained):
    """An encoder, a trunk without the causal mask, and a decoder of blocks that also look at what it has read."""

    def __init__(self, config):
        super().__init__(config)
        self.encoder = Trunk(config, causal=False)
        self.decoder = Trunk(config)
        self.decoder.h = nn.ModuleList(CrossBlock(config, layer) for layer in range(config.n_layer))
        self.post_init()

    def forward(self, source, target):
        """Logits (B, T, V) of what follows each target token; source (B, S) and target (B, T) end in PAD."""
        return self.decode(self.encoder(source, source != PAD).last_hidden_state, source != PAD, target)

    def decode(self, memory, visible, target):
        decoder = self.decoder
        x = decoder.wte(target) + decoder.wpe(torch.arange(target.shape[1], device=target.device))
        for block in decoder.h:
            x = block(x, None, True, memory, visible)
        return decoder.ln_f(x) @ decoder.wte.weight.T

    @torch.no_grad()
    def translate(self, source, max_tokens):
        """The likeliest next token, one after the other, until every row has ended: (B, ≤ max_tokens + 1)."""
        memory = self.encoder(source, source != PAD).last_hidden_state
        target = torch.full((len(source), 1), BEGIN, device=source.device)
        while target.shape[1] <= max_tokens and not (target == END).any(1).all():
            new = self.decode(memory, source != PAD, target)[:, -1].argmax(-1, keepdim=True)
            target = torch.cat((target, new), dim=1)
        return target


class Classifier(GPTPreTrained):
    """An encoder whose hidden states are averaged over the real tokens (B, S) → logits (B, classes)."""

    def __init__(self, config, num_classes):
        super().__init__(config)
        self.encoder = Trunk(config, causal=False)
        self.head = nn.Linear(config.n_embd, num_classes)
        self.post_init()

    def forward(self, source):
        real = (source != PAD)[..., None]
        hidden = self.encoder(source, source != PAD).last_hidden_state
        return self.head((hidden * real).sum(1) / real.sum(1))


class Vocabulary:
    """Tokens of texts by number; PAD, BEGIN and END first, what was never seen is PAD."""

    def __init__(self, texts):
        self.tokens = ["", "", "", *sorted({token for text in texts for token in split(text)})]
        self.numbers = {token: number for number, token in enumerate(self.tokens) if number > END}

    def rows(self, texts, begin=False):
        """(B, S) int64, every text closed by END and filled with PAD."""
        encoded = [
            [BEGIN] * begin + [self.numbers.get(token, PAD) for token in split(text)] + [END]
            for text in texts
        ]
        width = max(map(len, encoded))
        return torch.tensor([row + [PAD] * (width - len(row)) for row in encoded])


def fit(model, batches, loss_of, num_steps, lr):
    """Train on batches from an endless iterator."""
    optimizer = adamw(model.parameters(), lr)
    model.train()
    for step in range(num_steps):
        optimizer.set_lr_factor(warmup_cosine(step, num_steps, warmup=100))
        loss_of(model, next(batches)).backward()
        optimizer.step(max_grad_norm=1.0)
    return model.eval()


def drawn(items, size, rng):
    """Batches of items at random, for ever."""
    while True:
        yield rng.sample(items, min(size, len(items)))


def config_of(vocabulary, context, given):
    return GPT2Config(
        vocab_size=len(vocabulary.tokens), n_positions=context, n_embd=given.width, n_layer=given.layers,
        n_head=4, embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0, bos_token_id=BEGIN, eos_token_id=END,
    )  # fmt: skip


def translation(given, seed):
    """Share of unseen sources that are translated to the last sign, by direction, and the errors."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    every = pairs()
    rng.shuffle(every)
    vocabulary = Vocabulary([source for source, _ in every])
    unseen, seen = every[: given.unseen], every[given.unseen :]
    longest = vocabulary.rows([source for source, _ in every]).shape[1] + 1
    model = EncoderDecoder(config_of(vocabulary, longest, given)).to(best_device())

    def loss_of(model, batch):
        source, target = zip(*batch, strict=True)
        rows = vocabulary.rows(target, begin=True).to(model.device)
        logits = model(vocabulary.rows(source).to(model.device), rows[:, :-1])
        return nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), ignore_index=PAD)

    fit(model, drawn(seen, given.batch, rng), loss_of, given.steps, given.lr)
    right: dict[str, list[bool]] = {}
    wrong = []
    for start in range(0, len(unseen), 200):
        part = unseen[start : start + 200]
        source = vocabulary.rows([one for one, _ in part]).to(model.device)
        for (one, other), row in zip(part, model.translate(source, longest), strict=True):
            tokens = row[1:].tolist()
            made = (
                [vocabulary.tokens[token] for token in tokens[: tokens.index(END)]] if END in tokens else None
            )
            right.setdefault(direction(one), []).append(made == split(other))
            if made != split(other):
                wrong.append([one, other, " ".join(made or ["(no end)"])])
    exact = {name: [sum(found), len(found)] for name, found in sorted(right.items())}
    return {"exact": exact, "wrong": wrong[:5], "seen": len(seen), "weights": model.num_parameters()}


def tones(num_answers, split_name, seed):
    """Answers of the starter world, each with what is wrong with it."""
    rng = random.Random(seed)
    found = []
    for item in take_items(split_name, num_answers, seed):
        tone = rng.choice(TONES)
        found.append((item.answer if tone == "fine" else slip(tone, item, rng), TONES.index(tone)))
    return found


def classification(given, seed):
    """Accuracy on answers to unseen questions."""
    torch.manual_seed(seed)
    seen, unseen = tones(4000, "train", seed), tones(1000, "test", seed)
    vocabulary = Vocabulary([text for text, _ in seen])
    longest = vocabulary.rows([text for text, _ in seen + unseen]).shape[1]
    model = Classifier(config_of(vocabulary, longest, given), len(TONES)).to(best_device())

    def loss_of(model, batch):
        texts, labels = zip(*batch, strict=True)
        logits = model(vocabulary.rows(texts).to(model.device))
        return nn.functional.cross_entropy(logits, torch.tensor(labels, device=model.device))

    fit(model, drawn(seen, 32, random.Random(seed)), loss_of, max(1, given.steps // 10), given.lr)
    with torch.no_grad():
        guesses = [int(model(vocabulary.rows([text]).to(model.device)).argmax()) for text, _ in unseen]
    by_tone = {tone: [0, 0] for tone in TONES}
    for guess, (_, label) in zip(guesses, unseen, strict=True):
        by_tone[TONES[label]][0] += guess == label
        by_tone[TONES[label]][1] += 1
    return {"right": by_tone, "weights": model.num_parameters()}


def run(given):
    """Both tasks, once for each seed: models, batches and the inputs left unseen are others."""
    return {
        task.__name__: [task(given, seed) for seed in range(given.seeds)]
        for task in (translation, classification)
    }


if __name__ == "__main__":
    results.main(
        "encoder-decoder", __doc__, run,
        steps=3000, batch=64, width=96, layers=2, lr=2e-3, unseen=1000, seeds=3,
    )  # fmt: skip
