"""The labeling app: pages where people rank, write and review, over the label store."""
