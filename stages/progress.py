"""What a trl trainer shows and refuses while it runs: one progress bar, and a stop on a loss that is no number."""

import math
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback

from rlhf.errors import TrainingError


class Progress(TrainerCallback):
    """One bar on stderr with the last loss. Raises TrainingError, before anything is saved, for a loss of NaN."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.bar: tqdm[Any] | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc=self.name, mininterval=1)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.update(1)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any
    ) -> None:
        for name in ("loss", "eval_loss"):
            value = (logs or {}).get(name)
            if value is None:
                continue
            if not math.isfinite(value):
                raise TrainingError(
                    f"{self.name}: the {name} is {value}; nothing was saved. Lower the learning rate"
                )
            if self.bar is not None:
                self.bar.set_postfix({name: f"{value:.3f}"})

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.close()


def show_progress(trainer: Trainer, name: str) -> None:
    """Replace a trainer's own printing by one bar."""
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(Progress(name))


def last_checkpoint(work: Path) -> str | None:
    """The newest whole checkpoint a trainer left in its working folder, to resume from."""
    found = sorted(work.glob("checkpoint-*/trainer_state.json"), key=lambda path: path.stat().st_mtime)
    return str(found[-1].parent) if found else None
