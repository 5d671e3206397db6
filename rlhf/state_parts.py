"""Training state of sharded models: every process writes its part in the background (torch's distributed checkpoint).

A state file holds everything else, and names the folder beside it in which the parts lie. It is written last: until then
the file before it, with its own folder, is the state.
"""

import io
import shutil
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, distributed
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.tensor import DTensor

from rlhf.durable import write_atomically
from rlhf.machine import processes


@dataclass(frozen=True)
class Part:
    """Stands in a state where a tensor of this shape was, which the processes wrote together."""

    folder: Path  # of a state in a file: beside that
    name: str
    shape: torch.Size
    dtype: torch.dtype

    def read(self, like: Tensor) -> Tensor:
        """The tensor, divided between processes as `like` is; each reads what it needs of it, whoever wrote that."""
        if isinstance(like, DTensor):
            target = torch.empty_like(like.detach(), dtype=self.dtype)
        else:
            target = torch.empty(self.shape, dtype=self.dtype)
        with warnings.catch_warnings():  # that each reads for itself is meant
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            dcp.load({self.name: target}, checkpoint_id=self.folder, no_dist=True)
        return target


class StateFile:
    """Where the state of one run is kept; every process makes one and calls the same of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.group: Any = None  # of its own: what is written goes on while the others are in use
        self.written: Future[Any] | None = None

    def save(self, state: dict[str, Any], number: int) -> None:
        """Write the state as it is now, with what is sharded in the background; `number` counts up from save to save.

        Raises what went wrong with the save before.
        """
        self.wait()
        parts: dict[str, Tensor] = {}
        folder = Path(f"{self.path.name}.parts-{number}")

        def taken(x: Any, name: str) -> Any:
            parts[name] = x
            return Part(folder, name, x.shape, x.dtype)

        rest = _with(state, DTensor, taken)
        if not parts:
            if processes.is_main_process():
                self._replace(lambda temporary: torch.save(rest, temporary), "")
            return
        packed = io.BytesIO()
        torch.save(rest, packed)  # now: what is in it will have changed when the parts are written
        self.group = self.group or distributed.new_group(backend="gloo")
        written: Any = dcp.async_save(
            parts, checkpoint_id=self.path.parent / folder, process_group=self.group
        )
        self.written = Future()
        written.add_done_callback(lambda done: self._name(done, folder.name, packed.getvalue()))

    def wait(self) -> None:
        """Until what was saved is written; raises what went wrong with it."""
        if self.written is not None:
            self.written.result()
            self.written = None

    def _name(self, done: Future[Any], folder: str, packed: bytes) -> None:
        """Make the parts in `folder` those of the state; all processes have written theirs."""
        written: Any = self.written
        try:
            done.result()
            if processes.is_main_process():
                self._replace(lambda temporary: temporary.write_bytes(packed), folder)
        except CheckpointException as error:  # what went wrong, by process
            written.set_exception(OSError(f"{self.path}: {next(iter(error.failures.values()))[0]}"))
        except BaseException as error:
            written.set_exception(error)
        else:
            written.set_result(None)

    def _replace(self, write: Callable[[Path], Any], folder: str) -> None:
        """The file by what `write` makes, and the parts before by those of `folder`."""
        write_atomically(self.path, write)
        for other in self.path.parent.glob(f"{self.path.name}.parts-*"):
            if other.name != folder:
                shutil.rmtree(other, ignore_errors=True)


def with_folders(state: dict[str, Any], beside: Path) -> dict[str, Any]:
    """A state of a file, whose parts know in which folder of `beside` they lie."""
    found: dict[str, Any] = _with(state, Part, lambda part, _: replace(part, folder=beside / part.folder))
    return found


def _with(state: Any, kind: type, change: Callable[[Any, str], Any], name: str = "state") -> Any:
    """The state with what is of a kind changed, by its name."""
    if isinstance(state, kind):
        return change(state, name)
    if isinstance(state, dict):
        return {key: _with(value, kind, change, f"{name}.{key}") for key, value in state.items()}
    if isinstance(state, list):
        return [_with(value, kind, change, f"{name}.{i}") for i, value in enumerate(state)]
    return state
