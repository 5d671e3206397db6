"""The compiled loops against torch's own operations, in double precision where a tolerance is to mean something."""

import ctypes
import math
import os
import shutil
import sys

import pytest
import torch
import torch.nn.functional as F

from rlhf.machine import kernels
from rlhf.sampling.generate import SamplingSettings, draw
from tests import forked

FORMATS = [torch.float32, torch.bfloat16]
pytestmark = pytest.mark.skipif(kernels.compiler() is None, reason="no C++ compiler")


def close(ours, exact):
    """To rounding: 2e-6 in float32, half a unit in the last of bfloat16's eight bits."""
    tolerance = 2e-6 if ours.dtype == torch.float32 else 2**-8
    return torch.allclose(ours.double(), exact, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", FORMATS)
def test_gelu_and_its_gradient_are_those_of_the_tanh_form(dtype):
    torch.manual_seed(0)
    x = torch.cat([torch.randn(1000) * 3, torch.tensor([0.0, -0.0, 60.0, -60.0])]).to(dtype)
    upstream = torch.randn(len(x)).to(dtype)
    ours, exact = x.clone().requires_grad_(), x.double().requires_grad_()
    y, reference = kernels.gelu(ours), F.gelu(exact, approximate="tanh")
    y.backward(upstream)
    reference.backward(upstream.double())
    assert close(y.detach(), reference.detach())
    assert close(ours.grad, exact.grad)


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("size", [1, 5, 16, 37])
def test_causal_softmax_weighs_the_keys_up_to_the_query(dtype, size):
    torch.manual_seed(size)
    scores, upstream = torch.randn(3, 2, size, size).mul(4).to(dtype), torch.randn(3, 2, size, size).to(dtype)
    later = torch.full((size, size), -math.inf, dtype=torch.double).triu(1)
    ours, exact = scores.clone().requires_grad_(), scores.double().requires_grad_()
    weights, reference = kernels.causal_softmax(ours, 0.3), (0.3 * exact + later).softmax(-1)
    weights.backward(upstream)
    reference.backward(upstream.double())
    assert close(weights.detach(), reference.detach())
    assert torch.allclose(ours.grad.double(), exact.grad, atol=1e-6 if dtype == torch.float32 else 0.02)
    assert not weights.detach().triu(1).any() and not ours.grad.triu(1).any()


@pytest.mark.parametrize("dtype", FORMATS)
def test_norm_and_its_gradients_are_those_of_layer_norm(dtype):
    torch.manual_seed(0)
    inputs = torch.randn(3, 7, 40) * 2 + 5, torch.randn(40), torch.randn(40)
    upstream = torch.randn(3, 7, 40).to(dtype)
    ours = [x.clone().requires_grad_() for x in inputs]
    exact = [x.double().requires_grad_() for x in inputs]
    y, reference = kernels.norm(*ours, 1e-5, dtype), F.layer_norm(exact[0], (40,), *exact[1:], 1e-5)
    y.backward(upstream)
    reference.backward(upstream.double())
    assert y.dtype == dtype
    assert torch.allclose(
        y.detach().double(), reference.detach(), atol=1e-5 if dtype == torch.float32 else 0.02
    )
    for mine, theirs in zip(ours, exact, strict=True):
        assert torch.allclose(mine.grad.double(), theirs.grad, atol=2e-5)


def test_norm_of_equal_numbers_is_the_bias():
    bias = torch.randn(40)
    assert torch.equal(
        kernels.norm(torch.full((1, 40), 3.0), torch.ones(40), bias, 1e-5, torch.float32)[0], bias
    )


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("vocab", [3, 256, 1000])
@pytest.mark.parametrize(
    "truncation",
    [{}, {"top_k": 7}, {"top_p": 0.9}, {"min_p": 0.05}, {"top_k": 20, "top_p": 0.6, "min_p": 0.01}, {"top_p": 1e-9}],
)  # fmt: skip
@pytest.mark.parametrize("processed", [False, True])
def test_a_draw_is_that_of_the_torch_operations(dtype, vocab, truncation, processed, monkeypatch):
    torch.manual_seed(vocab)
    wider, uniforms = torch.randn(200, vocab + 5).mul(3).to(dtype), torch.rand(200, dtype=torch.double)
    logits = wider[:, :vocab]
    logits += torch.rand(200, vocab).mul(1e-2 if dtype == torch.float32 else 0)  # no ties
    logits[:, 1] = -math.inf
    uniforms[:2] = torch.tensor([0.0, 1 - 1e-16])
    settings = SamplingSettings(temperature=0.7, processed_logprobs=processed, **truncation)
    tokens, logprobs = draw(logits, uniforms, settings)
    monkeypatch.setattr(kernels, "library", lambda: None)
    plain_tokens, plain_logprobs = draw(logits, uniforms, settings)
    share = 0.99 if dtype == torch.float32 else 0.93  # equals at the edge of a nucleus may go either way
    assert (tokens == plain_tokens).float().mean() > share
    assert not (tokens == 1).any()
    same = tokens == plain_tokens
    tolerance = 1e-5 if dtype == torch.float32 or not processed else 0.1
    assert torch.allclose(logprobs[same], plain_logprobs[same], atol=tolerance)


def test_an_infinite_score_or_number_is_not_hidden():
    assert kernels.gelu(torch.tensor([math.nan])).isnan().all()
    assert kernels.gelu(torch.tensor([math.nan]).bfloat16()).isnan().all()
    x = torch.tensor([[1.0, math.inf, 0.0]])
    assert kernels.norm(x, torch.ones(3), torch.zeros(3), 1e-5, torch.float32).isnan().all()
    all_bits = torch.full((1, 3), 2**31 - 1, dtype=torch.int32).view(
        torch.float32
    )  # NaN that rounds up to zero
    assert kernels.norm(all_bits, torch.ones(3), torch.zeros(3), 1e-5, torch.bfloat16).isnan().all()
    assert kernels.causal_softmax(torch.full((1, 2, 2), math.nan), 1.0)[0, 1].isnan().all()


@pytest.mark.parametrize("threads", [2, 3])
def test_results_do_not_depend_on_the_number_of_threads(threads):
    torch.manual_seed(0)
    x, gain, bias = torch.randn(300, 128), torch.randn(128), torch.randn(128)

    def everything():
        leaf = x.clone().requires_grad_()
        weights = [gain.clone().requires_grad_(), bias.clone().requires_grad_()]
        y = kernels.gelu(kernels.norm(leaf, *weights, 1e-5, torch.float32))
        kernels.causal_softmax(y[:128].contiguous(), 0.5).square().sum().backward()
        return [leaf.grad, weights[0].grad, weights[1].grad]

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = everything()
        torch.set_num_threads(threads)
        assert all(torch.equal(a, b) for a, b in zip(one, everything(), strict=True))
    finally:
        torch.set_num_threads(before)


UNOPTIMISED = ("-O0", *(flag for flag in kernels.FLAGS if flag != "-O3"))  # a fourth of the compiler's time
LOGITS = f"""
import torch, warnings
from rlhf.machine import kernels
kernels.FLAGS = {UNOPTIMISED}
from rlhf.models.gpt import GPT, GPT2Config
warnings.simplefilter("always")
torch.manual_seed(0)
model = GPT(GPT2Config(n_layer=2, n_embd=32, n_head=2, vocab_size=50, n_positions=16)).eval()
for _ in range(2): logits = model(input_ids=torch.arange(10)[None]).logits
print(kernels.library() is None, float(logits.detach().double().square().sum()))
"""
PROGRAMS = "/usr/bin:/bin:/usr/local/bin"


def logits_with(home, **environment):
    """Whether the loops are missing, the logits' sum of squares, and what was said, of a process of its own."""
    environment = {"PATH": PROGRAMS, "HOME": str(home), "TMPDIR": str(home)} | environment
    done = forked.run([sys.executable, "-c", LOGITS], env=environment)
    assert done.returncode == 0, done.stderr
    missing, number = done.stdout.split()
    return missing == "True", float(number), done.stderr


def test_without_a_compiler_the_model_computes_the_same_and_says_so_once(tmp_path):
    missing, plain, warned = logits_with(tmp_path, PATH=str(tmp_path))
    assert missing and warned.count("no C++ compiler was found") == 1
    missing, compiled, warned = logits_with(tmp_path)
    assert not missing and "compiler" not in warned
    assert plain == pytest.approx(compiled, rel=1e-5)


def test_where_no_folder_can_be_written_the_model_computes_the_same_and_says_so_once(tmp_path):
    file = tmp_path / "file"
    file.write_text("no folder can be made under a file, by nobody")
    missing, plain, warned = logits_with(tmp_path, XDG_CACHE_HOME=str(file), TMPDIR=str(tmp_path))
    assert (
        not missing and "torch's own operations" not in warned
    )  # a folder of the process's own serves instead
    broken = tmp_path / "c++"
    broken.write_text("#!/bin/sh\necho 'no space left on device' >&2; exit 1\n")
    broken.chmod(0o755)
    missing, same, warned = logits_with(tmp_path, XDG_CACHE_HOME=str(file), CXX=str(broken))
    assert missing and warned.count("could not compile kernels.cpp: no space left on device") == 1
    assert plain == pytest.approx(same, rel=1e-5)


COMPILERS = [f"g++-{version}" for version in range(11, 15)] + [
    f"clang++-{version}" for version in (14, 16, 19)
]


@pytest.mark.parametrize("compiler", ["clang++", *COMPILERS])
def test_every_compiler_that_is_here_builds_the_loops_in_cpp17(compiler, tmp_path, monkeypatch):
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not here; tests/prepare installs g++ alone")
    if os.path.realpath(shutil.which(compiler)) == os.path.realpath(kernels.compiler()):
        built = kernels.library()  # of the usual one, which all other tests run
        assert built is not None
    else:
        monkeypatch.setenv("CXX", compiler)
        kernels._compile(tmp_path / "kernels.so")
        built = ctypes.CDLL(str(tmp_path / "kernels.so"))
    x = torch.randn(1000)
    y = torch.empty_like(x)
    built.gelu_float(ctypes.c_void_p(x.data_ptr()), ctypes.c_void_p(y.data_ptr()), ctypes.c_int64(x.numel()))
    assert torch.allclose(y, torch.nn.functional.gelu(x, approximate="tanh"), atol=1e-6)
