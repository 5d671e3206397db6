"""The GPT that pretraining starts from."""

from typing import Any

import torch
from torch import Tensor
from transformers import GPT2Config

from rlhf.models.gpt import GPT
from rlhf.models.tokenizer import Tokenizer

POSITION_SCALE = (
    0.3  # of the sinusoids; smaller ones are found later beside the token embeddings (docs/lab-log.md)
)
LOOKING_BACK_SCALE = 2.0  # of queries and keys: nine tenths of the attention lie on the token before


def new_model(tokenizer: Tokenizer, layers: int, width: int, heads: int, context: int, dropout: float) -> GPT:
    """A GPT of that size with GPT-2's initialisation, but for its position embeddings, which are `sinusoids`, and for the
    first head of its first block, which attends to the token before (`looking_ahead`)."""
    config = GPT2Config(
        vocab_size=tokenizer.vocab_size,
        n_positions=context,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        resid_pdrop=dropout,
        bos_token_id=tokenizer.document_end_id,
        eos_token_id=tokenizer.eos_id,
        pad_token_id=tokenizer.pad_id,
    )
    model = GPT(config)
    with torch.no_grad():
        model.transformer.wpe.weight.copy_(POSITION_SCALE * sinusoids(context, width))
        first: Any = model.transformer.h[0]
        query, key, _ = first.attn.c_attn.weight.split(width, dim=1)
        for weight, ahead in ((query, 0), (key, 1)):
            weight[:, : width // heads] = LOOKING_BACK_SCALE * looking_ahead(width, width // heads, ahead)
    return model


def sinusoids(num_positions: int, width: int) -> Tensor:
    """Position embeddings (num_positions, width) of Vaswani et al. 2017, section 3.5, the sines before the cosines.

    One linear map looks a place back from wherever it stands, so a model learns to copy from its context in a fraction
    of the tokens that it needs when each position starts at random. From there on they learn like all other weights.
    """
    angles = torch.arange(num_positions, device="cpu")[:, None] * _rates(width)
    return torch.cat((angles.sin(), angles.cos()), dim=1)[:, :width]


def looking_ahead(width: int, head_width: int, by: int) -> Tensor:
    """The map (width, head_width) from a place's `sinusoids` to the fastest of those of the place that is `by` later.

    With queries of `by` 0 and keys of 1 a head attends to the token before. Copying needs such a head, and what copies
    by it is learned sooner than both would be (Olsson et al. 2022, induction heads).
    """
    half, num_rates = -(-width // 2), head_width // 2
    fastest = torch.arange(num_rates, device="cpu")
    turn = by * _rates(width)[:num_rates]
    found = torch.zeros(width, head_width, device="cpu")
    found[fastest, fastest] = found[half + fastest, num_rates + fastest] = turn.cos()
    found[half + fastest, fastest] = turn.sin()
    found[fastest, num_rates + fastest] = -turn.sin()
    return found


def _rates(width: int) -> Tensor:
    """Radians a place, (ceil(width / 2),), the fastest first; on the processor also where models are made without memory."""
    return 10_000.0 ** -torch.linspace(0, 1, -(-width // 2), device="cpu")
