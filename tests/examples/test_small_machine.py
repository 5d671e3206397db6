"""Every way of saving memory runs in its own process, and the page says so of one that cannot."""

import argparse

import pytest
import torch
from safetensors import safe_open
from transformers.pytorch_utils import Conv1D

from examples import small_machine, small_machine_page
from examples.small_machine import Way


def test_ways_of_training_and_answering_run_and_are_measured(monkeypatch):
    monkeypatch.setattr(
        small_machine, "TRAINING", {"LoRA, blocks again, micro-batches": Way(rank=8, again=True, parts=4)}
    )
    monkeypatch.setattr(small_machine, "ANSWERING", ("blocks from the disk",))
    given = argparse.Namespace(layers=2, width=64, vocabulary=300, batch=4, length=8, new=3, model="")
    (found,) = small_machine.run(given).values()
    (trained,), (streamed,) = found["training"], found["answering"]
    assert trained["peak_mib"] > 50 and trained["seconds"] > 0, trained
    assert streamed["peak_mib"] > 50 and streamed["seconds"] > 0, streamed
    rows = small_machine_page.way_rows([streamed, {"way": "x", "failed": "a|b"}])
    assert rows[1] == ["x", "–", "a\\|b"]
    assert set(small_machine_page.memory(found["answering"])) == {"blocks from the disk"}


def test_the_weights_of_a_checkpoint_are_those_of_the_model_a_shared_one_once(tmp_path):
    given = argparse.Namespace(layers=2, width=64, vocabulary=300)
    model = small_machine.random_model(given)
    model.save_pretrained(tmp_path)
    assert small_machine.num_weights(tmp_path) == model.num_parameters()
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        names = file.keys()
    assert "transformer.wte.weight" in names and "lm_head.weight" not in names


def test_a_linear_layer_computes_what_the_published_layout_does():
    torch.manual_seed(0)
    layer, x = Conv1D(6, 4), torch.randn(3, 4)
    torch.testing.assert_close(small_machine.as_linear(layer)(x), layer(x))


def test_four_bits_answer_nearly_what_bfloat16_answers(tmp_path):
    pytest.importorskip("torchao")
    given = argparse.Namespace(layers=2, width=64, vocabulary=320)
    small_machine.random_model(given).save_pretrained(tmp_path)
    four, whole = (small_machine.decoder_of(tmp_path, way) for way in ("int4 (torchao)", "bfloat16"))
    one, other = (decoder.read([0], [[5, 6, 7]]).float() for decoder in (four, whole))
    assert not torch.equal(one, other)
    assert torch.nn.functional.cosine_similarity(one, other).item() > 0.98


def test_an_optimizer_with_eight_bits_steps_like_adamw(tmp_path):
    pytest.importorskip("torchao")
    steps = []
    for eight_bits in (False, True):
        torch.manual_seed(0)
        layer = torch.nn.Linear(64, 64, bias=False)
        before = layer.weight.detach().clone()
        optimizer = small_machine.optimizer_of(layer, eight_bits)
        for _ in range(3):
            (layer(torch.randn(8, 64, generator=torch.Generator().manual_seed(1))) ** 2).sum().backward()
            optimizer.step(max_grad_norm=1e9)
        steps.append((layer.weight.detach() - before).flatten())
    assert torch.nn.functional.cosine_similarity(*steps, dim=0) > 0.98
