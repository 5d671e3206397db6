"""An optimizer step of a trl trainer, measured: whole where that is quick, else on fewer rows and reckoned up.

How many rows a probe can afford follows from one measured product and the multiplications of a row; what is then
measured is the stage's own step on rows of every length.
"""

import time
from collections.abc import Callable
from typing import Any

from rlhf.machine.devices import best_device, flops_of_a_product
from rlhf.machine.memory import held_mib, peak_mib, peak_of_a_long_run_mib
from rlhf.models.trunk import unwrapped
from stages.estimate.estimate import Step
from stages.settings import RewardSettings, SFTSettings

STEP_S = 15  # what a step of a probe should take at the most
FLOPS_OF_TRAINING = 6  # per weight and token: 2 forward, 4 backward (Kaplan et al. 2020, section 2.1)
MOST_STEPS = 4
LEARNED_BYTES = 12  # of a weight that learns: its gradient and Adam's two moments, float32


def multiplied_weights(model: Any) -> int:
    """Weights that a token is multiplied with: all but the input embedding, unless it is the head, too."""
    bare = unwrapped(model)
    embedding = bare.get_input_embeddings().weight
    head = getattr(bare.get_output_embeddings(), "weight", None)
    return sum(weight.numel() for weight in bare.parameters()) - (
        0 if head is embedding else embedding.numel()
    )


def forward_share(model: Any, settings: SFTSettings | RewardSettings) -> float:
    """What a pass without gradients takes of one with, counting blocks: the backward pass is two more of those that learn.

    Under adapters it is one more of all, which have no gradients of their own.
    """
    blocks = model.config.num_hidden_layers
    backward = blocks if settings.lora_rank else 2 * (settings.last_blocks or blocks)
    return blocks / (blocks + backward)


def of_every_length(lengths: list[int], count: int) -> list[int]:
    """Places of `count` rows, at equal distances in the order of their lengths."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    return [order[(2 * i + 1) * len(order) // (2 * count)] for i in range(count)]


def timed_step(
    trainer: Any, settings: SFTSettings | RewardSettings, tokens_of: Callable[[Any], int], started: float
) -> Step:
    """A step of the trainer's batch size on rows like its training rows, whose tokens `tokens_of` counts; nothing is saved.

    started: when the probe began, by time.perf_counter.
    """
    args, model, rows = trainer.args, trainer.model, trainer.train_dataset
    lengths = [tokens_of(row) for row in rows]
    row_s = FLOPS_OF_TRAINING * multiplied_weights(model) * sum(lengths) / len(lengths)
    row_s /= flops_of_a_product(best_device())
    batch_size = args.per_device_train_batch_size
    num_rows = min(batch_size, len(rows), max(1, int(STEP_S / row_s)))
    # A data set smaller than a batch is one batch: every step is of all these rows.
    trainer.train_dataset = rows.select(of_every_length(lengths, num_rows))
    num_steps = max(2, min(MOST_STEPS, int(2 * STEP_S / (row_s * num_rows))))
    begun, held, step_s = _run(trainer, num_steps)
    peak = peak_mib()
    learned = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    of_rows = max(0.0, peak - held - LEARNED_BYTES * learned / 2**20)
    grown = batch_size / num_rows
    whole = peak_of_a_long_run_mib(peak + of_rows * (grown - 1))
    return Step(step_s * grown, begun - started, forward_share(model, settings), whole)


def _run(trainer: Any, num_steps: int) -> tuple[float, float, float]:
    """When the first step began, the MiB held then, and the seconds of a step, of which the first is not counted."""
    from transformers import TrainerCallback
    from transformers.trainer_utils import IntervalStrategy

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.begun, self.held = 0.0, 0.0
            self.ends: list[float] = []

        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            self.held = self.held or held_mib()
            self.begun = self.begun or time.perf_counter()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            self.ends.append(time.perf_counter())

    clock, args = Clock(), trainer.args
    args.max_steps, args.load_best_model_at_end = num_steps, False
    args.save_strategy = args.eval_strategy = args.logging_strategy = IntervalStrategy.NO
    trainer.add_callback(clock)
    trainer.train()
    return clock.begun, clock.held, (clock.ends[-1] - clock.ends[0]) / (num_steps - 1)
