"""Words of numbers and dates by hand, and that the whole Transformer learns on tiny settings."""

import argparse

import pytest
import torch
from transformers import GPT2Config

from examples import encoder_decoder as example
from examples import words


@pytest.mark.parametrize(
    ("n", "english", "japanese"),
    [
        (0, "zero", "〇"),
        (11, "eleven", "十一"),
        (40, "forty", "四十"),
        (100, "one hundred", "百"),
        (1_234, "one thousand two hundred thirty four", "千二百三十四"),
        (4_207, "four thousand two hundred seven", "四千二百七"),
        (10_000, "ten thousand", "一万"),
        (19_011, "nineteen thousand eleven", "一万九千十一"),
    ],
)
def test_numbers_in_words(n, english, japanese):
    assert words.number_in_english(n) == english
    assert words.number_in_japanese(n) == japanese


def test_dates_in_words():
    assert words.date_in_english(1987, 3, 5) == "March 5, 1987"
    assert words.date_in_japanese(2020, 12, 21) == "二〇二〇年十二月二十一日"


def test_no_pair_stands_twice_and_every_direction_is_there():
    every = words.pairs()
    assert len({source for source, _ in every}) == len(every)
    assert len({words.direction(source) for source, _ in every}) == 4


def test_padding_changes_no_translation():
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=20, n_positions=9, n_embd=16, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=2
    )
    model = example.EncoderDecoder(config).eval()
    alone = model(torch.tensor([[5, 6, 2]]), torch.tensor([[1, 7]]))
    padded = model(torch.tensor([[5, 6, 2, 0, 0], [9, 9, 9, 9, 2]]), torch.tensor([[1, 7, 0], [1, 7, 8]]))
    torch.testing.assert_close(padded[:1, :2], alone, atol=1e-5, rtol=1e-4)


def test_it_learns(monkeypatch):
    few = [pair for pair in words.pairs() if len(words.split(pair[0])) <= 3][:300]
    monkeypatch.setattr(example, "pairs", lambda: list(few))
    given = argparse.Namespace(steps=300, batch=48, width=32, layers=1, lr=5e-3, unseen=20, seeds=1)
    found = {task: made for task, (made,) in example.run(given).items()}
    right, asked = (sum(side) for side in zip(*found["translation"]["exact"].values(), strict=True))
    assert asked == 20 and right >= 5
    right, asked = (sum(side) for side in zip(*found["classification"]["right"].values(), strict=True))
    assert asked == 1000 and right > 300  # chance is 200; thirty steps
