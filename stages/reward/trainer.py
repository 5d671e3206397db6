"""trl's RewardTrainer on whole rankings."""

from typing import Any

import torch
from torch import Tensor
from trl import RewardTrainer

from rlhf.learning.losses import ranking_losses
from rlhf.learning.passes import last_scores, scores_by_length
from rlhf.sharding import is_sharded, run
from stages.trainers.parts import PreparedRows
from stages.trainers.processes import SeveralProcesses


class RankingTrainer(PreparedRows, SeveralProcesses, RewardTrainer):
    """trl's RewardTrainer with Ouyang et al. 2022, equation 1, over whole rankings."""

    columns = ("rows", "ranks")

    def summed_loss(self, model: Any, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """The losses of all labelers' rankings summed, and their number, both (); inputs as `RankingCollator` gives them."""
        # Parts by length differ in number from process to process, and of a sharded model all must take equally many.
        scored = last_scores if is_sharded(model) else scores_by_length
        scores = run(model, scored, inputs["input_ids"], inputs["attention_mask"])  # (R,)
        present = inputs["present"]
        by_prompt = torch.zeros(present.shape[0], present.shape[2], device=scores.device)
        by_prompt[present[:, 0]] = scores  # (P, K)
        repeated = by_prompt[:, None].expand(present.shape)
        losses = ranking_losses(repeated.flatten(0, 1), inputs["ranks"].flatten(0, 1), present.flatten(0, 1))
        return losses.sum(), present[:, :, 0].sum()
