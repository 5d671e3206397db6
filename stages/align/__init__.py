"""A language model through all stages on people's data, judged by a reward model that no stage has seen."""

from stages.align.steps import run

__all__ = ["run"]
