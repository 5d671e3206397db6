"""Language models and what belongs to one: weights, tokenizer, cache, adapters."""
