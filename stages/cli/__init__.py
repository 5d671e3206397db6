"""`rlhf`: one command per stage."""

from stages.cli.main import main

__all__ = ["main"]
