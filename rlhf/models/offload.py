"""A model that is larger than memory: its blocks stay in their files, and each is read when its turn comes.

Resident are embeddings, final norm and head. Every forward pass reads every block once, so a token costs a reading of
the checkpoint, from the system's file cache where that holds it, else from the disk.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from rlhf.errors import InputError
from rlhf.models.checkpoints import (
    NOT_LOADED,
    WHOLE_MODEL,
    attention_for,
    check_all_taken,
    check_no_adapter,
    is_ours,
    left_over,
    note_own_head,
)
from rlhf.models.gpt import GPT
from rlhf.models.sources import fetch_weights, file_of, find_source, parts_of, reading
from rlhf.models.trunk import blocks_of

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "BOOL": torch.bool,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
}  # fmt: skip
PIECE = 2**24  # bytes that are compared at once
# How stored names of an LM head end, then those of an embedding, which is the head where there is no other.
HEADS = (
    "lm_head.weight", "embed_out.weight",
    "embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight",
)  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Where a tensor stands: the file, and the bytes in it."""

    path: Path
    format: str  # a key of DTYPES, or one that torch has not
    shape: list[int]
    first: int
    size: int


class StoredTensors:
    """The tensors of a folder's safetensors files, each read alone and by a copy.

    safetensors itself maps a file as a whole, privately, which a limit of the process's memory counts in full.
    """

    def __init__(self, folder: Path) -> None:
        """Raises InputError for a file that is damaged."""
        self.places: dict[str, Place] = {}
        for path in _files_of(folder):
            with reading(path, "this is no whole safetensors file"):
                self.places |= _places_in(path)

    def read(self, name: str, like: Tensor, dtype: torch.dtype) -> Tensor:
        """One tensor for the place that `like` has in a model; numbers with a fraction in `dtype`.

        Raises InputError for one of another shape or kind of numbers.
        """
        at, wanted = self.places[name], dtype if like.is_floating_point() else like.dtype
        if tuple(at.shape) != tuple(like.shape):
            raise InputError(
                f"{at.path}: {name} is {tuple(at.shape)}, and {tuple(like.shape)} in the model of its config.json"
            )
        stored = DTYPES.get(at.format)
        if stored is None or stored.is_floating_point != wanted.is_floating_point:
            raise InputError(f"{at.path}: {name} is {at.format}; only float weights can be streamed")
        buffer = bytearray(at.size)
        with at.path.open("rb") as file:
            file.seek(at.first)
            if file.readinto(buffer) < at.size:
                raise InputError(
                    f"{at.path}: the file was cut off while it was read; start again with the whole one"
                )
        return torch.frombuffer(buffer, dtype=stored).view(at.shape).to(wanted)

    def name_of(self, weight: str, prefix: str) -> str | None:
        """The stored name of a model's parameter or buffer; published files may leave the trunk's prefix out."""
        names = (weight, weight.removeprefix(f"{prefix}."))
        return next((name for name in names if name in self.places), None)

    def unknown_to(self, model: Any) -> list[str]:
        """The stored names that no parameter or buffer of a model has, with the trunk's prefix or without."""
        known = {self.name_of(name, model.base_model_prefix) for name in model.state_dict()}
        return [name for name in self.places if name not in known]

    def are_equal(self, one: str, other: str) -> bool:
        """Whether two stored tensors have the same bytes."""
        with self.places[one].path.open("rb") as file, self.places[other].path.open("rb") as its:
            return _digest(file, self.places[one]) == _digest(its, self.places[other])


def stored_head(name: str | Path) -> Tensor | None:
    """The LM head's weight (V, C) as it is stored, or the embedding that is the head too; None where neither is found.

    A GGUF file's is not looked for. Raises InputError for files that are damaged, and a hub's model that is not given.
    """
    source = find_source(name)
    if source.gguf:
        return None
    if not Path(source.place).is_dir():
        fetch_weights(source.place)
    config = file_of(source, "config.json")
    if config is None:
        return None
    stored = StoredTensors(config.parent)
    for ending in HEADS:
        for at, place in stored.places.items():
            if at.endswith(ending) and DTYPES.get(place.format, torch.bool).is_floating_point:
                return stored.read(at, torch.empty(place.shape, device="meta"), DTYPES[place.format])
    return None


def _digest(file: IO[bytes], place: Place) -> tuple[str, bytes]:
    """A stored tensor's format, and a hash of its bytes that needs no more memory than a piece of them."""
    file.seek(place.first)
    digest, left = hashlib.sha256(), place.size
    while left and (piece := file.read(min(left, PIECE))):
        digest.update(piece)
        left -= len(piece)
    return place.format, digest.digest()


