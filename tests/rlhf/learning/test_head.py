"""Log-probabilities through the head against cross entropy."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from rlhf.learning import head
from rlhf.learning.head import token_logprobs, token_logprobs_and_entropies
from rlhf.machine import kernels


@pytest.fixture(autouse=True, params=["compiled", "blocks of words", "plain"])
def way(request, monkeypatch):
    if request.param == "plain":
        monkeypatch.setattr(kernels, "library", lambda: None)
    if request.param == "blocks of words":
        monkeypatch.setattr(head, "PLAIN", 0)
        monkeypatch.setattr(head, "WHOLE", 0)
    return request.param


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("block", [1, 64, 2**20])
@pytest.mark.parametrize("frozen", [(), (0,), (1,)], ids=["", "trunk frozen", "head frozen"])
def test_logprobs_and_gradients_are_those_of_cross_entropy(temperature, block, frozen, monkeypatch):
    monkeypatch.setattr(head, "BLOCK", block)
    torch.manual_seed(0)
    hidden, weight = torch.randn(13, 8, dtype=torch.float64), torch.randn(29, 8, dtype=torch.float64)
    labels = torch.randint(29, (13,))
    labels[4] = -100
    upstream = torch.randn(13)
    found, expected = [], []
    for results, is_oracle in ((found, False), (expected, True)):
        h, w = (x.float().requires_grad_(i not in frozen) for i, x in enumerate((hidden, weight)))
        if is_oracle:
            logprobs = -F.cross_entropy(h @ w.T / temperature, labels, reduction="none")
        else:
            logprobs = token_logprobs(h, w, labels, temperature)
        logprobs.backward(upstream)
        results += [logprobs, *(x.grad for x in (h, w) if x.requires_grad)]
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    assert found[0][4] == 0 and (0 in frozen or not found[1][4].any())


@pytest.mark.parametrize("block", [1, 64, 2**20])
def test_entropies_are_those_of_the_whole_distribution_and_leave_the_gradient_alone(block, monkeypatch):
    monkeypatch.setattr(head, "BLOCK", block)
    torch.manual_seed(1)
    hidden, weight, labels = 5 * torch.randn(7, 8), torch.randn(31, 8), torch.randint(31, (7,))
    h = hidden.clone().requires_grad_()
    logprobs, entropies = token_logprobs_and_entropies(h, weight, labels, 0.8)
    p = (hidden @ weight.T / 0.8).log_softmax(-1)
    assert torch.allclose(entropies, -(p.exp() * p).sum(-1), atol=1e-5)
    assert torch.allclose(logprobs, p[torch.arange(7), labels], atol=1e-5) and not entropies.requires_grad
    logprobs.sum().backward()
    again = hidden.clone().requires_grad_()
    (again @ weight.T / 0.8).log_softmax(-1)[torch.arange(7), labels].sum().backward()
    assert torch.allclose(h.grad, again.grad, atol=1e-5)


@pytest.mark.parametrize("frozen_head", [False, True])
def test_no_tensor_of_all_tokens_by_all_words_is_ever_made(frozen_head, monkeypatch, way):
    """Forward, entropy and backward of 64 tokens by 5,000 words, with room for 20,000 logits at once."""
    if way != "blocks of words":
        return
    monkeypatch.setattr(head, "BLOCK", 20_000)
    largest = [0]

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for x in out if isinstance(out, tuple | list) else (out,):
                if isinstance(x, torch.Tensor):
                    largest[0] = max(largest[0], x.numel())
            return out

    hidden, weight = torch.randn(64, 8, requires_grad=True), torch.randn(5000, 8, requires_grad=not frozen_head)  # fmt: skip
    labels = torch.randint(5000, (64,))
    with Sizes():
        token_logprobs_and_entropies(hidden, weight, labels)[0].sum().backward()
    assert largest[0] <= 5000 * 8  # the weight's own gradient is the largest


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
    if way == "compiled":
        with pytest.raises(RuntimeError, match="inplace"):
            loss.backward()
