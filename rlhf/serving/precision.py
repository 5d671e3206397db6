"""In which number format a model answers: its weights', and whether its decoder packs those of products into 8 bits."""

from typing import Any

import torch

from rlhf.errors import InputError
from rlhf.machine.devices import has_fast_bf16
from rlhf.sampling.decoder import is_described

BF16_WEIGHTS = 50_000_000  # smaller models gain nothing from bfloat16


def cast(model: Any, precision: str) -> tuple[Any, bool]:
    """The model in the format it is served in, and whether its decoder is to pack weights into 8 bits.

    auto: bfloat16 for large models where the hardware multiplies it. Raises InputError for a model that has no 8 bits.
    """
    described = is_described(model)  # found out, once for all, while the weights are exact
    packed = precision == "int8"
    if packed and not described:
        raise InputError(
            f"{model.config.model_type}: no weights of 8 bits for this family or machine; give --precision bfloat16"
        )
    large = sum(weight.numel() for weight in model.parameters()) >= BF16_WEIGHTS
    wanted = packed or (precision == "auto" and large)
    half = precision == "bfloat16" or (wanted and has_fast_bf16(model.device))
    return (model.to(torch.bfloat16) if half else model), packed
