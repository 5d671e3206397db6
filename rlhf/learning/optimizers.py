"""Optimizers: AdamW, Muon beside it, and several stepped as one with one clipped gradient each."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from rlhf.errors import TrainingError
from rlhf.learning.muon import BatchedMuon
from rlhf.machine.devices import has_fast_bf16
from rlhf.models.trunk import trunk_of
from rlhf.sharding import full_tensor, placed_as


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
            optimizer.load_state_dict(placed_state(optimizer, state))


def placed_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's state, whole tensors, with this process's part of each where its parameter is sharded."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    placed = {
        i: {name: placed_as(parameters[i], value) for name, value in of_one.items()}
        for i, of_one in state["state"].items()
    }
    return state | {"state": placed}


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
            optimizer.load_state_dict(placed_state(optimizer, own))


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> float:
    """Scale gradients to a joint norm of at most `max_norm`; returns the norm before.

    Raises TrainingError for a norm that is not finite; no optimizer has stepped then.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = float(full_tensor(torch.nn.utils.get_total_norm(gradients)))
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
    matrices = matrix_parameters(trunk_of(model))
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
