"""The training that the experiments share: `rlhf pretrain`'s loop, at the rates that `docs/talk/` was made with."""

from rlhf.learning.metrics import MetricLog
from rlhf.learning.optimizers import Optimizers, muon_and_adamw
from stages.pretrain.loop import train


def train_as_pretrain(model, tokens, held_out, windows, **more):
    """Train a model, its matrices by Muon and the rest by AdamW; more: arguments of `stages.pretrain.loop.train`.

    Returns its curve: how many steps were done, and bits per byte on held-out text then.
    """
    log = MetricLog(None)
    train(
        model, Optimizers(*muon_and_adamw(model, 3e-3, 0.02)), tokens, held_out, windows,
        warmup=max(1, windows.num_steps // 50), log=log, say=print, **more,
    )  # fmt: skip
    return [
        [row["step"] + 1, row["validation/bits_per_byte"]] for row in log.history if "validation/loss" in row
    ]
