"""The mechanics every stage shares: number formats, threads, optimizers, schedules, clipping, averaging, state."""

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rlhf.errors import TrainingError
from rlhf.learning.muon import BatchedMuon
from rlhf.machine.memory import keep_freed_memory
from rlhf.machine.threads import fastest_threads
from rlhf.store import write_atomically

BF16_FLAGS = {"amx_bf16": "AMX", "avx512_bf16": "AVX-512-BF16"}


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices in hardware (AMX, AVX-512-BF16, Ampere and later)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and bool(bf16_units())


@cache
def bf16_units() -> tuple[str, ...] | None:
    """What this CPU multiplies bfloat16 matrices with, by name; None where the system does not tell."""
    try:
        with open("/proc/cpuinfo") as info:
            flags = next((line for line in info if line.startswith("flags")), "")
    except OSError:
        return None
    return tuple(name for flag, name in BF16_FLAGS.items() if flag in flags)


def best_device() -> torch.device:
    """CUDA where there is one, then Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def autocast(device: torch.device, bf16: str = "auto") -> AbstractContextManager[Any]:
    """A bfloat16 autocast region for `bf16` on, off or auto (on where the hardware multiplies it)."""
    if bf16 == "on" or (bf16 == "auto" and has_fast_bf16(device)):
        # The cache of cast weights pays off only within one forward pass and is cleared at the region's end.
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


def set_threads(num_threads: int) -> int:
    """Use `num_threads` CPU threads, or as many as are fastest now for 0; returns the number in use.

    Also lets the process keep the memory it frees, which every step asks for again.
    """
    keep_freed_memory()
    if not num_threads:
        return fastest_threads()
    torch.set_num_threads(num_threads)
    return num_threads


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


def matrix_parameters(trunk: nn.Module) -> list[nn.Parameter]:
    """The weight matrices of a trunk's blocks that learn: what Muon orthogonalises. Not embeddings, norms, biases."""
    return [
        parameter
        for name, parameter in trunk.named_parameters()
        if parameter.requires_grad
        and parameter.ndim == 2
        and "wte" not in name
        and "wpe" not in name
        and "embed" not in name
    ]


class Optimizers:
    """Several optimizers stepped as one, each around its own base learning rate."""

    def __init__(self, *optimizers: torch.optim.Optimizer) -> None:
        self.optimizers = optimizers
        self.base_lrs = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]

    def set_lr_factor(self, factor: float) -> None:
        """Scale every learning rate to `factor` of its base."""
        for optimizer, lrs in zip(self.optimizers, self.base_lrs, strict=True):
            for group, lr in zip(optimizer.param_groups, lrs, strict=True):
                group["lr"] = lr * factor

    def parameters(self) -> Iterator[nn.Parameter]:
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                yield from group["params"]

    def step(self, max_grad_norm: float) -> float:
        """Clip the joint gradient, step, clear the gradients; returns the norm before clipping.

        Raises TrainingError, leaving every weight as it was, when the gradient is not finite.
        """
        return step_together([self], max_grad_norm)[0]

    def state_dict(self) -> list[dict[str, Any]]:
        return [optimizer.state_dict() for optimizer in self.optimizers]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        for optimizer, state in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict(state)


class JointOptimizer(torch.optim.Optimizer):
    """Several optimizers that trl's trainers and torch's schedulers take for one."""

    def __init__(self, *optimizers: torch.optim.Optimizer) -> None:
        self.optimizers = optimizers
        super().__init__([group for optimizer in optimizers for group in optimizer.param_groups], {})

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The groups of all of them, each with its own learning rate."""
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        """The optimizers keep theirs."""

    def add_param_group(self, group: dict[str, Any]) -> None:
        """Called by the base class for what the optimizers hold already."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for optimizer in self.optimizers:
            optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        return {"optimizers": [optimizer.state_dict() for optimizer in self.optimizers]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for optimizer, own in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(own)


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> float:
    """Scale gradients to a joint norm of at most `max_norm`; returns the norm before.

    Raises TrainingError for a norm that is not finite; no optimizer has stepped then.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = float(torch.nn.utils.get_total_norm(gradients))
    if not math.isfinite(norm):
        raise TrainingError(
            "the gradient is not finite; nothing was applied. Lower the learning rate or check the data"
        )
    if norm > max_norm:  # else every gradient would be read and written only to be multiplied by 1
        torch._foreach_mul_(gradients, max_norm / (norm + 1e-6))
    return norm


def step_together(optimizers: Sequence[Optimizers], max_grad_norm: float) -> list[float]:
    """Clip each one's gradient, then step all and clear the gradients; returns the norms before clipping.

    Raises TrainingError, leaving the weights of all of them as they were, when one gradient is not finite.
    """
    norms = [clip_gradients(each.parameters(), max_grad_norm) for each in optimizers]
    for each in optimizers:
        for optimizer in each.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    return norms


def muon_and_adamw(model: Any, lr: float, muon_lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the block matrices, AdamW for the rest (Jordan et al. 2024); copying from the context emerges sooner."""
    matrices = matrix_parameters(model.base_model)
    chosen = {id(parameter) for parameter in matrices}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in chosen]
    dtype = torch.bfloat16 if has_fast_bf16(model.device) else torch.float32
    return [
        BatchedMuon(matrices, dtype, lr=muon_lr, momentum=0.95, weight_decay=0.0),
        torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


def adamw(
    parameters: Iterable[nn.Parameter], lr: float, eps: float = 1e-8, weight_decay: float = 0.0
) -> Optimizers:
    """AdamW over those of the parameters that learn, at one learning rate."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    return Optimizers(
        torch.optim.AdamW(trained, lr=lr, eps=eps, betas=(0.9, 0.999), weight_decay=weight_decay, fused=True)
    )


def learned(model: nn.Module) -> dict[str, Tensor]:
    """The weights that learn, by name, without a copy: what a run that goes on must bring back."""
    return {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}


class Average:
    """Exponential moving average of the weights of a model that learn, kept beside the raw ones."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: value.clone() for name, value in learned(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        for name, value in learned(model).items():
            self.weights[name].lerp_(value, 1 - self.decay)

    @contextmanager
    def in_place_of(self, model: nn.Module) -> Iterator[None]:
        """The model with the averaged weights; its own come back at the end."""
        raw = {name: value.clone() for name, value in learned(model).items()}
        model.load_state_dict(self.weights, strict=False)
        try:
            yield
        finally:
            model.load_state_dict(raw, strict=False)

    def state_dict(self) -> dict[str, Tensor]:
        return self.weights

    def load_state_dict(self, weights: dict[str, Tensor]) -> None:
        self.weights = weights


def runtime_state() -> dict[str, Any]:
    """What, beside weights, an exact continuation needs: both global generators and the number of threads."""
    # The number of threads decides the order of sums, and with it the last bits of every result.
    return {"python": random.getstate(), "torch": torch.get_rng_state(), "threads": torch.get_num_threads()}


def restore_runtime(state: dict[str, Any]) -> None:
    """Put generators and threads back to what `runtime_state` saw."""
    random.setstate(state["python"])
    torch.set_rng_state(state["torch"])
    torch.set_num_threads(state["threads"])


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write training state so that a kill at any moment leaves the old state or the new one."""
    write_atomically(path, lambda temporary: torch.save(state, temporary))


def load_state(path: Path) -> dict[str, Any] | None:
    """What `save_state` wrote, or None where nothing was written yet."""
    return torch.load(path, weights_only=False) if path.exists() else None
