"""What trl's trainers of SFT and of the reward model are told alike."""

from pathlib import Path
from typing import Any

from rlhf.learning.training import best_device, has_fast_bf16
from stages.settings import RewardSettings, SFTSettings


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
        "report_to": settings.report_to,
        "seed": settings.seed,
        "data_seed": settings.seed,
        "dataloader_pin_memory": False,
        "disable_tqdm": True,
        "gradient_checkpointing": settings.gradient_checkpointing,
    }
