"""What a base model starts from, and the documents that teach it to copy and to look up."""

from random import Random

import torch

from rlhf.starter import corpus
from rlhf.starter.words import NAMES
from stages.pretrain.initial import sinusoids


def test_one_linear_map_of_sinusoids_looks_one_place_back():
    sin, cos = sinusoids(160, 128).double().split(64, dim=1)
    turn = torch.atan2(
        sin[1], cos[1]
    )  # by which each pair of a sine and its cosine turns from place to place
    assert torch.allclose(sin[1:] * turn.cos() - cos[1:] * turn.sin(), sin[:-1], atol=1e-4)
    assert torch.allclose(cos[1:] * turn.cos() + sin[1:] * turn.sin(), cos[:-1], atol=1e-4)
    assert torch.all(turn[:-1] > turn[1:]) and turn[-1] > 1e-5


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
