"""The shared core: model, tokenizer, sampling, RL mathematics, checkpoint store."""
