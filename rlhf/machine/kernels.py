"""The loops of kernels.cpp and decoder.cpp, compiled once per machine, beside the torch operations that they stand for.

Where there is no C++ compiler, and for tensors that are not on a CPU, not contiguous or in another format, the torch
operations do the same work, only slower: every caller asks `fits` first.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

NAMES = ("kernels.cpp", "decoder.cpp", "products.h", "attention.h", "vectors.h")
SOURCES = tuple(Path(__file__).with_name(name) for name in NAMES)
FORMATS = {torch.float32: "float", torch.bfloat16: "bfloat16"}
# Sums may be taken in vectors; infinities and NaN keep their meaning, because training refuses a loss of them.
FLAGS = ("-O3", "-march=native", "-std=c++17", "-shared", "-fPIC", "-fno-math-errno", "-fno-trapping-math")
OPENMP = (("-fopenmp",), ("-fopenmp-simd",), ())  # what the compiler takes first; Apple's takes the second


def compiler() -> str | None:
    """The C++ compiler: CXX where set, else the usual names."""
    names = (os.environ.get("CXX", ""), "c++", "g++", "clang++")
    return next((found for name in names if name and (found := shutil.which(name))), None)


@cache
def library() -> ctypes.CDLL | None:
    """The compiled loops, or None where they cannot be compiled, which is said once. Takes two seconds, once a machine."""
    name = f"kernels-{_fingerprint()}.so"
    with tempfile.TemporaryDirectory() as private:  # a library that is loaded may be deleted
        for folder in (_cache_folder(), Path(private)):
            try:
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                if not (folder / name).exists():
                    _compile(folder / name)
                return ctypes.CDLL(str(folder / name))
            except OSError:
                continue  # not writable, or mounted without the right to execute
            except _NotCompiled as error:
                warnings.warn(f"{error}; torch's own operations are used, which are slower", stacklevel=2)
                return None
    return None


class _NotCompiled(Exception):
    pass


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rlhf"


def _fingerprint() -> str:
    """Of the source and of the processor: a home folder may be shared by machines."""
    processor = platform.processor() + platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        processor = "".join(
            sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))})
        )
    return hashlib.sha256(
        b"".join(source.read_bytes() for source in SOURCES) + processor.encode()
    ).hexdigest()[:16]


def _compile(target: Path) -> None:
    """Compile the loops to `target`; another process never sees half a file."""
    found = compiler()
    if found is None:
        raise _NotCompiled("no C++ compiler was found (c++, g++, clang++)")
    sources = [str(source) for source in SOURCES if source.suffix == ".cpp"]
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder) / target.name
        for openmp in OPENMP:
            done = subprocess.run(
                [found, *FLAGS, *openmp, *sources, "-o", str(made)], capture_output=True, text=True
            )
            if not done.returncode:
                os.replace(made, target)
                return
    raise _NotCompiled(
        f"{found} could not compile {SOURCES[0].name}: {(done.stderr.splitlines() or ['?'])[0]}"
    )


def fits(*tensors: Tensor) -> bool:
    """Whether the loops can take these tensors: plain ones with memory, contiguous, on the CPU, float32 or bfloat16."""
    return all(map(_is_plain, tensors)) and library() is not None


def _is_plain(x: Tensor) -> bool:
    """A tensor of another class, such as a DTensor, or one whose storage is freed has no numbers where its pointer says."""
    return (
        type(x) in (Tensor, torch.nn.Parameter)
        and x.device.type == "cpu"
        and x.dtype in FORMATS
        and x.is_contiguous()
        and (x.untyped_storage().nbytes() > 0 or x.numel() == 0)
    )


@cache
def _loop(name: str, dtype: torch.dtype, kinds: str) -> Any:
    """A loop by its name and format; kinds has a letter per argument: p a tensor, i an integer, f a number."""
    loop = getattr(library(), f"{name}_{FORMATS[dtype]}")
    loop.argtypes = [{"p": ctypes.c_void_p, "i": ctypes.c_int64, "f": ctypes.c_float}[kind] for kind in kinds]
    loop.restype = None
    return loop


class _Gelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = torch.empty_like(x)
        _loop("gelu", x.dtype, "ppi")(x.data_ptr(), y.data_ptr(), x.numel())
        ctx.save_for_backward(x)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Tensor:
        (x,), upstream = ctx.saved_tensors, upstream.contiguous()
        grad = torch.empty_like(x)
        loop = _loop("gelu_backward", x.dtype, "pppi")
        loop(x.data_ptr(), upstream.data_ptr(), grad.data_ptr(), x.numel())
        return grad


def gelu(x: Tensor) -> Tensor:
    """GELU's tanh approximation (Hendrycks and Gimpel 2016) of x, any shape; torch's takes six times as long."""
    return _Gelu.apply(x)


class _CausalSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, scale: float) -> Tensor:
        weights, size = torch.empty_like(scores), scores.shape[-1]
        matrices = scores.numel() // size**2
        loop = _loop("causal_softmax", scores.dtype, "ppiif")
        loop(scores.data_ptr(), weights.data_ptr(), matrices, size, scale)
        ctx.save_for_backward(weights)
        ctx.scale = scale
        return weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        (weights,), upstream = ctx.saved_tensors, upstream.contiguous()
        grad, size = torch.empty_like(weights), weights.shape[-1]
        loop = _loop("causal_softmax_backward", weights.dtype, "pppiif")
        matrices = weights.numel() // size**2
        loop(weights.data_ptr(), upstream.data_ptr(), grad.data_ptr(), matrices, size, ctx.scale)
        return grad, None


def causal_softmax(scores: Tensor, scale: float) -> Tensor:
    """softmax of scale · scores (…, T, T) over the keys up to the query's own place; zero at later ones."""
    return _CausalSoftmax.apply(scores, scale)


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, bias: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        y, (rows, channels) = torch.empty_like(x, dtype=dtype), (x.numel() // x.shape[-1], x.shape[-1])
        moments = x.new_empty(rows, 2)
        pointers = (each.data_ptr() for each in (x, gain, bias, y, moments))
        _loop("norm", dtype, "pppppiif")(*pointers, rows, channels, eps)
        ctx.save_for_backward(x, gain, moments)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        (x, gain, moments), upstream = ctx.saved_tensors, upstream.contiguous()
        grad, grad_gain, grad_bias = torch.empty_like(x), torch.empty_like(gain), torch.empty_like(gain)
        tensors = (x, gain, moments, upstream, grad, grad_gain, grad_bias)
        pointers = (each.data_ptr() for each in tensors)
        _loop("norm_backward", upstream.dtype, "pppppppii")(*pointers, len(moments), len(gain))
        return grad, grad_gain, grad_bias, None, None


def norm(x: Tensor, gain: Tensor, bias: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """Layer norm (Ba et al. 2016) of x (…, C) in `dtype`; x, gain (C,) and bias (C,) are float32."""
    return _Norm.apply(x, gain, bias, eps, dtype)


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
        (N, V), sharpness = logits.shape, 1 / temperature
        logprobs, log_sums = logits.new_empty(2, N, dtype=torch.float32)
        pointers = (each.data_ptr() for each in (logits, labels, logprobs, log_sums))
        _loop("token_logprobs", logits.dtype, "ppppiif")(*pointers, N, V, sharpness)
        ctx.save_for_backward(logits, labels, log_sums)
        ctx.sharpness = sharpness
        return logprobs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (logits, labels, log_sums), upstream = ctx.saved_tensors, upstream.contiguous()
        pointers = (each.data_ptr() for each in (logits, labels, log_sums, upstream))
        _loop("token_logprobs_backward", logits.dtype, "ppppiif")(*pointers, *logits.shape, ctx.sharpness)
        torch.autograd.graph.increment_version(logits)  # so that autograd refuses a second backward pass
        return logits, None, None


def token_logprobs(logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """log softmax(logits / temperature) at the labels: (N, V), (N,) int64 → (N,) float32; a label below 0 gives 0.

    The backward pass writes the gradient where the logits were, so they must not be used elsewhere.
    """
    return _TokenLogprobs.apply(logits, labels, temperature)


def log_sums(logits: Tensor, temperature: float) -> Tensor:
    """log Σ exp(logits / temperature) of each row: (N, V) → (N,) float32. No gradient."""
    N, V = logits.shape
    labels, (logprobs, sums) = (
        logits.new_full((N,), -1, dtype=torch.long),
        logits.new_empty(2, N, dtype=torch.float32),
    )
    pointers = (each.data_ptr() for each in (logits, labels, logprobs, sums))
    _loop("token_logprobs", logits.dtype, "ppppiif")(*pointers, N, V, 1 / temperature)
    return sums


def token_slopes(
    logits: Tensor, labels: Tensor, sums: Tensor, upstream: Tensor, temperature: float
) -> Tensor:
    """upstream (N,) · (1 at the label − exp(logits / temperature − sums)) / temperature, written where the logits were."""
    pointers = (each.data_ptr() for each in (logits, labels, sums, upstream))
    _loop("token_logprobs_backward", logits.dtype, "ppppiif")(*pointers, *logits.shape, 1 / temperature)
    return logits


def draw(
    logits: Tensor,
    uniforms: Tensor,
    temperature: float,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    processed: bool = False,
) -> tuple[Tensor, Tensor]:
    """`rlhf.sampling.generate.draw` without penalty: logits (B, V), uniforms (B,) float64 → tokens and logprobs (B,).

    The rows of logits need not stand close together.
    """
    (B, V), stride = logits.shape, logits.stride(0)
    tokens, logprobs = uniforms.new_empty(B, dtype=torch.long), uniforms.new_empty(B, dtype=torch.float32)
    others = (each.data_ptr() for each in (uniforms, tokens, logprobs))
    loop = _loop("draw", logits.dtype, "pipppiififfi")
    loop(logits.data_ptr(), stride, *others, B, V, temperature, top_k, top_p, min_p, processed)
    return tokens, logprobs
