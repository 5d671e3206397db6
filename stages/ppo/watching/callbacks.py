"""Callbacks as transformers has them: a `TrainerCallback` written for its Trainer is told of PPO's events."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import (
    EarlyStoppingCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from rlhf.errors import InputError
from rlhf.machine import processes
from stages.settings import PPOConfig
from stages.trainers.parts import trackers


class Callbacks:
    """Tells callbacks of a run's events and does what they ask for by `control`: stop, save, evaluate.

    A step is an iteration. Their `args` are TrainingArguments with the run's folder, seed and learning rate, whose
    `to_dict` has all settings of PPO too; `state` counts iterations and keeps what was logged. What counts as best is the
    objective of evaluations.
    """

    def __init__(
        self,
        given: Sequence[TrainerCallback],
        config: PPOConfig,
        folder: Path | None,
        **more: Any,
    ) -> None:
        self.callbacks = [*checked(given, bool(config.eval_every)), *trackers(config.report_to).values()]
        self.more = more
        self.control = TrainerControl()
        if not self.callbacks:
            return
        is_main = processes.is_main_process()
        self.state = TrainerState(
            max_steps=config.num_iterations, is_local_process_zero=is_main, is_world_process_zero=is_main
        )
        self.arguments = _Arguments(
            output_dir=str(folder or "ppo"), report_to="none", seed=config.seed, learning_rate=config.lr,
            run_name=getattr(config, "name", None), num_train_epochs=1, metric_for_best_model="eval_objective",
            greater_is_better=True, eval_strategy="steps" if config.eval_every else "no", eval_steps=config.eval_every or None,
        )  # fmt: skip
        self.arguments.settings = asdict(config)
        self.tell("on_init_end")

    def tell(self, event: str, **more: Any) -> None:
        """Let every callback know of an event, by the name of its method."""
        for callback in self.callbacks:
            heard = getattr(callback, event)(self.arguments, self.state, self.control, **self.more, **more)
            self.control = heard or self.control

    def start(self, history: Sequence[dict[str, float]], best: float) -> None:
        """Before the first iteration, or where a run goes on. best: the highest objective of an evaluation so far."""
        if self.callbacks:
            self.state.log_history = [*history]
            self.state.best_metric = best if math.isfinite(best) else None
            self.control.should_training_stop = False
            self.tell("on_train_begin")

    def begin(self, iteration: int) -> None:
        """Before an iteration, or before the first of a run that goes on."""
        if self.callbacks:
            self.state.global_step = iteration
            self.control.should_save = self.control.should_evaluate = self.control.should_log = False
            self.tell("on_step_begin")

    def end(self, iteration: int, episodes: float) -> None:
        """After an iteration's update."""
        if self.callbacks:
            self.state.global_step, self.state.epoch = iteration + 1, episodes
            self.tell("on_step_end")

    def log(self, values: dict[str, float]) -> None:
        """What an iteration logged; an evaluation's numbers once more by themselves."""
        if self.callbacks:
            self.state.log_history.append({**values, "step": self.state.global_step})
            if measured := {name: value for name, value in values.items() if name.startswith("eval/")}:
                named = {
                    name.replace("/", "_"): measured[name] for name in measured
                }  # as transformers has them
                self.tell("on_evaluate", metrics=measured | named)
                found, best = measured["eval/objective"], self.state.best_metric
                self.state.best_metric = found if best is None else max(best, found)
            self.tell("on_log", logs=dict(values))


def checked(given: Any, has_evaluations: bool) -> list[TrainerCallback]:
    """The callbacks. Raises InputError for what is none, and for one that waits for evaluations which do not come."""
    if not isinstance(given, Iterable) or isinstance(given, type):
        raise InputError(
            f"callbacks is a {type(given).__name__}; pass a list of callbacks, such as [MyCallback()]"
        )
    found = [*given]
    for one in found:
        if not isinstance(one, TrainerCallback):
            what = f"the class {one.__name__}" if isinstance(one, type) else f"a {type(one).__name__}"
            raise InputError(
                f"callbacks: {what} is no callback; pass objects of a class that is a TrainerCallback"
            )
        if isinstance(one, EarlyStoppingCallback) and not has_evaluations:
            raise InputError(
                "callbacks: EarlyStoppingCallback waits for evaluations; set eval_every and give eval_dataset"
            )
    return found


class _Arguments(TrainingArguments):
    """Arguments of transformers that also tell, to who records them, all settings of PPO."""

    settings: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | self.settings
