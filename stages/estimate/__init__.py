"""`rlhf doctor --base M`: what each stage would take of time and memory here, from a short probe of the real model."""
