"""Batched Muon against torch's own."""

import copy

import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from rlhf.learning.muon import BatchedMuon, orthogonalised
from rlhf.learning.optimizers import muon_and_adamw


def test_batched_muon_steps_as_torch_does_and_exchanges_state_with_it():
    torch.manual_seed(0)
    shapes = [(32, 96), (32, 32), (32, 128), (128, 32)] * 3
    ours = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    theirs = copy.deepcopy(ours)
    settings = {"lr": 0.02, "momentum": 0.95, "weight_decay": 0.1}
    one, other = BatchedMuon(ours, **settings), torch.optim.Muon(theirs, **settings)
    for step in range(4):
        if step == 2:  # each continues from what the other saved
            states = one.state_dict(), other.state_dict()
            one.load_state_dict(copy.deepcopy(states[1]))
            other.load_state_dict(copy.deepcopy(states[0]))
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        ours[5].grad = theirs[5].grad = None
        one.step()
        other.step()
    # An update has singular values near 1, so entries of about 0.1 of the rate; bfloat16 keeps 3 digits of them.
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_orthogonalised_keeps_the_directions_and_brings_the_singular_values_near_1_in_either_format():
    torch.manual_seed(0)
    x = torch.randn(3, 24, 40)
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    for dtype, error in ((torch.float32, 1e-4), (torch.bfloat16, 0.05)):
        y = orthogonalised(x.to(dtype), 5, 1e-7)
        assert y.dtype == dtype
        diagonal = u.mT @ y.float() @ v.mT
        values = diagonal.diagonal(dim1=1, dim2=2)
        assert (diagonal - torch.diag_embed(values)).abs().max() < error
        assert values.min() > 0.6 and values.max() < 1.3


def test_products_are_bfloat16_only_where_the_hardware_multiplies_it(monkeypatch):
    model = GPT2LMHeadModel(GPT2Config(vocab_size=32, n_positions=8, n_embd=8, n_layer=1, n_head=1))
    for fast, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr("rlhf.learning.optimizers.has_fast_bf16", lambda device, fast=fast: fast)
        assert muon_and_adamw(model, 1e-3, 0.01)[0].dtype == dtype
