"""What a model does for the labeling app: answers to rank, and which come first."""
