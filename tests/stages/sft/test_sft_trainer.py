"""The loss of demonstrations by our own head is trl's, with the same gradients, on every architecture."""

import pytest
import torch

from rlhf.data import Demonstration
from rlhf.models.tokenizer import load_tokenizer
from stages.settings import SFTSettings
from stages.sft import stage as sft
from stages.sft import trainer as sft_trainer

ROWS = [
    Demonstration(prompt="Where is the dog?", completion="The dog barks."),
    Demonstration(prompt="Hello", completion="Tom has a blue boat in the park."),
    Demonstration(prompt="Who is there", completion="No."),
]


def loss_and_gradients(folder, work, plain, monkeypatch, **settings):
    """Of one batch; plain: the most logits for which trl's own head is used."""
    monkeypatch.setattr(sft_trainer, "PLAIN", plain)
    monkeypatch.setattr("rlhf.machine.devices.has_fast_bf16", lambda device: False)
    monkeypatch.setattr("stages.trainers.parts.has_fast_bf16", lambda device: False)
    torch.manual_seed(0)
    given = SFTSettings(data="unused", batch_size=3, max_length=64, **settings)
    trainer = sft.trainer_of(given, folder, load_tokenizer(folder), ROWS, ROWS, work, None, print)
    torch.manual_seed(1)
    batch = next(iter(trainer.get_train_dataloader()))
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    return loss.item(), {n: p.grad for n, p in trainer.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("settings", [{}, {"last_blocks": 1}, {"lora_rank": 2}])
def test_the_loss_and_its_gradients_are_trls(foreign_model, tmp_path, monkeypatch, settings):
    ours, gradients = loss_and_gradients(foreign_model, tmp_path / "a", 0, monkeypatch, **settings)
    trls, wanted = loss_and_gradients(foreign_model, tmp_path / "b", 2**60, monkeypatch, **settings)
    assert ours == pytest.approx(trls, rel=1e-5)
    assert gradients.keys() == wanted.keys() and gradients
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-3, atol=1e-6)


def test_trls_own_loss_is_not_taken_where_logits_are_many(foreign_model, tmp_path, monkeypatch):
    def forbidden(*_args, **_kwargs):
        raise AssertionError("trl's loss was computed")

    monkeypatch.setattr(sft_trainer.SFTTrainer, "compute_loss", forbidden)
    if "gemma" in str(foreign_model):
        pytest.skip("its logits are capped, and no product alone")
    loss_and_gradients(foreign_model, tmp_path, 0, monkeypatch)


def test_demonstrations_whose_prompt_leaves_no_room_are_left_out_aloud(foreign_model, tmp_path):
    said = []
    rows = [*ROWS, Demonstration(prompt="The dog barks in the park. " * 9, completion="No.")]
    trainer = sft.trainer_of(
        SFTSettings(data="unused", max_length=64), foreign_model, load_tokenizer(foreign_model), rows, rows,
        tmp_path, None, said.append,
    )  # fmt: skip
    assert len(trainer.train_dataset) == 3
    assert said == [
        "sft: 3 answers to learn in 3 demonstrations; 1 demonstrations left out, too long for max_length = 64"
    ]


def test_the_validation_loss_is_per_token_whatever_the_batch_size(base_store, tmp_path):
    folder = str(base_store.resolve("base").path)
    long = Demonstration(prompt="Say it", completion="The dog barks in the park. " * 3)
    rows = [*ROWS, long, ROWS[0]]
    found = []
    for size in (1, 2, 5):
        made = SFTSettings(data="unused", batch_size=size, max_length=64)
        work = tmp_path / str(size)
        trainer = sft.trainer_of(
            made, folder, load_tokenizer(folder), rows, rows, work, None, lambda line: None
        )
        found.append(trainer.evaluate()["eval_loss"])
    assert found == pytest.approx([found[0]] * 3, rel=2e-3)  # bfloat16 rounds with the batch
    batch = trainer.data_collator([trainer.eval_dataset[i] for i in range(5)])
    labels = batch["labels"][:, 1:]
    with torch.no_grad():
        logits = trainer.model(batch["input_ids"], batch["attention_mask"]).logits[:, :-1].float()
    wanted = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    assert found[0] == pytest.approx(float(wanted), rel=2e-3)
