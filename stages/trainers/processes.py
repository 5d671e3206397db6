"""trl's trainers by several processes: each takes its share of every batch, and together they learn what one would.

Each holds all weights, or with `rlhf.sharding` its part of them. Losses and gradients are sums over the processes, with
the whole batch's number of tokens or rankings below. Of trl's and accelerate's own ways none is left: they would average,
fill the last batch up with rows from the first, and save what one process holds.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import SeedableRandomSampler
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME

from rlhf.learning.optimizers import placed_state
from rlhf.learning.training import load_weights
from rlhf.machine import processes
from rlhf.machine.devices import autocast
from rlhf.sharding import full_tensor, gathered, is_sharded, whole

IDLE = "idle"


class SharesOfBatches(BatchSampler):
    """This process's consecutive rows of every batch of one process; [None] of a batch in which there is none for it."""

    def __init__(self, batches: BatchSampler) -> None:
        self.batch_sampler = batches

    def __iter__(self) -> Iterator[list[Any]]:
        for batch in self.batch_sampler:
            mine = processes.shard(len(batch))
            yield batch[mine.start : mine.stop] or [None]

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def set_epoch(self, epoch: int) -> None:
        self.batch_sampler.sampler.set_epoch(epoch)  # type: ignore[union-attr]


class Batches(DataLoader[Any]):
    """A data loader that the trainer tells which epoch begins, as it does accelerate's."""

    def set_epoch(self, epoch: int) -> None:
        self.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]


class RowsOrNone:
    """Rows by number, and None for None."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int | None) -> Any:
        return None if number is None else self.rows[number]


class SeveralProcesses:
    """A trl trainer by several processes; by one it is trl's.

    The hooks that it replaces are transformers' own, not documented; tests/stages/test_private_interfaces.py says what
    breaks without them.
    """

    def summed_loss(self, model: Any, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """The losses of a batch summed, and how many they are, both (); of a model that may be sharded."""
        raise NotImplementedError

    def get_train_dataloader(self) -> Any:
        """This process's share of the batches that one process would take, in their order."""
        if processes.world_size() == 1:
            return super().get_train_dataloader()  # type: ignore[misc]
        me: Any = self
        rows = me._remove_unused_columns(me.train_dataset, description="training")
        order = SeedableRandomSampler(rows, data_seed=me.args.data_seed)
        batch_size = me.args.per_device_train_batch_size * processes.world_size()

        def collate(given: list[Any]) -> dict[str, Any]:
            # What a process without a row runs through all the same: the others would wait for it for ever.
            return me.data_collator(given) if given != [None] else me.data_collator([rows[0]]) | {IDLE: True}

        batches = SharesOfBatches(BatchSampler(order, batch_size, drop_last=False))
        return Batches(RowsOrNone(rows), batch_sampler=batches, collate_fn=collate)  # type: ignore[arg-type]

    def _wrap_model(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        if processes.world_size() > 1:
            model._is_accelerate_prepared = True  # else accelerate would wrap it into DDP, which averages
        return super()._wrap_model(model, *args, **kwargs)  # type: ignore[misc]

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """This process's part of the mean loss over the rows of all of them."""
        is_idle = bool(inputs.pop(IDLE, False))
        with autocast(self.args.device):  # type: ignore[attr-defined]
            total, number = self.summed_loss(model, inputs)
        return (0 * total if is_idle else total) / processes.sum_over_processes((not is_idle) * number)

    def training_step(self, model: Any, *args: Any, **kwargs: Any) -> Tensor:
        """One batch's gradient and loss, both summed over the processes."""
        loss: Tensor = super().training_step(model, *args, **kwargs)  # type: ignore[misc]
        if not is_sharded(model):
            processes.sum_gradients(model.parameters())
        return processes.sum_over_processes(loss)

    def _clip_grad_norm(self, model: Any) -> Any:
        return full_tensor(super()._clip_grad_norm(model))  # type: ignore[misc]

    @contextmanager
    def _whole_model(self, take_back: bool = False) -> Iterator[None]:
        """The trainer with its model whole, where that is sharded; take_back: what was done to its weights is kept."""
        me: Any = self
        own = me.model
        with whole(own) as me.model:
            try:
                yield
                if take_back and is_sharded(own):
                    load_weights(own, dict(me.model.named_parameters()))
            finally:
                me.model = own

    def save_model(self, *args: Any, **kwargs: Any) -> None:
        """By all processes, of which the first writes."""
        with self._whole_model():
            super().save_model(*args, **kwargs)  # type: ignore[misc]

    def _load_from_checkpoint(self, folder: str, model: Any = None) -> None:
        with self._whole_model(take_back=True):
            super()._load_from_checkpoint(folder)  # type: ignore[misc]

    def _load_best_model(self) -> None:
        with self._whole_model(take_back=True):
            super()._load_best_model()  # type: ignore[misc]

    def create_optimizer(self, *args: Any) -> Any:
        made = super().create_optimizer(*args)  # type: ignore[misc]
        made.register_load_state_dict_pre_hook(placed_state)
        return made

    def _save_optimizer_and_scheduler(self, folder: str) -> None:
        me: Any = self
        if not is_sharded(me.model):
            super()._save_optimizer_and_scheduler(folder)  # type: ignore[misc]
            return
        state = gathered(me.optimizer.state_dict())
        if me.args.should_save:
            torch.save(state, Path(folder) / OPTIMIZER_NAME)
            torch.save(me.lr_scheduler.state_dict(), Path(folder) / SCHEDULER_NAME)
