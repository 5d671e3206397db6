"""The labeling app: pages where people rank, write and review, over the label store."""

from annotate.app.launch import labeling

__all__ = ["labeling"]
