"""Turning what a user names (a reference, a folder, a hub id, a file) into models, prompts and lineage."""

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlhf.data import PromptRow, ReadOptions, fingerprint, read_prompt_rows
from rlhf.errors import InputError, StoreError
from rlhf.hub_names import looks_like_path, shown
from rlhf.machine import processes
from rlhf.models.adapters import with_adapters
from rlhf.models.checkpoints import context_length
from rlhf.models.last_blocks import freeze_lower
from rlhf.models.sources import content_hash, find_source
from rlhf.models.tokenizer import AnyTokenizer
from rlhf.starter.items import take_items
from rlhf.store import STAGES, Entry, Store


def locate_model(store: Store, name: str) -> tuple[str, Entry | None]:
    """Where to load a model from: a store entry's folder, a folder outside the store, a GGUF file or a hub id.

    A name whose first part is a stage is looked up in the store; an existing folder or file is taken as it is.
    Raises StoreError for what is none of these or is not in the store, InputError for a file or folder that is not there.
    """
    if name.split("/")[0].split(":")[0] in STAGES:
        entry = store.resolve(name)
        return str(entry.path), entry
    if not os.path.exists(name) and "/" not in name and not looks_like_path(name):
        raise StoreError(
            f"{shown(name)}: neither a folder, a GGUF file, a hub id (owner/name) nor a reference such as sft:latest"
        )
    find_source(name)
    return name, None


@dataclass(frozen=True)
class Located:
    """A model that a stage starts from: where to load it, and what of it goes into the new entry's hash.

    parents: its entry by role, if it has one. data: else what it is by content.
    """

    folder: str
    parents: dict[str, Entry]
    data: dict[str, str]


def locate_parent(store: Store, name: str, role: str) -> Located:
    """`locate_model`, with what identifies the model by content and not by name. Raises as it, and InputError."""
    folder, entry = locate_model(store, name)
    if entry:
        return Located(folder, {role: entry}, {})
    return Located(folder, {}, {f"{role} {name}": content_hash(name)})


def check_one_way(last_blocks: int, lora_rank: int) -> None:
    """Raises InputError where both ways to train less than all are asked for."""
    if last_blocks and lora_rank:
        raise InputError("last_blocks and lora_rank are two ways to train less than all; choose one of them")


def limit_trainable(model: Any, last_blocks: int, lora_rank: int, head: str | None = None) -> Any:
    """The model with what a stage's settings let learn of it: all, its last blocks, or adapters (and a head).

    Raises InputError where both are asked for.
    """
    check_one_way(last_blocks, lora_rank)
    if last_blocks:
        freeze_lower(model, last_blocks)
    return with_adapters(model, lora_rank, head) if lora_rank else model


def within_context(model: Any, max_length: int) -> int:
    """The longest row in tokens: max_length, or the model's context where that is shorter."""
    return min(max_length, context_length(model.config) or max_length)


def entry_for_all(store: Store, stage: str, inputs: dict[str, Any]) -> Entry:
    """The entry of these inputs, for all processes once the first of them has written it.

    Raises InputError where another machine's store is another folder.
    """
    processes.barrier()
    entry = store.find(stage, **inputs)
    if entry is None:
        raise InputError(
            f"{store.root}: the entry that the first process wrote is not here on {socket.gethostname()}; "
            "put the store on a disk that all machines share"
        )
    return entry


def load_prompts(
    source: str | None, split: str, num_prompts: int, seed: int, options: ReadOptions | None = None
) -> tuple[Sequence[PromptRow], dict[str, Any]]:
    """Prompts from a file or data set, or from a split of the starter world; and their fingerprint by source.

    Of a source with more it takes num_prompts at random, by the seed.
    """
    if source is None:
        prompts = [item.prompt for item in take_items(split, num_prompts, seed)]
        return [PromptRow(prompt=prompt) for prompt in prompts], {
            f"starter {split} prompts": fingerprint(prompts)
        }
    rows = read_prompt_rows(source, options=options, num_prompts=num_prompts, seed=seed)
    return rows, {source: rows.fingerprint()}


def packed_tokens(tokenizer: AnyTokenizer, texts: Sequence[str]) -> Tensor:
    """All documents in one row of tokens (N,), int64, each closed by the end-of-document token."""
    rows = tokenizer.encode_batch(texts)
    return torch.tensor([token for row in rows for token in (*row, tokenizer.document_end_id)])


def with_first_tokens(tokenizer: AnyTokenizer, rows: Tensor) -> Tensor:
    """Pieces of text (B, S), int64, behind the first token that the model was trained with, where there is one."""
    first = torch.tensor(tokenizer.first_ids, dtype=rows.dtype)
    return torch.cat([first.expand(len(rows), -1), rows], dim=1)
