"""What a base model starts from, and the documents that teach it to copy and to look up."""

from random import Random

import pytest
import torch

from rlhf.models.tokenizer import train_tokenizer
from rlhf.starter import corpus
from rlhf.starter.words import NAMES
from stages.pretrain.initial import new_model, sinusoids


def test_one_linear_map_of_sinusoids_looks_one_place_back():
    sin, cos = sinusoids(160, 128).double().split(64, dim=1)
    turn = torch.atan2(
        sin[1], cos[1]
    )  # by which each pair of a sine and its cosine turns from place to place
    assert torch.allclose(sin[1:] * turn.cos() - cos[1:] * turn.sin(), sin[:-1], atol=1e-4)
    assert torch.allclose(cos[1:] * turn.cos() + sin[1:] * turn.sin(), cos[:-1], atol=1e-4)
    assert torch.all(turn[:-1] > turn[1:]) and turn[-1] > 1e-5


@pytest.mark.parametrize(
    ("width", "heads", "most"), [(128, 4, 0.9), (192, 6, 0.9), (256, 4, 0.9), (66, 2, 0.5), (65, 1, 0.5)]
)
def test_a_new_model_has_one_head_that_attends_to_the_token_before(width, heads, most):
    tokenizer = train_tokenizer(["a word and another"], 300)
    model = new_model(tokenizer, 2, width, heads, 160, dropout=0.0)
    tokens = torch.randint(0, tokenizer.vocab_size, (160,), generator=torch.Generator().manual_seed(0))
    block, places = model.transformer.h[0], torch.arange(160)
    with torch.no_grad():
        hidden = model.transformer.wte.weight[tokens] + model.transformer.wpe.weight
        query, key, _ = block.attn.c_attn(block.ln_1(hidden)).split(width, dim=1)
    width_of_head = width // heads
    scores = query[:, :width_of_head] @ key[:, :width_of_head].T / width_of_head**0.5
    attention = scores.masked_fill(places[None] > places[:, None], float("-inf")).softmax(1)
    assert attention[places[1:], places[:-1]].median() > most


def test_a_head_of_one_number_cannot_look_back():
    model = new_model(train_tokenizer(["a word and another"], 300), 1, 3, 3, 8, dropout=0.0)
    assert model.transformer.h[0].attn.c_attn.weight[:, 0].tolist() == [0.0] * 3


def test_sinusoids_of_an_odd_width():
    assert sinusoids(7, 33).shape == (7, 33) and sinusoids(7, 33)[0].tolist() == [0.0] * 17 + [1.0] * 16


def test_lists_say_of_each_name_one_thing_over_one_gap():
    rng = Random(3)
    gaps = set()
    for _ in range(300):
        lines = corpus._list(rng).replace("\n", " ").replace(", ", ". ").rstrip(".,").split(". ")
        lines = [line.split() for line in lines]
        told = {words[0].rstrip(":"): words[1:] for words in lines}
        assert set(told) <= set(NAMES) and 2 <= len(told) <= 4 and len(lines) >= len(told) + 4
        assert all(words[1:] == told[words[0].rstrip(":")] for words in lines)
        (gap,) = {len(words) - 3 for words in lines}
        gaps.add(gap)
    assert gaps == {0, 1, 2}
