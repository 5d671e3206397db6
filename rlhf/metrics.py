"""Where numbers go while training runs: TensorBoard, a history for the report, a progress bar."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlhf.rl import masked_mean


class MetricLog:
    """Scalars by step, to TensorBoard files in `folder` and to a history that the checkpoint keeps."""

    def __init__(self, folder: Path | None) -> None:
        self.history: list[dict[str, float]] = []
        self.writer: Any = None
        if folder is not None:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(folder))

    def write(self, step: int, values: dict[str, float]) -> None:
        self.history.append({"step": step, **values})
        if self.writer is not None:
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)

    def save(self, folder: Path) -> None:
        """Write history.json into a checkpoint folder and close the TensorBoard file."""
        (folder / "history.json").write_text(json.dumps(self.history))
        if self.writer is not None:
            self.writer.close()


def policy_metrics(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor, clip: float) -> dict[str, float]:
    """How far an update moved the policy, over real tokens only: mean ratio, clip fraction, k3 of old against new.

    logprobs, old_logprobs: (B, T) float; mask (B, T) bool.
    """
    log_ratio = torch.where(mask, logprobs - old_logprobs, 0.0)
    ratio = log_ratio.exp()
    return {
        "policy/ratio": float(masked_mean(ratio, mask)),
        "policy/clip_fraction": float(masked_mean(((ratio - 1).abs() > clip).float(), mask)),
        "policy/approx_kl": float(masked_mean(ratio - 1 - log_ratio, mask)),
    }
