"""What decoder.cpp is called with: a language model as addresses of its weights, and the rows of one pass.

The structures are those of decoder.cpp, field by field; whoever fills one keeps the tensors whose addresses it holds.
"""

from ctypes import POINTER, Structure, byref, c_float, c_int64, c_void_p
from functools import cache
from typing import Any

import torch

from rlhf.machine import kernels

SILU, GELU_TANH, GELU, RELU = range(4)
LANES = 16  # numbers of a head, and tokens of a slot, that attention takes at once


class Matrix(Structure):
    _fields_ = (
        ("weights", c_void_p),
        ("scales", c_void_p),
        ("bias", c_void_p),
        ("outputs", c_int64),
        ("inputs", c_int64),
    )


class Norm(Structure):
    _fields_ = (
        ("gain", c_void_p),
        ("bias", c_void_p),
        ("size", c_int64),
        ("centred", c_int64),
        ("eps", c_float),
    )


NORMS = ("before_attention", "after_attention", "before_mlp", "after_mlp", "queries", "keys")
MATRICES = ("q", "k", "v", "o", "gate", "up", "down")


class Layer(Structure):
    _fields_ = (
        *((name, Norm) for name in NORMS),
        *((name, Matrix) for name in MATRICES),
        ("window", c_int64),
        ("cos", c_void_p),
        ("sin", c_void_p),
        ("scale", c_float),
    )


class Model(Structure):
    _fields_ = (
        ("num_layers", c_int64),
        ("channels", c_int64),
        ("heads", c_int64),
        ("key_heads", c_int64),
        ("head_size", c_int64),
        ("rotated", c_int64),
        ("inner", c_int64),
        ("activation", c_int64),
        ("attention_cap", c_float),
        ("logit_cap", c_float),
        ("embedding_scale", c_float),
        ("embedding_is_float", c_int64),
        ("embedding", c_void_p),
        ("positions", c_void_p),
        ("layers", POINTER(Layer)),
        ("last", Norm),
        ("head", Matrix),
    )


class Batch(Structure):
    _fields_ = (
        ("rows", c_int64),
        ("wanted", c_int64),
        ("tokens", c_void_p),
        ("positions", c_void_p),
        ("keys", c_void_p),
        ("values", c_void_p),
        ("rooms", c_void_p),
        ("wanted_rows", c_void_p),
        ("stream", c_void_p),
        ("qkv", c_void_p),
        ("gates", c_void_p),
        ("logits", c_void_p),
        ("normed", c_void_p),
        ("mixed", c_void_p),
        ("inner", c_void_p),
        ("threads", c_int64),
    )


def decode(model: Model, batch: Batch, dtype: torch.dtype) -> None:
    """Run the rows of a batch through the model; see decoder.cpp."""
    batch.threads = torch.get_num_threads()
    _decode(dtype)(byref(model), byref(batch))


@cache
def _decode(dtype: torch.dtype) -> Any:
    loop = getattr(kernels.library(), f"decode_{kernels.FORMATS[dtype]}")
    loop.argtypes, loop.restype = [POINTER(Model), POINTER(Batch)], None
    return loop
