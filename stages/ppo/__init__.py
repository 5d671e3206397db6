"""PPO on a reward (Ouyang et al. 2022, section 3.5; Schulman et al. 2017)."""

from stages.ppo.trainer import PPOTrainer, run
from stages.settings import PPOConfig

__all__ = ["PPOConfig", "PPOTrainer", "run"]
