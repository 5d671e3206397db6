"""Stage 0: a base GPT from plain text, trained on packed documents with Muon."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import GPT2Config

from rlhf.data import fingerprint, read_options, read_texts
from rlhf.errors import InputError
from rlhf.inputs import packed_tokens
from rlhf.learning.head import token_logprobs
from rlhf.learning.losses import lm_loss
from rlhf.learning.metrics import MetricLog
from rlhf.learning.optimizers import Optimizers, muon_and_adamw
from rlhf.learning.training import (
    load_state,
    restore_runtime,
    runtime_state,
    save_state,
    seed_everything,
    warmup_cosine,
)
from rlhf.machine.devices import autocast, best_device, set_threads
from rlhf.machine.threads import ThreadWatch
from rlhf.models.gpt import GPT
from rlhf.models.tokenizer import Tokenizer, published_tokenizer, train_tokenizer
from rlhf.starter.corpus import corpus
from rlhf.store import Entry, Store, inputs_hash
from stages.reading import accounts_of, prefixed
from stages.settings import PretrainSettings

VALIDATION_SHARE = 0.01
SAVE_EVERY_S = 60.0
POSITION_SCALE = (
    0.3  # of the sinusoids; smaller ones are found later beside the token embeddings (docs/lab-log.md)
)


def run(settings: PretrainSettings, store: Store, say: Callable[[str], None] = print) -> Entry:
    """Train a base model on plain text into the store; returns the entry that is there for the same inputs."""
    options = read_options(settings, prefixed("pretrain", say))
    texts = (
        read_texts(settings.data, options=options)
        if settings.data
        else corpus(settings.tokens, settings.seed)
    )
    inputs: dict[str, Any] = {
        "parents": {},
        "settings": settings,
        "data": {settings.data or "starter corpus": fingerprint(texts)},
        "seed": settings.seed,
    }
    if found := store.find("base", inputs_hash("base", **inputs)):
        say(f"base: {found.ref} is there already")
        return found
    set_threads(settings.threads)
    seed_everything(settings.seed)
    tokenizer = _tokenizer(settings, texts)
    tokens = packed_tokens(tokenizer, texts)
    num_validation = max(settings.sequence_length + 1, int(VALIDATION_SHARE * len(tokens)))
    training, validation = tokens[:-num_validation], tokens[-num_validation:]
    log = MetricLog(store.root / "logs" / f"base-{settings.name}")
    work = store.work_folder("base", inputs_hash("base", **inputs))
    model, train_s = _train(settings, tokenizer, training, log, work / "state.pt", say)
    with store.new("base", settings.name, **inputs) as writer:
        model.save_pretrained(writer.path)
        tokenizer.save(writer.path)
        log.save(writer.path)
        writer.read = accounts_of(texts)
        writer.metrics = {
            "validation_loss": round(validation_loss(model, validation, settings), 4),
            "tokens": settings.tokens,
            "train_s": round(train_s, 1),
        }
    store.discard_work("base", inputs_hash("base", **inputs))
    return writer.entry


def _tokenizer(settings: PretrainSettings, texts: Sequence[str]) -> Tokenizer:
    if settings.tokenizer:
        return published_tokenizer(settings.tokenizer)
    return train_tokenizer(texts, settings.vocab_size)


def new_model(settings: PretrainSettings, tokenizer: Tokenizer) -> GPT:
    """A GPT in the settings' size with GPT-2's initialisation, but for its position embeddings: `sinusoids`."""
    config = GPT2Config(
        vocab_size=tokenizer.vocab_size,
        n_positions=settings.context,
        n_embd=settings.width,
        n_layer=settings.layers,
        n_head=settings.heads,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        resid_pdrop=0.0,
        bos_token_id=tokenizer.document_end_id,
        eos_token_id=tokenizer.eos_id,
        pad_token_id=tokenizer.pad_id,
    )
    model = GPT(config)
    with torch.no_grad():
        model.transformer.wpe.weight.copy_(POSITION_SCALE * sinusoids(settings.context, settings.width))
    return model


def sinusoids(num_positions: int, width: int) -> Tensor:
    """Position embeddings (num_positions, width) of Vaswani et al. 2017, section 3.5, the sines before the cosines.

    One linear map looks a place back from wherever it stands, so a model learns to copy from its context in a fraction
    of the tokens that it needs when each position starts at random. From there on they learn like all other weights.
    """
    rate = 10_000.0 ** -torch.linspace(0, 1, -(-width // 2))
    angles = torch.arange(num_positions)[:, None] * rate
    return torch.cat((angles.sin(), angles.cos()), dim=1)[:, :width]


def _train(
    settings: PretrainSettings,
    tokenizer: Tokenizer,
    tokens: Tensor,
    log: MetricLog,
    state_file: Any,
    say: Any,
) -> tuple[GPT, float]:
    length = settings.sequence_length
    if len(tokens) <= length + 1:
        raise InputError(
            f"the text has {len(tokens)} tokens, fewer than one sequence of {length}; bring more text"
        )
    device = best_device()
    model = new_model(settings, tokenizer).to(device).train()
    optimizers = Optimizers(*muon_and_adamw(model, settings.lr, settings.muon_lr))
    generator = torch.Generator().manual_seed(settings.seed)
    num_steps = max(1, settings.tokens // (settings.batch_size * length))
    warmup = max(1, int(settings.warmup_fraction * num_steps))
    first = _resume(model, optimizers, generator, state_file, say)
    watch = None if settings.threads else ThreadWatch()
    started = saved = time.monotonic()
    for step in tqdm(range(first, num_steps), initial=first, total=num_steps, desc="pretrain", mininterval=1):
        starts = torch.randint(0, len(tokens) - length - 1, (settings.batch_size,), generator=generator)
        rows = tokens[starts[:, None] + torch.arange(length + 1)].to(device)  # (B, S + 1)
        optimizers.set_lr_factor(warmup_cosine(step, num_steps, warmup, floor=0.05))
        with autocast(device, settings.bf16):
            hidden = model.transformer(rows[:, :-1]).last_hidden_state.flatten(0, 1)  # (B·S, C)
            loss = -token_logprobs(hidden, model.lm_head.weight, rows[:, 1:].flatten()).mean()
        loss.backward()
        norm = optimizers.step(max_grad_norm=1.0)
        if step % 20 == 0 or step == num_steps - 1:
            log.write(step, {"train/loss": float(loss.detach()), "train/grad_norm": norm})
        if watch:
            watch.step()
        if time.monotonic() - saved > SAVE_EVERY_S:
            saved = time.monotonic()
            state = {"model": model.state_dict(), "optimizers": optimizers.state_dict()}
            save_state(
                state_file,
                {**state, "step": step + 1, "runtime": runtime_state(), "order": generator.get_state()},
            )
    return model, time.monotonic() - started


def _resume(model: GPT, optimizers: Optimizers, generator: torch.Generator, state_file: Any, say: Any) -> int:
    state = load_state(state_file)
    if state is None:
        return 0
    model.load_state_dict(state["model"])
    optimizers.load_state_dict(state["optimizers"])
    generator.set_state(state["order"])
    restore_runtime(state["runtime"])
    say(f"base: continuing at step {state['step']}")
    return state["step"]


@torch.no_grad()
def validation_loss(model: GPT, tokens: Tensor, settings: PretrainSettings) -> float:
    """Mean loss in nats per token over consecutive sequences of held-out tokens (N,)."""
    model.eval()
    length = settings.sequence_length
    num_rows = min(64, (len(tokens) - 1) // length)
    rows = tokens[: num_rows * length].view(num_rows, length).to(model.device)
    targets = tokens[1 : num_rows * length + 1].view(num_rows, length).to(model.device)
    with autocast(model.device, settings.bf16):
        logits = model(input_ids=rows).logits
    return float(lm_loss(logits.flatten(0, 1), targets.flatten()).mean())
