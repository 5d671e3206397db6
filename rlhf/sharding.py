"""Models whose weights are divided between processes: torch's FSDP2 (Zhao et al. 2023), with our passes as they are.

A pass with a gradient runs inside the model (`run`), whose blocks gather their weights one after the other and sum their
gradients over the processes. Passes without one, sampling and saving see the model whole for a while (`whole`). All
processes must come to each of them, in one order.
"""

import copy
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers.pytorch_utils import Conv1D

from rlhf.errors import InputError
from rlhf.machine import processes
from rlhf.machine.memory import memory_of_a_process
from rlhf.models.trunk import blocks_of, unwrapped
from rlhf.state_parts import Part

T = TypeVar("T")
BYTES_HELD = 4  # of a parameter in float32
BYTES_TRAINED = 16  # itself, its gradient, two moments of Adam
OF_OTHERS = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed"}

_shells: WeakKeyDictionary[nn.Module, nn.Module] = (
    WeakKeyDictionary()
)  # the unsharded modules, without weights


def refuse_launchers_sharding(stage: str, instead: str) -> None:
    """Raises InputError where accelerate was told to shard, which the stage would not obey."""
    for variable, engine in OF_OTHERS.items():
        if os.environ.get(variable, "").lower() in ("true", "1"):
            raise InputError(f"{stage} does not run under accelerate's {engine}: {instead}")


def is_wanted(shard: str, num_bytes: int) -> bool:
    """Whether to divide what takes so many bytes: `on`, `off`, or `auto`, where that is half of a process's memory.

    Raises InputError for `on` with a single process.
    """
    if shard == "on" and processes.world_size() == 1:
        raise InputError("shard = on: one process has nobody to share with; start several with torchrun")
    if shard != "auto" or processes.world_size() == 1:
        return shard == "on"
    return num_bytes > memory_of_a_process() / 2


def bytes_of(model: Any) -> int:
    """What a model takes while it is trained."""
    return sum(
        p.numel() * (BYTES_TRAINED if p.requires_grad else p.element_size()) for p in model.parameters()
    )


def is_sharded(model: Any) -> bool:
    return isinstance(model, FSDPModule)


def shard(model: Any) -> None:
    """Divide a model's weights, in place, between all processes; optimizers are to be made after it.

    Raises InputError where its blocks are not known.
    """
    blocks = blocks_of(unwrapped(model))
    _shells[model] = _without_weights(model)
    mesh = init_device_mesh(model.device.type, (processes.world_size(),))
    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            # Gradients are sums over the global token count; gloo knows no other product with a sum.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    type(model).run_pass = _run_pass
    register_fsdp_forward_method(model, "run_pass")


def _run_pass(model: Any, function: Callable[..., T], *args: Any, **more: Any) -> T:
    return function(model, *args, **more)


def run(model: Any, function: Callable[..., T], *args: Any, **more: Any) -> T:
    """function(model, …), a pass with a gradient, inside the model where it is sharded."""
    return model.run_pass(function, *args, **more) if is_sharded(model) else function(model, *args, **more)


@contextmanager
def whole(model: Any) -> Iterator[Any]:
    """The model with all its weights, a plain one, for passes without a gradient; a model that is not sharded itself."""
    if not is_sharded(model):
        yield model
        return
    shell, empty, full = _shells[model], {}, {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        module, _, leaf = name.rpartition(".")
        place = shell.get_submodule(module)
        if id(parameter) not in full:
            weight = full_tensor(parameter.detach())
            if isinstance(place, Conv1D):  # as the sampler has it, which then makes no copy
                weight = weight.T.contiguous().T if weight.ndim == 2 else weight
            full[id(parameter)] = nn.Parameter(weight, parameter.requires_grad)
        empty[place, leaf] = place._parameters[leaf]
        place._parameters[leaf] = full[id(parameter)]
    try:
        yield shell.eval()
    finally:
        for place, leaf in empty:
            place._parameters[leaf] = empty[place, leaf]


def _without_weights(model: Any) -> Any:
    """A copy of a model's modules; its parameters take no memory."""
    empty = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad)
        for p in model.parameters()
    }
    return copy.deepcopy(model, empty)


def full_tensor(x: Tensor) -> Tensor:
    """x with the parts of all processes; a tensor that is not sharded itself."""
    return x.full_tensor() if isinstance(x, DTensor) else x


def gathered(state: Any) -> Any:
    """A state with its sharded tensors whole, on the CPU of the first process; None in their place in the others."""
    if isinstance(state, DTensor):
        x = state.full_tensor()
        return x.cpu() if processes.is_main_process() else None
    if isinstance(state, dict):
        return {key: gathered(value) for key, value in state.items()}
    return [gathered(value) for value in state] if isinstance(state, list) else state


def placed_as(like: Tensor, x: Any) -> Any:
    """This process's part of x where `like`, of the same shape, is sharded; anything else itself. x may lie in parts."""
    if isinstance(x, Part):
        return x.read(like)
    if isinstance(like, DTensor) and isinstance(x, Tensor) and x.shape == like.shape:
        return distribute_tensor(x.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
    return x


def parts_of_all(num_rows: int, micro_batch_size: int) -> int:
    """Into how many parts of micro_batch_size the process with the most of these rows divides its share."""
    shares = (len(processes.shard(num_rows, rank)) for rank in range(processes.world_size()))
    return max(-(-share // micro_batch_size) for share in shares)