def _files_of(folder: Path) -> list[Path]:
    """The safetensors files that transformers reads: there may be others of the same weights, such as Mistral's consolidated."""
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.is_file() or not index.is_file():
        return [whole] if whole.is_file() else sorted(folder.glob("*.safetensors"))
    return [folder / part for part in parts_of(index)]


def _places_in(path: Path) -> dict[str, Place]:
    """The tensors of one file by name. Raises ValueError for a file that ends before they do."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        start, end = 8 + length, path.stat().st_size
        if start > end:
            raise ValueError("it ends before its table of contents does")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    found = {}
    for name, each in header.items():
        begin, behind = each["data_offsets"]
        if start + behind > end:
            raise ValueError(f"it ends before {name} does")
        found[name] = Place(path, each["dtype"], each["shape"], start + begin, behind - begin)
    return found


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
    check_no_adapter(found, source)
    with reading(source, NOT_LOADED):
        config = AutoConfig.from_pretrained(**found.arguments)
        model = _without_weights(config)
    stored = StoredTensors(folder)
    _give_own_head(model, stored)
    model.tie_weights()
    blocks = blocks_of(model)
    streamed = {id(parameter) for parameter in blocks.parameters()}
    for name, weight in _saved(model):
        if id(weight) not in streamed and (there := _found(stored, name, model, source)):
            _put(model, name, stored.read(there, weight, dtype))
    model.tie_weights()
    prefix = next(name for name, module in model.named_modules() if module is blocks)
    for place, block in enumerate(blocks):
        names = {
            name: _found(stored, f"{prefix}.{place}.{name}", model, source)
            for name, _ in block.named_parameters()
        }
        _stream(block, names, stored, dtype)
    check_all_taken(source, left_over(model, config, stored.unknown_to(model)), *WHOLE_MODEL)
    return model.eval()


def _give_own_head(model: Any, stored: StoredTensors) -> None:
    """Untie a head of which the files have weights of their own, as transformers does with a model that it loads as a whole."""
    head, table = model.get_output_embeddings(), model.get_input_embeddings()
    names = {id(module): f"{name}.weight" for name, module in model.named_modules()}
    mine, its = (stored.name_of(names.get(id(each), ""), model.base_model_prefix) for each in (head, table))
    if mine and its and not stored.are_equal(mine, its):
        head.weight = nn.Parameter(torch.empty_like(head.weight))
        note_own_head(model)


def _saved(model: Any) -> list[tuple[str, Tensor]]:
    """Parameters, each once, and those buffers that a file has; the others are made with the model."""
    saved = model.state_dict().keys()
    buffers = [(name, buffer) for name, buffer in model.named_buffers() if name in saved]
    return [*model.named_parameters(), *buffers]


def _without_weights(config: Any) -> Any:
    """The model of a config with its parameters on the meta device, and with its buffers as they are made."""

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


def _found(stored: StoredTensors, weight: str, model: Any, source: Any) -> str:
    """The stored name of a weight; "" where the family does without. Raises InputError where it is not there."""
    name = stored.name_of(weight, model.base_model_prefix)
    if name is None and any(re.search(each, weight) for each in model._keys_to_ignore_on_load_missing or ()):
        return ""
    if name is None:
        raise InputError(
            f"{source}: {weight} is not in its files: they lack it, or have it under another name or in parts, from which only "
            f"a {model.config.model_type} that is loaded as a whole is put together; leave --offload out"
        )
    return name


def _stream(block: nn.Module, names: dict[str, str], stored: StoredTensors, dtype: torch.dtype) -> None:
    """Give a block its weights before it computes, and take them away after."""
    empty = dict(block.named_parameters())

    def fill(*_: Any) -> None:
        for name, stored_name in names.items():
            _put(block, name, stored.read(stored_name, empty[name], dtype))

    def clear(*_: Any) -> None:
        for name, parameter in empty.items():
            _put(block, name, parameter)

    block.register_forward_pre_hook(fill)
    block.register_forward_hook(clear, always_call=True)


def _put(module: nn.Module, name: str, value: Tensor) -> None:
    """Set the parameter or buffer of that dotted name."""
    path, _, leaf = name.rpartition(".")
    owner = module.get_submodule(path)
    is_buffer = leaf in owner._buffers
    setattr(owner, leaf, value if is_buffer else nn.Parameter(value, requires_grad=False))
