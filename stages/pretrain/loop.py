"""The loop: random windows of a text, measured on held-out text on the way; the best weights are kept."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from rlhf.errors import InputError
from rlhf.learning.head import token_logprobs
from rlhf.learning.metrics import MetricLog
from rlhf.learning.optimizers import Optimizers
from rlhf.learning.training import load_state, restore_runtime, runtime_state, save_state, warmup_cosine
from rlhf.machine.devices import autocast
from rlhf.machine.threads import ThreadWatch
from stages.pretrain.held_out import HeldOut

SAVE_EVERY_S = 60.0
NUM_MEASUREMENTS = 20
MEASURED_SHARE = 0.2  # of the tokens that are learned from, the most that all measurements together read


@dataclass(frozen=True, kw_only=True)
class Windows:
    """How a text is read: `num_steps` batches of `batch_size` windows of `length` tokens, at random places."""

    num_steps: int
    batch_size: int
    length: int
    seed: int = 0

    @property
    def num_tokens(self) -> int:
        """Tokens read in all."""
        return self.num_steps * self.batch_size * self.length


class Best:
    """The weights with the lowest held-out loss so far, with the step, its share of all steps, and what was measured."""

    def __init__(self) -> None:
        self.step, self.share, self.measured = 0, 0.0, {"loss": float("inf")}
        self.weights: dict[str, Tensor] = {}

    def offer(self, step: int, num_steps: int, measured: dict[str, float], model: Any) -> None:
        """Copy the model's weights if it measures better than what there is."""
        if measured["loss"] < self.measured["loss"]:
            self.step, self.share, self.measured = step, step / num_steps, measured
            self.weights = {name: value.clone() for name, value in model.state_dict().items()}


def train(
    model: Any,
    optimizers: Optimizers,
    tokens: Tensor,
    held_out: HeldOut,
    windows: Windows,
    *,
    warmup: int,
    log: MetricLog,
    say: Callable[[str], None],
    bf16: str = "auto",
    watch: ThreadWatch | None = None,
    state_file: Path | None = None,
    after_measuring: Callable[[int, Any], None] | None = None,
) -> Best:
    """Train a language model (`.transformer`, `.lm_head`) on tokens (N,); it ends with its best weights.

    state_file: where a stopped run left its state, and goes on from. after_measuring: called with the number of steps done
    and the model, which it may let answer. Returns the best.
    Raises InputError for fewer tokens than one window.
    """
    length = windows.length
    if len(tokens) <= length + 1:
        raise InputError(
            f"the text has {len(tokens)} tokens, fewer than one sequence of {length}; bring more text"
        )
    generator = torch.Generator().manual_seed(windows.seed)
    held_out = held_out.part(max(1, int(MEASURED_SHARE * windows.num_tokens / NUM_MEASUREMENTS / length)))
    best = Best()
    first = _resume(model, optimizers, generator, best, log, state_file, say)
    model.train()
    saved = time.monotonic()
    steps = range(first, windows.num_steps)
    for step in tqdm(steps, initial=first, total=windows.num_steps, desc="pretrain", mininterval=1):
        starts = torch.randint(0, len(tokens) - length - 1, (windows.batch_size,), generator=generator)
        rows = tokens[starts[:, None] + torch.arange(length + 1)].to(model.device)  # (B, S + 1)
        optimizers.set_lr_factor(warmup_cosine(step, windows.num_steps, warmup, floor=0.05))
        with autocast(model.device, bf16):
            hidden = model.transformer(rows[:, :-1]).last_hidden_state.flatten(0, 1)  # (B·S, C)
            loss = -token_logprobs(hidden, model.lm_head.weight, rows[:, 1:].flatten()).mean()
        loss.backward()
        norm = optimizers.step(max_grad_norm=1.0)
        if step % 20 == 0 or step == windows.num_steps - 1:
            log.write(step, {"train/loss": float(loss.detach()), "train/grad_norm": norm})
        if should_evaluate(step + 1, windows.num_steps):
            measured = held_out.measure(model)
            log.write(step, {f"validation/{name}": value for name, value in measured.items()})
            best.offer(step + 1, windows.num_steps, measured, model)
            if after_measuring:
                after_measuring(step + 1, model)
                model.train()
        if watch:
            watch.step()
        if state_file and time.monotonic() - saved > SAVE_EVERY_S:
            saved = time.monotonic()
            save_state(state_file, _state(model, optimizers, generator, best, log, step + 1))
    model.load_state_dict(best.weights)
    return best


def should_evaluate(step: int, num_steps: int) -> bool:
    """Whether the held-out text is measured after that many steps: NUM_MEASUREMENTS times, the last step among them."""
    return step * NUM_MEASUREMENTS // num_steps > (step - 1) * NUM_MEASUREMENTS // num_steps


def _state(
    model: Any, optimizers: Optimizers, generator: torch.Generator, best: Best, log: MetricLog, step: int
) -> dict[str, Any]:
    return {
        "model": model.state_dict(),
        "optimizers": optimizers.state_dict(),
        "order": generator.get_state(),
        "best": vars(best),
        "history": log.history,
        "step": step,
        "runtime": runtime_state(),
    }


def _resume(
    model: Any,
    optimizers: Optimizers,
    generator: torch.Generator,
    best: Best,
    log: MetricLog,
    state_file: Path | None,
    say: Callable[[str], None],
) -> int:
    state = load_state(state_file) if state_file else None
    if state is None:
        return 0
    model.load_state_dict(state["model"])
    optimizers.load_state_dict(state["optimizers"])
    generator.set_state(state["order"])
    vars(best).update(state["best"])
    log.history[:] = state["history"]
    restore_runtime(state["runtime"])
    say(f"base: continuing at step {state['step']}")
    return int(state["step"])
