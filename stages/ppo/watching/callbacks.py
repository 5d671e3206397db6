"""Callbacks as transformers has them: a `TrainerCallback` written for its Trainer is told of PPO's events."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import get_reporting_integration_callbacks

from rlhf.machine import processes
from stages.settings import PPOConfig
from stages.trainers.parts import trackers


class Callbacks:
    """Tells callbacks of a run's events and does what they ask for by `control`: stop, save, evaluate.

    A step is an iteration. Their `args` are TrainingArguments with the run's folder, seed and learning rate, whose
    `to_dict` has all settings of PPO too; `state` counts iterations and keeps what was logged.
    """

    def __init__(
        self,
        given: Sequence[TrainerCallback],
        config: PPOConfig,
        folder: Path | None,
        **more: Any,
    ) -> None:
        self.callbacks = [*given, *reporters(config.report_to)]
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
            run_name=getattr(config, "name", None), num_train_epochs=1,
        )  # fmt: skip
        self.arguments.settings = asdict(config)
        self.tell("on_init_end")

    def tell(self, event: str, **more: Any) -> None:
        """Let every callback know of an event, by the name of its method."""
        for callback in self.callbacks:
            heard = getattr(callback, event)(self.arguments, self.state, self.control, **self.more, **more)
            self.control = heard or self.control

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
                self.tell("on_evaluate", metrics=measured)
            self.tell("on_log", logs=dict(values))


class _Arguments(TrainingArguments):
    """Arguments of transformers that also tell, to who records them, all settings of PPO."""

    settings: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | self.settings


def reporters(report_to: str) -> list[TrainerCallback]:
    """transformers' callbacks for what `report_to` names, commas between. Raises InputError for what is not there."""
    return [kind() for kind in get_reporting_integration_callbacks(trackers(report_to))]
