"""The GPT that pretraining starts from."""

import torch
from torch import Tensor
from transformers import GPT2Config

from rlhf.models.gpt import GPT
from rlhf.models.tokenizer import Tokenizer

POSITION_SCALE = (
    0.3  # of the sinusoids; smaller ones are found later beside the token embeddings (docs/lab-log.md)
)


def new_model(tokenizer: Tokenizer, layers: int, width: int, heads: int, context: int, dropout: float) -> GPT:
    """A GPT of that size with GPT-2's initialisation, but for its position embeddings: `sinusoids`."""
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
    return model


def sinusoids(num_positions: int, width: int) -> Tensor:
    """Position embeddings (num_positions, width) of Vaswani et al. 2017, section 3.5, the sines before the cosines.

    One linear map looks a place back from wherever it stands, so a model learns to copy from its context in a fraction
    of the tokens that it needs when each position starts at random. From there on they learn like all other weights.
    """
    rate = 10_000.0 ** -torch.linspace(
        0, 1, -(-width // 2), device="cpu"
    )  # also where models are made without memory
    angles = torch.arange(num_positions, device="cpu")[:, None] * rate
    return torch.cat((angles.sin(), angles.cos()), dim=1)[:, :width]
