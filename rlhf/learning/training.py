"""The mechanics every stage shares: number formats, threads, optimizers, schedules, clipping, averaging, state."""

import math
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rlhf.durable import write_atomically
from rlhf.errors import InputError, first_line
from rlhf.learning.passes import has_plain_head
from rlhf.machine.devices import best_device
from rlhf.machine.memory import give_back_at_once
from rlhf.sharding import placed_as, shard
from rlhf.state_parts import with_folders

INSTEAD = "bring the whole file back, or move it away to begin anew"


def set_dropout(model: nn.Module, rate: float) -> None:
    """Set every dropout of a model, also the rate that attention code reads from an attribute."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = rate
        elif isinstance(getattr(module, "attention_dropout", None), float):
            setattr(module, "attention_dropout", rate)  # noqa: B010 (not a module's declared attribute)


def seed_everything(seed: int) -> None:
    """Seed Python's and torch's global generators (dropout and initialisation draw from them)."""
    random.seed(seed)
    torch.manual_seed(seed)


def warmup_cosine(step: int, num_steps: int, warmup: int, floor: float = 0.1) -> float:
    """Learning-rate factor: linear from 0 to 1 over `warmup` steps, then a cosine down to `floor`."""
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, num_steps - warmup))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def warmup(iteration: int, warmup_iterations: int) -> float:
    """Learning-rate factor: from a tenth of the peak up to the peak over the first iterations, constant after."""
    return min(1.0, 0.1 + 0.9 * iteration / warmup_iterations) if warmup_iterations else 1.0


def decay(kind: str, iteration: int, num_iterations: int) -> float:
    """Learning-rate factor over the iterations of a run: `linear` or `cosine` from 1 towards 0, or `none`, always 1."""
    progress = iteration / num_iterations
    if kind == "none":
        return 1.0
    return 1 - progress if kind == "linear" else 0.5 * (1 + math.cos(math.pi * progress))


def shard_model(model: nn.Module) -> None:
    """The model on its device, its weights divided between the processes. Raises InputError where its blocks are not known."""
    give_back_at_once()
    model.to(best_device())
    has_plain_head(model)  # looks at a pass, once per model, which it must not do between processes
    shard(model)


def trainable_weights(model: nn.Module) -> dict[str, Tensor]:
    """The weights that learn, by name, without a copy: what a run that goes on must bring back."""
    return {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}


def load_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """What `trainable_weights` gave, whole tensors, back into the model, whether that is sharded or not."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in weights:
                parameter.copy_(placed_as(parameter, weights[name]))


class EMA:
    """Exponential moving average of the weights of a model that learn, kept beside the raw ones."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: value.clone() for name, value in trainable_weights(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        for name, value in trainable_weights(model).items():
            self.weights[name].lerp_(value, 1 - self.decay)

    @contextmanager
    def in_place_of(self, model: nn.Module) -> Iterator[None]:
        """The model with the averaged weights; its own come back at the end."""
        raw = {name: value.clone() for name, value in trainable_weights(model).items()}
        model.load_state_dict(self.weights, strict=False)
        try:
            yield
        finally:
            model.load_state_dict(raw, strict=False)

    def state_dict(self) -> dict[str, Tensor]:
        return self.weights

    def load_state_dict(self, weights: dict[str, Tensor]) -> None:
        self.weights = {name: placed_as(self.weights[name], value) for name, value in weights.items()}


def runtime_state() -> dict[str, Any]:
    """What, beside weights, an exact continuation needs: both global generators and the number of threads."""
    # The number of threads decides the order of sums, and with it the last bits of every result.
    state = {"python": random.getstate(), "torch": torch.get_rng_state(), "threads": torch.get_num_threads()}
    return state | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def restore_runtime(state: dict[str, Any]) -> None:
    """Put generators and threads back to what `runtime_state` saw."""
    random.setstate(state["python"])
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    torch.set_num_threads(state["threads"])


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write training state so that a kill at any moment leaves the old state or the new one."""
    write_atomically(path, lambda temporary: torch.save(state, temporary))


def load_state(path: Path) -> dict[str, Any] | None:
    """What `save_state` or a StateFile wrote, or None where nothing was written yet. Raises InputError for another file."""
    if not path.exists():
        return None
    try:
        state = torch.load(path, weights_only=False)
    except Exception as problem:  # whatever pickle comes across in a file that was cut off or is another's
        raise InputError(f"{path}: it holds no training state ({first_line(problem)}); {INSTEAD}") from None
    if not isinstance(state, dict):
        raise InputError(f"{path}: it holds no training state but a {type(state).__name__}; {INSTEAD}")
    return with_folders(state, path.parent)
