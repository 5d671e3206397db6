"""Several processes that train as one: who works on which rows, and the sums and lists they share.

`torchrun` and `accelerate launch` start them; alone, every function here is the identity. Rows are shared out, everything
learned from them is gathered or summed, so that all processes go through the same steps with the same numbers as one
process would at the same batch size, up to rounding. `rlhf/sharding.py` shares out the weights, too.
"""

import atexit
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn

from rlhf.errors import InputError

T = TypeVar("T")
PATIENCE = timedelta(hours=6)  # a process may wait for another's long samples,
DEAD_AFTER_S = 40.0  # but not for one that gives no sign of life
DONE = "done"
UNREACHED = "the first process cannot be reached, or one never began"
NO_ANSWER = 75  # exit status: try again, which `torchrun --max-restarts` does


def join_process_group() -> None:
    """Join the other processes where a launcher started several; once per process.

    Raises InputError where accelerate was asked for several and started one, as it does without GPUs.
    """
    asked = "ACCELERATE_DYNAMO_USE_FULLGRAPH" in os.environ and "MASTER_ADDR" in os.environ
    if asked and "WORLD_SIZE" not in os.environ:
        raise InputError(
            "accelerate launch started one process only, as it does on a machine without GPUs whatever --num_processes "
            "says; add --multi_gpu, which takes CPUs too, or use torchrun --nproc-per-node"
        )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(backend, timeout=PATIENCE)
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        store = distributed.PrefixStore("alive", distributed.distributed_c10d._get_default_store().clone())  # type: ignore[attr-defined]
        store.set_timeout(timedelta(seconds=DEAD_AFTER_S * 3 / 4))  # and a quarter until it is given up
        store.set(str(rank()), "0")  # who is cut off before the first sign has been here all the same
        ended = threading.Event()
        threading.Thread(
            target=_watch_the_others, args=(store, ended, rank(), world_size()), daemon=True
        ).start()
        atexit.register(_say_goodbye, store.clone(), ended, rank())  # type: ignore[attr-defined]


def _say_goodbye(store: distributed.Store, ended: threading.Event, number: int) -> None:
    ended.set()
    with suppress(RuntimeError):
        store.set(str(number), DONE)


def _watch_the_others(store: distributed.Store, ended: threading.Event, number: int, of: int) -> None:
    """Give signs of life to the other processes, and end this one when one of them gives none any more.

    A process that is killed closes its connections, which all notice at once; one whose machine, network or cable is
    gone does not, and who waits for it would wait for PATIENCE.
    """
    reached = [time.monotonic()]
    threading.Thread(target=_watch_the_store, args=(reached, ended, number), daemon=True).start()
    seen = {other: ("", time.monotonic()) for other in range(of) if other != number}
    beat = 0
    while not ended.wait(DEAD_AFTER_S / 20):
        try:
            store.set(str(number), str(beat := beat + 1))
            for other, (last, since) in seen.items():
                sign = store.get(str(other)).decode()
                reached[0] = time.monotonic()
                if sign != last:
                    seen[other] = (sign, time.monotonic())
                elif sign != DONE and time.monotonic() - since > DEAD_AFTER_S:
                    _end(f"process {other} has given no sign of life for {DEAD_AFTER_S:.0f} s", number)
        except RuntimeError:  # where the first process has come to its end, this one is about to
            if not ended.wait(DEAD_AFTER_S / 4):
                _end(UNREACHED, number)
            return


def _watch_the_store(reached: list[float], ended: threading.Event, number: int) -> None:
    """End this process where its store has not answered; over a cut cable a question to it never returns."""
    while not ended.wait(DEAD_AFTER_S / 20):
        if time.monotonic() - reached[0] > DEAD_AFTER_S:
            _end(UNREACHED, number)


def _end(reason: str, number: int) -> None:
    print(
        f"error: {reason} (its machine or the network is gone?); process {number} ends. The same command goes on from "
        "the last saved state, `torchrun --max-restarts` by itself",
        file=sys.stderr,
        flush=True,
    )
    os._exit(NO_ANSWER)  # the main thread waits inside a collective operation, which no exception ends


def world_size() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """This process's number among them, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def is_main_process() -> bool:
    """Whether this is the process that writes files and talks."""
    return rank() == 0


def shard(num_rows: int, of: int | None = None) -> range:
    """The rows, of `num_rows`, that a process, by default this one, works on: consecutive, in the order of the processes."""
    number = rank() if of is None else of
    return range(number * num_rows // world_size(), (number + 1) * num_rows // world_size())


def rows_per_process(name: str, num_rows: int) -> int:
    """Rows of a batch that each process takes. Raises InputError where they cannot take equally many."""
    if num_rows % world_size():
        raise InputError(
            f"{name} = {num_rows}: {world_size()} processes cannot share it equally; choose a multiple"
        )
    return num_rows // world_size()


def broadcast_from_main(make: Callable[[], T]) -> T:
    """What the first process makes, for all of them: something small, since it is pickled."""
    made = [make() if is_main_process() else None]
    if world_size() > 1:
        distributed.broadcast_object_list(made)
    return made[0]  # type: ignore[return-value]


def gather_rows(rows: list[Tensor]) -> list[Tensor]:
    """The rows of every process, CPU tensors of any shape and one dtype, in the order of the processes.

    They travel as one tensor each, which takes a third of the time that pickled lists do.
    """
    if world_size() == 1:
        return rows
    forms: list[tuple[torch.dtype | None, list[torch.Size]]] = [(None, [])] * world_size()
    distributed.all_gather_object(forms, (rows[0].dtype if rows else None, [row.shape for row in rows]))
    dtype = next((dtype for dtype, _ in forms if dtype is not None), torch.float32)
    sizes = [sum(shape.numel() for shape in shapes) for _, shapes in forms]
    mine = torch.zeros(max(sizes), dtype=dtype)
    if rows:
        mine[: sizes[rank()]] = torch.cat([row.detach().flatten() for row in rows])
    everywhere = [torch.empty(mine.numel() * dtype.itemsize, dtype=torch.uint8) for _ in sizes]
    distributed.all_gather(everywhere, mine.view(torch.uint8))  # bytes: gloo does not know every dtype
    return [
        row.view(shape)
        for flat, size, (_, shapes) in zip(everywhere, sizes, forms, strict=True)
        for row, shape in zip(
            flat.view(dtype)[:size].split([shape.numel() for shape in shapes]), shapes, strict=True
        )
    ]


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
