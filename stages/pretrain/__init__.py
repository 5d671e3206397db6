"""Stage 0: a base GPT from plain text, trained on packed documents with Muon."""

from stages.pretrain.stage import run

__all__ = ["run"]
