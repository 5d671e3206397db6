"""trl's RewardTrainer on whole rankings."""

from typing import Any

import torch
from torch import Tensor
from trl import RewardTrainer

from rlhf.learning.losses import ranking_losses
from rlhf.learning.passes import scores_by_length
from rlhf.machine import processes
from rlhf.machine.devices import autocast
from stages.trl_parts import PreparedRows


class RankingTrainer(PreparedRows, RewardTrainer):
    """trl's RewardTrainer with Ouyang et al. 2022, equation 1, over whole rankings."""

    columns = ("rows", "ranks")

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        bare = self.accelerator.unwrap_model(model)
        tokens, mask = inputs["input_ids"], inputs["attention_mask"]
        # accelerate puts its autocast around forward, and this goes past forward.
        with autocast(tokens.device):
            scores = scores_by_length(bare, tokens, mask)  # (R,)
        present = inputs["present"]
        by_prompt = torch.zeros(present.shape[0], present.shape[2], device=tokens.device)
        by_prompt[present[:, 0]] = scores  # (P, K)
        repeated = by_prompt[:, None].expand(present.shape)
        losses = ranking_losses(repeated.flatten(0, 1), inputs["ranks"].flatten(0, 1), present.flatten(0, 1))
        # Rankings differ in number from process to process: the denominator is that of all of them.
        loss = losses.sum() / processes.sum_over_processes(present[:, :, 0].sum())
        return (loss, {"scores": by_prompt}) if return_outputs else loss

    def training_step(self, model: Any, inputs: dict[str, Tensor], num_items_in_batch: Any = None) -> Tensor:
        """One batch's gradient and loss, both summed over the processes.

        By hand: compute_loss goes past the wrapper that would sum gradients, which acts in forward.
        """
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.accelerator.sync_gradients:
            processes.sum_gradients(self.accelerator.unwrap_model(model).parameters())
        return processes.sum_over_processes(loss)
