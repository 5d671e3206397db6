"""The shared core: model, tokenizer, sampling, RL mathematics, checkpoint store."""

__version__ = "0.1.0"
