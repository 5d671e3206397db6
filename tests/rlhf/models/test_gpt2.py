"""Our GPT against transformers' GPT-2: the same weights must give the same numbers, in both directions."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, GPT2Config, GPT2LMHeadModel

from rlhf.models.checkpoints import load_policy, load_scalar
from rlhf.models.gpt import GPT, ScalarGPT, Trunk

CONFIG = {
    "vocab_size": 61, "n_positions": 32, "n_embd": 24, "n_layer": 3, "n_head": 4, "embd_pdrop": 0.0,
    "attn_pdrop": 0.0, "resid_pdrop": 0.0, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
}  # fmt: skip
ROWS, LENGTH = 3, 12


@pytest.fixture
def theirs():
    torch.manual_seed(1)
    return GPT2LMHeadModel(GPT2Config(**CONFIG)).eval()


@pytest.fixture
def ours(theirs, tmp_path):
    theirs.save_pretrained(tmp_path)
    model = load_policy(tmp_path)
    assert isinstance(model, GPT)
    return model


def relative(a, b):
    return ((a - b).norm() / b.norm().clamp_min(1e-12)).item()


def padded(side):
    torch.manual_seed(2)
    tokens, mask = torch.randint(3, 61, (ROWS, LENGTH)), torch.ones(ROWS, LENGTH, dtype=torch.long)
    for row, padding in enumerate((0, 3, 7)):
        if side == "left":
            mask[row, :padding] = 0
        if side == "right" and padding:
            mask[row, -padding:] = 0
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    return {"input_ids": tokens.masked_fill(mask == 0, 2), "attention_mask": mask, "position_ids": positions}


@pytest.mark.parametrize("side", ["none", "left", "right"])
def test_logits_loss_and_every_gradient_agree(ours, theirs, side):
    batch = padded(side)
    # A first token that only padding stands before is no target: what padding predicts means nothing.
    target = (batch["attention_mask"] == 1) & (batch["attention_mask"].roll(1, 1) == 1)
    labels = batch["input_ids"].masked_fill(~target, -100)
    our, their = (model(**batch, labels=labels) for model in (ours, theirs))
    real = batch["attention_mask"].bool()
    assert relative(our.logits[real], their.logits[real]) < 1e-5
    assert abs(our.loss.item() / their.loss.item() - 1) < 1e-5
    our.loss.backward(), their.loss.backward()
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        assert relative(parameter.grad, gradients[name]) < 1e-5, name


def test_positions_left_out_follow_the_mask(ours):
    batch = padded("left")
    real = batch["attention_mask"].bool()
    given = ours(**batch).logits[real]
    del batch["position_ids"]
    assert torch.allclose(ours(**batch).logits[real], given, atol=1e-6)


def test_packed_rows_equal_separate_rows(ours):
    torch.manual_seed(3)
    one, other = torch.randint(3, 61, (1, 7)), torch.randint(3, 61, (1, 5))
    positions = torch.cat([torch.arange(7), torch.arange(5)])[None]
    packed = ours(input_ids=torch.cat([one, other], 1), position_ids=positions).logits
    separate = torch.cat([ours(input_ids=one).logits, ours(input_ids=other).logits], 1)
    assert relative(packed, separate) < 1e-5


def test_transformers_loads_what_we_save(ours, tmp_path):
    folder = tmp_path / "saved"
    ours.save_pretrained(folder)
    loaded = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert type(loaded) is GPT2LMHeadModel
    assert loaded.config.architectures == ["GPT2LMHeadModel"]
    batch = padded("none")
    assert relative(loaded(**batch).logits, ours(**batch).logits) < 1e-5


def test_scalar_models_load_in_transformers(ours, tmp_path):
    torch.manual_seed(4)
    scalar = ScalarGPT(GPT2Config(**CONFIG, num_labels=1)).eval()
    scalar.save_pretrained(tmp_path / "scalar")
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "scalar").eval()
    assert type(theirs).__name__ == "GPT2ForSequenceClassification" and theirs.config.num_labels == 1
    batch = padded("right")
    expected = theirs(**batch).logits
    assert torch.allclose(scalar(**batch).logits, expected, atol=1e-5)
    assert torch.allclose(load_scalar(tmp_path / "scalar")(**batch).logits, expected, atol=1e-5)


def test_embedding_and_head_are_one_tensor(ours):
    assert ours.lm_head.weight is ours.transformer.wte.weight


def test_causal_models_do_not_see_the_future_and_encoders_do(ours):
    tokens = padded("none")["input_ids"]
    changed = tokens.clone()
    changed[:, -1] = (changed[:, -1] + 1) % 61
    trunk = ours.transformer
    causal = [trunk(input_ids=x).last_hidden_state[:, :-1] for x in (tokens, changed)]
    assert torch.equal(*causal)
    encoder = Trunk(ours.config, causal=False).eval()
    encoder.load_state_dict(trunk.state_dict())
    both = [encoder(input_ids=x).last_hidden_state[:, :-1] for x in (tokens, changed)]
    assert not torch.allclose(*both)


def test_dropout_acts_in_training_only():
    torch.manual_seed(5)
    model = GPT(GPT2Config(**CONFIG | {"resid_pdrop": 0.5, "embd_pdrop": 0.5, "attn_pdrop": 0.5}))
    tokens = padded("none")["input_ids"]
    model.eval()
    assert torch.equal(model(input_ids=tokens).logits, model(input_ids=tokens).logits)
    model.train()
    assert not torch.allclose(model(input_ids=tokens).logits, model(input_ids=tokens).logits)


def test_transformers_generates_with_our_model(ours, theirs):
    prompt = padded("none")["input_ids"][:, :5]
    settings = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 2}
    mask = torch.ones_like(prompt)
    our, their = (model.generate(prompt, attention_mask=mask, **settings) for model in (ours, theirs))
    assert torch.equal(our, their)


@pytest.mark.parametrize("side", ["none", "left", "right"])
def test_long_rows_take_the_fused_kernel_and_agree(ours, theirs, side, monkeypatch):
    """A low PLAIN_WIDTH sends short rows down the path that rows of more than 512 tokens take on a CPU."""
    monkeypatch.setattr("rlhf.models.gpt.PLAIN_WIDTH", 4)
    batch = padded(side)
    real = batch["attention_mask"].bool()
    assert relative(ours(**batch).logits[real], theirs(**batch).logits[real]) < 1e-5
