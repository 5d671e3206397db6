"""A text of one's own: what is held out and never learned, the weights that are kept, what the text's size decides."""

import json
import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf.errors import InputError
from rlhf.models.checkpoints import load_policy
from rlhf.models.tokenizer import Tokenizer, train_tokenizer
from rlhf.store import Store
from stages import pretrain
from stages.pretrain import loop, plan
from stages.pretrain.held_out import HeldOut, token_sizes, without_end
from stages.settings import PretrainSettings

SMALL = {
    "layers": 1,
    "width": 32,
    "heads": 2,
    "sequence_length": 16,
    "context": 16,
    "threads": 1,
    "name": "t",
}
WORDS = [a + b for a in ("ka", "mo", "ri", "tu", "pe") for b in ("lo", "na", "sin", "ver", "du")]


class Stop(Exception):
    pass


def noise(num_words, seed=0):
    """A text without any rule: what is learned of it by heart makes the held-out part worse."""
    rng = random.Random(seed)
    return "\n\n".join(" ".join(rng.choices(WORDS, k=12)) for _ in range(num_words // 12))


@pytest.fixture(scope="module")
def overfitted(tmp_path_factory):
    """Settings and entry of a run far too long for its text, and what it said."""
    folder, said = tmp_path_factory.mktemp("overfitted"), []
    (folder / "noise.txt").write_text(noise(120))
    long = {"tokens": 15_000, "vocab_size": 290, "dropout": 0.0, "lr": 1e-2, "muon_lr": 0.05}
    settings = PretrainSettings(data=str(folder / "noise.txt"), **long, **SMALL)
    return settings, pretrain.run(settings, Store(folder / "store"), said.append), said


@given(st.lists(st.text(max_size=30), max_size=8), st.floats(0, 1))
def test_what_is_held_out_is_the_end_and_nothing_is_lost(texts, share):
    learned, unseen = without_end(texts, share)
    assert "".join(learned + unseen) == "".join(texts)
    assert abs(len("".join(unseen)) - share * len("".join(texts))) <= 1


@given(st.text(max_size=60))
def test_sizes_of_tokens_add_up_to_the_bytes_of_the_text(text):
    tokenizer = train_tokenizer(["a rose is a rose is a rose"], 280)
    sizes = token_sizes(tokenizer)
    assert int(sizes[tokenizer.encode(text)].sum()) == len(text.encode())
    assert all(sizes[i] == 0 for i in tokenizer.specials.values())


def test_bits_per_byte_are_the_nats_of_all_tokens_over_the_bytes_of_their_text(overfitted):
    model, tokenizer = load_policy(overfitted[1].path), Tokenizer.load(overfitted[1].path)
    text = noise(60, seed=5)
    tokens = torch.tensor(tokenizer.encode(text))
    measured = HeldOut.of(tokens, 16, token_sizes(tokenizer), bf16="off").measure(model)
    nats, targets = 0.0, []
    for start in range(0, len(tokens) - 16, 16):  # one row after another, by plain products
        logits = model(tokens[None, start : start + 16]).logits[0].detach()
        row = tokens[start + 1 : start + 17]
        nats -= float(logits.log_softmax(-1)[range(16), row].sum())
        targets += row.tolist()
    num_bytes = len(tokenizer.decode(targets).encode())
    assert measured["loss"] == pytest.approx(nats / len(targets), rel=1e-5)
    assert measured["bits_per_byte"] == pytest.approx(nats / math.log(2) / num_bytes, rel=1e-5)


def test_the_best_weights_are_kept_and_the_reader_is_told(overfitted):
    _, entry, said = overfitted
    history = json.loads((entry.path / "history.json").read_text())
    curve = {row["step"] + 1: row["validation/loss"] for row in history if "validation/loss" in row}
    assert len(curve) == loop.NUM_MEASUREMENTS
    best, last = min(curve, key=curve.get), max(curve)
    metrics = entry.manifest["metrics"]
    assert metrics["best_step"] == best < last and curve[last] > curve[best] + 0.1
    assert metrics["validation_loss"] == pytest.approx(
        curve[best], abs=0.05
    )  # the last is of all held-out rows
    assert any("these weights are kept" in line for line in said)


def test_a_stopped_run_keeps_the_best_weights_from_before_it_stopped(overfitted, tmp_path, monkeypatch):
    settings, whole, _ = overfitted
    monkeypatch.setattr(loop, "SAVE_EVERY_S", 0.0)
    store, save, saves = Store(tmp_path / "again"), loop.save_state, []

    def save_then_stop(path, state):
        save(path, state)
        saves.append(state["best"]["step"])
        if len(saves) == state_after:
            raise Stop

    state_after = whole.manifest["metrics"]["best_step"] + 40  # well behind the best, at one save a step
    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(loop, "save_state", save_then_stop)
        pretrain.run(settings, store, lambda line: None)
    assert saves[-1] == whole.manifest["metrics"]["best_step"]
    resumed = pretrain.run(settings, store, lambda line: None)
    one, other = (load_policy(entry.path).state_dict() for entry in (whole, resumed))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert (whole.path / "history.json").read_text() == (resumed.path / "history.json").read_text()


def test_neither_model_nor_vocabulary_sees_the_held_out_end(tmp_path):
    file = tmp_path / "text.txt"
    for name, end in (("one", "xylophonists " * 40), ("other", "quicksilvers " * 40)):
        file.write_text(noise(1200) + "\n\n" + end)
        settings = PretrainSettings(data=str(file), tokens=2000, vocab_size=400, **SMALL)
        pretrain.run(settings, Store(tmp_path / name), lambda line: None)
    folders = [Store(tmp_path / name).resolve("base").path for name in ("one", "other")]
    vocabularies = [Tokenizer.load(folder).ranks for folder in folders]
    assert vocabularies[0] == vocabularies[1]


def test_the_size_of_the_text_decides_what_is_left_open_and_it_is_said(tmp_path):
    file, said = tmp_path / "text.txt", []
    file.write_text(noise(400))
    entry = pretrain.run(PretrainSettings(data=str(file), **SMALL), Store(tmp_path / "s"), said.append)
    num_characters = sum(map(len, file.read_text().split("\n\n")))
    chosen = plan.by_size(round(0.9 * num_characters))
    settings = entry.manifest["settings"]
    assert {name: settings[name] for name in chosen} == chosen
    (line,) = [line for line in said if "to learn from" in line]
    assert f"{chosen['tokens']:,} are read" in line and "held out" in line and "vocabulary" in line
    assert plan.planned(PretrainSettings(tokens=7, dropout=0.3), 10**6).tokens == 7
    assert plan.planned(PretrainSettings(tokens=7, dropout=0.3), 10**6).dropout == 0.3
    assert plan.planned(PretrainSettings(tokens=10**6, dropout=0.0), 10**4).dropout == 0.0


def test_more_text_is_read_less_often_with_a_larger_vocabulary():
    plans = [plan.by_size(size) for size in (10_000, 100_000, 1_000_000, 10_000_000, 10**9)]
    sizes = [each["vocab_size"] for each in plans]
    passes = [
        each["tokens"] / size for each, size in zip(plans, (10**4, 10**5, 10**6, 10**7, 10**9), strict=True)
    ]
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]
    assert passes == sorted(passes, reverse=True) and passes[0] > 10 * passes[-1]
    assert plans[-1]["dropout"] == 0 < plans[0]["dropout"]


def test_too_little_text_is_one_clear_line(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("A few words only.")
    with pytest.raises(InputError, match="bring more text"):
        pretrain.run(PretrainSettings(data=str(file), **SMALL), Store(tmp_path / "s"), lambda line: None)
