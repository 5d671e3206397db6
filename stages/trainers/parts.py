"""What trl's trainers of SFT and of the reward model share: arguments, one progress bar, a stop on a loss that is no number."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback
from transformers.integrations import get_reporting_integration_callbacks

from rlhf.errors import InputError, TrainingError, first_line
from rlhf.learning.metrics import MetricLog
from rlhf.learning.training import shard_model
from rlhf.machine import processes
from rlhf.machine.devices import best_device, has_fast_bf16
from rlhf.machine.memory import FreedMemory
from rlhf.machine.threads import ThreadWatch
from rlhf.sharding import bytes_of, is_wanted
from stages.settings import RewardSettings, SFTSettings

SAVE_EVERY_S = 180.0  # a long epoch is not lost when the machine goes off in it


def common_arguments(settings: SFTSettings | RewardSettings, work: Path | str) -> dict[str, Any]:
    """Arguments of a trl config; the trainer's checkpoints go to `work`, of which it keeps the last."""
    device = best_device()
    return {
        "output_dir": str(work),
        "num_train_epochs": settings.epochs,
        "learning_rate": settings.lr,
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr_rate": 0.1},
        "bf16": has_fast_bf16(device),
        "use_cpu": device.type == "cpu",
        "save_total_limit": 1,
        "report_to": [*trackers(settings.report_to)],
        "logging_nan_inf_filter": False,  # else a step that is no number is left out of the loss that is told
        "seed": settings.seed,
        "data_seed": settings.seed,
        "dataloader_pin_memory": False,
        "disable_tqdm": True,
        "gradient_checkpointing": settings.gradient_checkpointing,
    }


def trackers(report_to: str) -> dict[str, TrainerCallback]:
    """transformers' callbacks for what `report_to` names, commas between. Raises InputError for one that is not there."""
    names = [name.strip() for name in report_to.split(",") if name.strip() not in ("", "none")]
    try:  # a callback looks for its package only when it is made
        made = [kind() for kind in get_reporting_integration_callbacks(names)]
    except (RuntimeError, ValueError, ImportError) as problem:
        raise InputError(f"report_to = {report_to}: {first_line(problem)}") from None
    return dict(zip(names, made, strict=True))


def divide(model: Any, wanted: str, say: Callable[[str], None]) -> None:
    """Divide a model's weights between the processes where wanted, before a trainer gets it.

    Raises InputError for `on` with one process, and where the model's blocks are not known.
    """
    model.to(best_device())
    if is_wanted(wanted, bytes_of(model)):
        shard_model(model)
        say(f"each of {processes.world_size()} processes holds its part of the weights")


class PreparedRows:
    """For a trl trainer whose rows are tokens already: it neither prepares them nor drops their columns.

    These two hooks are trl's and transformers' own, not documented; tests/stages/test_private_interfaces.py says what
    breaks without them. columns: the names that the collator reads.
    """

    columns: tuple[str, ...] = ()

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = list(self.columns)


class Progress(TrainerCallback):
    """One bar on stderr with the last loss, every number to the log.

    Raises TrainingError for a loss or gradient that is not finite, before it is saved: whatever saves logs first.
    """

    def __init__(self, name: str, log: MetricLog) -> None:
        self.name = name
        self.log = log
        self.watch, self.freed = ThreadWatch(), FreedMemory()
        self.bar: tqdm[Any] | None = None
        self.num_measured = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.log.history = [_without_epoch(row) for row in state.log_history]  # of a run that goes on
        self.bar = tqdm(
            total=state.max_steps, initial=state.global_step, desc=self.name, mininterval=1,
            disable=not processes.is_main_process(),
        )  # fmt: skip

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.watch.step()
        self.freed.step()
        if self.bar is not None:
            self.bar.update(1)

    def on_prediction_step(
        self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **kwargs: Any
    ) -> None:
        """The bar's steps stand still while held-out rows are measured, which may take minutes."""
        self.num_measured += 1
        self.freed.step()
        if self.bar is not None and eval_dataloader is not None:
            self.bar.set_postfix_str(f"measured {self.num_measured} of {len(eval_dataloader)} batches")

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.num_measured = 0

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any
    ) -> None:
        for name in ("loss", "grad_norm", "eval_loss", "train_loss"):
            value = (logs or {}).get(name)
            if value is None:
                continue
            if not math.isfinite(value):
                raise TrainingError(
                    f"{self.name}: the {name} is {value}; nothing was saved. Lower the learning rate"
                )
            if self.bar is not None and name in ("loss", "eval_loss"):
                self.bar.set_postfix({name: f"{value:.3f}"})
        self.log.write(state.global_step, _without_epoch(logs or {}))

    def close(self) -> None:
        """End the bar's line, so that what is printed next has a line of its own."""
        if self.bar is not None:
            self.bar.close()


class TimedSaves(TrainerCallback):
    """A checkpoint every SAVE_EVERY_S seconds by the first process's clock, wherever in an epoch that is.

    Before each save the numbers so far are logged, so that Progress sees them first.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.saved = time.monotonic()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.saved = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        is_due = processes.is_main_process() and time.monotonic() - self.saved > SAVE_EVERY_S
        if processes.sum_over_processes(torch.tensor(float(is_due))):
            control.should_log = control.should_save = True

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_log = True


def _without_epoch(logs: dict[str, float]) -> dict[str, float]:
    return {key: value for key, value in logs.items() if key != "epoch"}


def train_with_progress(trainer: Trainer, name: str, log: MetricLog, work: Path) -> None:
    """Train from the newest checkpoint in `work`: one bar, the numbers in our log, and a save from time to time."""
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    progress = Progress(name, log)
    trainer.add_callback(progress)
    trainer.add_callback(TimedSaves())
    try:
        trainer.train(resume_from_checkpoint=last_checkpoint(work))
    finally:
        progress.close()


def last_checkpoint(work: Path) -> str | None:
    """The newest whole checkpoint a trainer left in its working folder, to resume from."""
    found = sorted(work.glob("checkpoint-*/trainer_state.json"), key=lambda path: path.stat().st_mtime)
    whole = [path for path in found if _is_whole(path)]
    return str(whole[-1].parent) if whole else None


def _is_whole(file: Path) -> bool:
    """Whether the file that a trainer writes last into a checkpoint was written to its end; a kill may cut it."""
    try:
        json.loads(file.read_text())
    except ValueError:
        return False
    return True
