"""Supervised fine-tuning on demonstrations (Ouyang et al. 2022, section 3.5)."""

from stages.sft.stage import run

__all__ = ["run"]
