"""The embedded starter world: prompts, corpus, demonstrations, a documented judge and simulated labelers."""
