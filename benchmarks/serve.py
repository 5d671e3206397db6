"""Serving measured."""

import itertools
import string
from pathlib import Path

import torch
from transformers import GPT2Config

from rlhf.model import GPT
from rlhf.tokenizer import SPECIAL_TOKENS, SPLIT_PATTERN, Tokenizer


def gpt2_size(folder: Path) -> None:
    """A GPT of GPT-2's size with random weights, and a vocabulary of GPT-2's size: bytes, pairs, triples."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    letters = string.ascii_lowercase + string.ascii_uppercase + string.digits + " "
    for size in (2, 3):
        for token in itertools.product(letters, repeat=size):
            if len(ranks) < 50257 - len(SPECIAL_TOKENS):
                ranks["".join(token).encode()] = len(ranks)
    tokenizer = Tokenizer(
        ranks, SPLIT_PATTERN, {token: len(ranks) + i for i, token in enumerate(SPECIAL_TOKENS)}
    )
    torch.manual_seed(0)
    model = GPT(
        GPT2Config(
            vocab_size=tokenizer.vocab_size,
            eos_token_id=tokenizer.eos_id,
            pad_token_id=tokenizer.pad_id,
            bos_token_id=tokenizer.document_end_id,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save(folder)
