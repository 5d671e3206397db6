"""Each logged number of PPO, defined once; and where numbers go: TensorBoard, the history a checkpoint keeps.

All means are over the whole iteration: over completions, or over the real tokens of all minibatches of all
processes. Padding counts nowhere, and no number depends on how a batch was split.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlhf.learning.losses import clip_fraction
from rlhf.learning.rl import explained_variance, kl_k1, kl_k3, masked_mean
from rlhf.learning.rollout import Rollout
from rlhf.machine import processes

# Behind reward/, where otherwise the name of each of several rewards stands.
OF_ALL_REWARDS = ("score", "score_std", "objective")


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

    def text(self, name: str, text: str, step: int) -> None:
        """Markdown, to TensorBoard only."""
        if self.writer is not None:
            self.writer.add_text(name, text, step)

    def save(self, folder: Path) -> None:
        """Write history.json into a checkpoint folder and close the TensorBoard file."""
        (folder / "history.json").write_text(json.dumps(self.history))
        if self.writer is not None:
            self.writer.close()


def rollout_metrics(
    rollout: Rollout,
    scores: Tensor,
    ref_logprobs: Tensor,
    beta: float,
    penalties: Tensor,
    climbed: Tensor,
    unit: float,
) -> dict[str, float]:
    """What an iteration's completions are like, before any update.

    rollout: with the log-probabilities of the policy that learns. scores (B,), as the reward gave them;
    ref_logprobs (B, T). climbed (B,): what is learned from the scores, normalised and clipped, in their own unit; unit: how
    much of a score is 1 there. penalties (B,), taken from it.

    - reward/score, reward/score_std: the reward's scores, before normalisation, clipping and penalty
    - reward/objective: what the policy climbs, Ouyang et al. 2022, eq. 2, without its ptx term: score − penalties (missing
      EOS, overlong) − β · KL; with normalised scores climbed − unit · (penalties + β · KL)
    - kl/sequence, kl/sequence_k3: nats per completion, summed over its tokens, by the k1 and the k3 estimator
    - policy/entropy: −log π(y_t) per sampled token: unbiased for the entropy at the sampling temperature
    - completion/length, completion/ended: tokens, the stop token counted; share that stopped by itself
    """
    mask = rollout.mask
    kl = kl_k1(rollout.logprobs, ref_logprobs).sum(1)  # zero outside the mask, both of them
    return {
        "reward/score": float(scores.mean()),
        "reward/score_std": float(scores.std(unbiased=False)),
        "reward/objective": float((climbed - unit * penalties - unit * beta * kl).mean()),
        "kl/sequence": float(kl.mean()),
        "kl/sequence_k3": float(kl_k3(rollout.logprobs, ref_logprobs).sum(1).mean()),
        "kl/beta": beta,
        "policy/entropy": float(-masked_mean(rollout.logprobs, mask)),
        "completion/length": float(mask.sum(1).float().mean()),
        "completion/ended": float(rollout.ended.float().mean()),
    }


def component_metrics(names: Mapping[str, Any], components: Tensor) -> dict[str, float]:
    """The mean score of each reward (B, M) by name; nothing for a single one, which reward/score is already."""
    if len(names) == 1:
        return {}
    means = components.nanmean(0).nan_to_num()  # a scorer's mean is of the completions that it judges
    return {f"reward/{name}": float(mean) for name, mean in zip(names, means, strict=True)}


def value_metrics(values: Tensor, returns: Tensor, mask: Tensor) -> dict[str, float]:
    """value/explained_variance: how well the value model foresaw this iteration's returns; value/mean, value/returns.

    values, returns, mask: (B, T) float, float, bool.
    """
    return {
        "value/explained_variance": float(explained_variance(values, returns, mask)),
        "value/mean": float(masked_mean(values, mask)),
        "value/returns": float(masked_mean(returns, mask)),
    }


def update_metrics(
    logprobs: Tensor, old_logprobs: Tensor, clip: float, clip_high: float = 0.0
) -> dict[str, Tensor]:
    """How far an update moves the policy, per token (b, T), to be averaged by `TokenMeans`.

    - policy/ratio: π_new / π_old
    - policy/approx_kl: k3 estimate of KL(π_old‖π_new)
    - policy/clip_fraction: share of tokens whose ratio lies outside its clip range

    Beside these PPO logs value/clip_fraction, the share whose value moved farther than value_clip; policy/loss and value/loss; policy/sampling_gap, in the first minibatch, before any update:
    |log π_train − log π_sampler|; of servers also policy/sampling_gap_max, the largest of the whole batch; ptx/loss; the gradient norms before clipping, means over optimizer steps; policy/lr.
    """
    log_ratio = (logprobs - old_logprobs).detach()
    return {
        "policy/ratio": log_ratio.exp(),
        "policy/approx_kl": log_ratio.expm1() - log_ratio,
        "policy/clip_fraction": clip_fraction(logprobs, old_logprobs, clip, clip_high),
    }


class TokenMeans:
    """Means over all tokens handed in, by name; the device is waited for once, at the end."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, mask: Tensor, values: Mapping[str, Tensor]) -> None:
        """Count in values (b, T) where mask (b, T) is true."""
        num_tokens = int(mask.sum())
        for name, x in values.items():
            self.sums[name] = self.sums.get(name, 0) + torch.where(mask, x.detach(), 0).sum()
            self.counts[name] = self.counts.get(name, 0) + num_tokens

    def means(self, names: list[str]) -> dict[str, float]:
        """The means over all processes. names: in one order everywhere; a process may have seen none of them."""
        pairs = [[float(self.sums.get(name, 0)), float(self.counts.get(name, 0))] for name in names]
        table = processes.sum_over_processes(torch.tensor(pairs, dtype=torch.float64))
        return {name: float(s / n) for name, (s, n) in zip(names, table, strict=True) if n}
