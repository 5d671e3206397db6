"""Log-probabilities through the head against cross entropy."""

import pytest
import torch
import torch.nn.functional as F

from rlhf.learning import head
from rlhf.learning.head import token_logprobs
from rlhf.machine import kernels


@pytest.fixture(autouse=True, params=["compiled", "few rows at a time", "plain"])
def way(request, monkeypatch):
    if request.param != "compiled":
        monkeypatch.setattr(kernels, "library", lambda: None)
        monkeypatch.setattr(head, "PLAIN", head.PLAIN if request.param == "plain" else 0)
    return request.param


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("chunk", [1, 64, 2**20])
def test_logprobs_and_gradients_are_those_of_cross_entropy(temperature, chunk, monkeypatch):
    monkeypatch.setattr(head, "CHUNK", chunk)
    torch.manual_seed(0)
    hidden, weight = torch.randn(13, 8, dtype=torch.float64), torch.randn(29, 8, dtype=torch.float64)
    labels = torch.randint(29, (13,))
    labels[4] = -100
    upstream = torch.randn(13)
    found, expected = [], []
    for results, is_oracle in ((found, False), (expected, True)):
        h, w = (x.float().requires_grad_() for x in (hidden, weight))
        if is_oracle:
            logprobs = -F.cross_entropy(h @ w.T / temperature, labels, reduction="none")
        else:
            logprobs = token_logprobs(h, w, labels, temperature)
        logprobs.backward(upstream)
        results += [logprobs, h.grad, w.grad]
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    assert found[0][4] == 0 and not found[1][4].any()


def test_under_autocast_the_product_is_in_bfloat16_and_the_rest_is_not():
    torch.manual_seed(0)
    hidden, weight, labels = torch.randn(40, 16), torch.randn(300, 16), torch.randint(300, (40,))
    h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        logprobs = token_logprobs(h, w, labels)
    logits = F.linear(hidden.bfloat16(), weight.bfloat16()).float()
    assert logprobs.dtype == torch.float32
    assert torch.allclose(logprobs, -F.cross_entropy(logits, labels, reduction="none"), atol=1e-5)
    logprobs.mean().backward()
    p, q = (x.clone().requires_grad_() for x in (hidden, weight))
    (-F.cross_entropy(p @ q.T, labels)).backward()
    for ours, exact in ((h.grad, p.grad), (w.grad, q.grad)):  # bfloat16 has three digits
        assert (ours - exact).norm() < 0.02 * exact.norm()


def test_a_second_backward_pass_is_refused_where_the_gradient_took_the_logits_place(way):
    hidden, weight = torch.randn(3, 4, requires_grad=True), torch.randn(5, 4, requires_grad=True)
    loss = token_logprobs(hidden, weight, torch.tensor([0, 1, 2])).sum()
    loss.backward(retain_graph=True)
    if way != "plain":
        with pytest.raises(RuntimeError, match="inplace"):
            loss.backward()
