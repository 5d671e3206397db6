"""A text with two vocabularies at equal compute on tiny settings: units, samples, what is missing."""

import argparse
import math

import pytest

from examples import language_models as example
from examples import texts
from rlhf.errors import InputError
from rlhf.models.tokenizer import train_tokenizer


@pytest.fixture
def tiny(monkeypatch):
    for name, value in {
        "LAYERS": 1,
        "WIDTH": 16,
        "HEADS": 2,
        "LENGTH": 16,
        "BATCH": 2,
        "VOCABULARY": 270,
    }.items():
        monkeypatch.setattr(example, name, value)
    text = "夏の夜、月が出た。The moon rose.\n" * 60
    monkeypatch.setattr(example, "texts", lambda folder: {"moon": text})

    def published(name):
        if name == "gpt2":
            return train_tokenizer(["The moon rose. 夏の夜"] * 3, 300)
        raise InputError(f"tokenizer {name!r} could not be downloaded")

    monkeypatch.setattr(example, "published_tokenizer", published)
    return text


def test_every_vocabulary_that_is_to_be_had_is_tried_at_equal_compute(tiny):
    given = argparse.Namespace(data=None, tokens=1500, dropout=0.0, written=8, seeds=2)
    found = example.run(given)["moon"]
    assert list(found) == ["made of the text", "gpt2"]
    assert found["gpt2"][0]["bits_per_byte"] != found["gpt2"][1]["bits_per_byte"]  # another seed
    (own, _), (other, _) = found.values()
    compute = [made["weights"] * made["tokens"] for made in (own, other)]
    assert other["weights"] > own["weights"] and max(compute) < 1.1 * min(compute)
    for made in (own, other):
        assert len(made["curve"]) == example.NUM_MEASUREMENTS and len(made["samples"]) == 3
        characters = len(texts.divided(tiny)[1])
        size = len(texts.divided(tiny)[1].encode())
        assert made["nats_per_character"] == pytest.approx(
            made["bits_per_byte"] * math.log(2) * size / characters
        )
    assert own["characters_per_token"] > 0.5


def test_where_there_are_fewer_steps_than_measurements_compute_is_what_was_asked_for(tiny):
    given = argparse.Namespace(data=None, tokens=320, dropout=0.0, written=8, seeds=1)
    (own,), (other,) = example.run(given)["moon"].values()
    assert other["tokens"] <= own["tokens"] == 320  # ten steps, not as many as there are measurements
    assert len(other["samples"]) == len(own["samples"]) == 3 and len(own["curve"]) == 10


def test_texts_come_from_the_folder_or_are_the_built_in_one(tmp_path):
    (tmp_path / "nietzsche.txt").write_text("Supposing that Truth is a woman", encoding="utf-8")
    assert texts.texts(tmp_path) == {"Nietzsche": "Supposing that Truth is a woman"}
    assert len(texts.texts()["starter corpus"]) > 100_000
    with pytest.raises(InputError, match=r"none of tinyshakespeare\.txt"):
        texts.texts(tmp_path / "elsewhere")


def test_a_text_is_divided_at_nine_tenths_of_its_characters():
    seen, unseen = texts.divided("0123456789" * 10)
    assert len(seen) == 90 and unseen == "0123456789"
