"""Gradient checkpointing (Chen et al. 2016): a block keeps what goes into it and runs once more for its gradient."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch.utils.checkpoint import checkpoint

from rlhf.models.trunk import blocks_of, unwrapped


@contextmanager
def blocks_run_again(models: Sequence[Any]) -> Iterator[None]:
    """Within it the models' learning blocks run so; gradients are the same. Raises InputError for one without blocks.

    transformers' own switch works in training mode only, in which PPO's passes are not.
    """
    blocks = [
        block
        for model in models
        for block in blocks_of(unwrapped(model))
        if any(parameter.requires_grad for parameter in block.parameters())
    ]
    try:
        for block in blocks:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
        yield
    finally:
        for block in blocks:
            block.__dict__.pop("forward", None)
