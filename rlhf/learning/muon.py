"""torch's Muon with matrices of one shape orthogonalised together: many small products become few larger ones."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.optim._muon import DEFAULT_A, DEFAULT_B, DEFAULT_C  # Jordan et al. 2024's quintic


class BatchedMuon(torch.optim.Muon):
    """The same steps as torch.optim.Muon with Nesterov momentum, bit for bit in bfloat16, and the same state.

    dtype: of the products. bfloat16 only where the hardware multiplies it: elsewhere it is some 25 times slower than float32.
    """

    def __init__(self, matrices: Any, dtype: torch.dtype = torch.bfloat16, **settings: Any) -> None:
        super().__init__(matrices, **settings)
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[tuple[int, ...], list[Tensor]] = {}
            for matrix in group["params"]:
                if matrix.grad is not None:
                    by_shape.setdefault(tuple(matrix.shape), []).append(matrix)
            for matrices in by_shape.values():
                self._step_together(matrices, group)

    def _step_together(self, matrices: list[Tensor], group: dict[str, Any]) -> None:
        """One step of matrices (M, N) of one shape."""
        lr, momentum = float(group["lr"]), group["momentum"]
        gradients = [matrix.grad for matrix in matrices if matrix.grad is not None]
        buffers = [
            self.state[matrix].setdefault("momentum_buffer", torch.zeros_like(matrix)) for matrix in matrices
        ]
        torch._foreach_lerp_(buffers, gradients, 1 - momentum)
        nesterov = torch._foreach_lerp(gradients, buffers, momentum)
        updates = orthogonalised(torch.stack(nesterov).to(self.dtype), group["ns_steps"], group["eps"])
        rows, columns = matrices[0].shape
        adjusted = lr * math.sqrt(max(1, rows / columns))
        torch._foreach_mul_(matrices, 1 - lr * group["weight_decay"])
        torch._foreach_add_(matrices, list(updates.float().unbind()), alpha=-adjusted)


def orthogonalised(x: Tensor, num_steps: int, eps: float) -> Tensor:
    """U S' Vᵀ with singular values S' near 1 for every matrix U S Vᵀ of x (K, M, N), in x's dtype.

    Newton and Schulz's iteration (Jordan et al. 2024), on the side that is shorter.
    """
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / torch.stack([matrix.norm() for matrix in x]).clamp(min=eps)[:, None, None]
    for _ in range(num_steps):
        gram = x @ x.mT
        update = torch.baddbmm(gram, gram, gram, beta=DEFAULT_B, alpha=DEFAULT_C)
        x = torch.baddbmm(x, update, x, beta=DEFAULT_A)
    return x.mT if tall else x
