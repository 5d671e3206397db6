"""Several processes that train as one: who works on which rows, and the sums and lists they share.

`torchrun` and `accelerate launch` start them; alone, every function here is the identity. Each process holds all
weights. Rows are shared out, everything learned from them is gathered or summed, so that all processes go through
the same steps with the same numbers as one process would at the same batch size, up to rounding.
"""

import os
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn

from rlhf.errors import InputError

T = TypeVar("T")
PATIENCE = timedelta(hours=6)  # a process may wait for another's long samples


def join_process_group() -> None:
    """Join the other processes where a launcher started several; once per process."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(backend, timeout=PATIENCE)
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))


def world_size() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """This process's number among them, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def is_main_process() -> bool:
    """Whether this is the process that writes files and talks."""
    return rank() == 0


def shard(num_rows: int) -> range:
    """The rows, of `num_rows`, that this process works on: consecutive, in the order of the processes."""
    return range(rank() * num_rows // world_size(), (rank() + 1) * num_rows // world_size())


def rows_per_process(name: str, num_rows: int) -> int:
    """Rows of a batch that each process takes. Raises InputError where they cannot take equally many."""
    if num_rows % world_size():
        raise InputError(
            f"{name} = {num_rows}: {world_size()} processes cannot share it equally; choose a multiple"
        )
    return num_rows // world_size()


def broadcast_from_main(make: Callable[[], T]) -> T:
    """What the first process makes, for all of them."""
    return gather_rows([make()] if is_main_process() else [])[0]


def gather_rows(rows: list[T]) -> list[T]:
    """The rows of every process, in the order of the processes."""
    if world_size() == 1:
        return rows
    everywhere: list[list[T]] = [[] for _ in range(world_size())]
    distributed.all_gather_object(everywhere, rows)
    return [row for part in everywhere for row in part]


def sum_over_processes(x: Tensor) -> Tensor:
    """The sum of x over all processes."""
    if world_size() > 1:
        x = x.clone()
        distributed.all_reduce(x)
    return x


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its sum over all processes; one that a process lacks counts as zero."""
    if world_size() == 1:
        return
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in trained:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    flat = sum_over_processes(
        torch.cat([parameter.grad.flatten() for parameter in trained if parameter.grad is not None])
    )
    for parameter, summed in zip(trained, flat.split([p.numel() for p in trained]), strict=True):
        parameter.grad = summed.view_as(parameter)


def barrier() -> None:
    """Return when every process has come here."""
    if world_size() > 1:
        distributed.barrier()
