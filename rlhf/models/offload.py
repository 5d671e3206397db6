"""A model that is larger than memory: its blocks stay in their files, and each is read when its turn comes.

Resident are embeddings, final norm and head. Every forward pass reads every block once, so a token costs a reading of
the checkpoint, from the system's file cache where that holds it, else from the disk.
"""

import json
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from rlhf.errors import InputError
from rlhf.models.checkpoints import attention_for, is_ours
from rlhf.models.gpt import GPT
from rlhf.models.sources import find_source
from rlhf.models.trunk import blocks_of

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}


class StoredTensors:
    """The tensors of a folder's safetensors files, each read alone and by a copy.

    safetensors itself maps a file as a whole, privately, which a limit of the process's memory counts in full.
    """

    def __init__(self, folder: Path) -> None:
        self.places: dict[str, tuple[Path, torch.dtype, list[int], int, int]] = {}
        for path in sorted(folder.glob("*.safetensors")):
            with path.open("rb") as file:
                size = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(size))
            for name, each in header.items():
                if name != "__metadata__":
                    begin, end = each["data_offsets"]
                    dtype = DTYPES.get(each["dtype"])
                    if dtype is None:
                        raise InputError(
                            f"{path}: {name} is {each['dtype']}; only float weights can be streamed"
                        )
                    self.places[name] = (path, dtype, each["shape"], 8 + size + begin, end - begin)

    def read(self, name: str, dtype: torch.dtype) -> Tensor:
        """One tensor in the format asked for."""
        path, stored, shape, offset, size = self.places[name]
        buffer = bytearray(size)
        with path.open("rb") as file:
            file.seek(offset)
            file.readinto(buffer)
        return torch.frombuffer(buffer, dtype=stored).view(shape).to(dtype)

    def name_of(self, parameter: str, prefix: str) -> str | None:
        """The stored name of a model's parameter; published files may leave the trunk's prefix out."""
        names = (parameter, parameter.removeprefix(f"{prefix}."))
        return next((name for name in names if name in self.places), None)


def load_offloaded(source: str | Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """`load_policy` for a model whose blocks do not fit in memory; the same tokens, by the model's own forward pass.

    source: a folder with safetensors files. Raises InputError for other sources and where a weight is missing.
    """
    found = find_source(source)
    folder = Path(found.place)
    if found.gguf or not any(folder.glob("*.safetensors")):
        raise InputError(
            f"{source}: weights are streamed from safetensors files of a folder only; rlhf import makes one"
        )
    model = _without_weights(AutoConfig.from_pretrained(found.place))
    stored = StoredTensors(folder)
    model.tie_weights()
    blocks = blocks_of(model)
    streamed = {id(parameter) for parameter in blocks.parameters()}
    resident = [name for name, parameter in model.named_parameters() if id(parameter) not in streamed]
    for name in resident:
        _put(model, name, stored.read(_found(stored, name, model, source), dtype))
    model.tie_weights()
    prefix = next(name for name, module in model.named_modules() if module is blocks)
    for place, block in enumerate(blocks):
        names = {
            name: _found(stored, f"{prefix}.{place}.{name}", model, source)
            for name, _ in block.named_parameters()
        }
        _stream(block, names, stored, dtype)
    return model.eval()


def _without_weights(config: Any) -> Any:
    """The model of a config with its parameters on the meta device, and with its buffers, which no file holds."""

    def built() -> Any:
        return (
            GPT(config)
            if is_ours(config)
            else AutoModelForCausalLM.from_config(config, **attention_for(config))
        )

    with torch.device("meta"):
        model = built()
    if any(buffer.is_meta for buffer in model.buffers()):
        with init_empty_weights(include_buffers=False):  # makes every parameter for a moment
            model = built()
    return model


def _found(stored: StoredTensors, parameter: str, model: Any, source: Any) -> str:
    name = stored.name_of(parameter, model.base_model_prefix)
    if name is None:
        raise InputError(f"{source}: {parameter} is not in its files")
    return name


def _stream(block: nn.Module, names: dict[str, str], stored: StoredTensors, dtype: torch.dtype) -> None:
    """Give a block its weights before it computes, and take them away after."""
    empty = dict(block.named_parameters())

    def fill(*_: Any) -> None:
        for name, stored_name in names.items():
            _put(block, name, stored.read(stored_name, dtype))

    def clear(*_: Any) -> None:
        for name, parameter in empty.items():
            _put(block, name, parameter)

    block.register_forward_pre_hook(fill)
    block.register_forward_hook(clear, always_call=True)


def _put(module: nn.Module, name: str, value: Tensor) -> None:
    """Set the parameter of that dotted name."""
    owner, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(owner), leaf, nn.Parameter(value, requires_grad=False))
