"""Batched Muon against torch's own."""

import copy

import torch
from torch import nn

from rlhf.muon import BatchedMuon


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
