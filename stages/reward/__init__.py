"""A reward model from rankings (Ouyang et al. 2022, eq. 1)."""

from stages.reward.stage import run

__all__ = ["run"]
