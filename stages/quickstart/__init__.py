"""The whole recipe on the starter world, with its report."""

from stages.quickstart.steps import run

__all__ = ["run"]
