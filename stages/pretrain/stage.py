"""The stage: texts in, a base model in the store, with what was measured on the text it did not see."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from rlhf.data import fingerprint, read_options, read_texts
from rlhf.inputs import packed_tokens
from rlhf.learning.metrics import MetricLog
from rlhf.learning.optimizers import Optimizers, muon_and_adamw
from rlhf.learning.training import seed_everything
from rlhf.machine.devices import best_device, set_threads
from rlhf.machine.threads import ThreadWatch
from rlhf.models.gpt import GPT
from rlhf.models.tokenizer import Tokenizer, published_tokenizer, train_tokenizer
from rlhf.starter.corpus import corpus
from rlhf.store import Entry, Store, inputs_hash
from stages.pretrain.held_out import HeldOut, token_sizes, without_end
from stages.pretrain.initial import new_model
from stages.pretrain.loop import Best, Windows, train
from stages.pretrain.plan import account, outcome, planned
from stages.reading import accounts_of, prefixed
from stages.settings import PretrainSettings
from stages.stopwatch import Stopwatch

STARTER_SHARE = 0.01  # held out of the starter corpus, of which there is as much as anybody wants
FILE_SHARE = 0.1


def run(settings: PretrainSettings, store: Store, say: Callable[[str], None] = print) -> Entry:
    """Train a base model on plain text into the store; returns the entry that is there for the same inputs."""
    settings, texts, learned, unseen = _texts(settings, prefixed("pretrain", say))
    inputs: dict[str, Any] = {
        "parents": {},
        "settings": settings,
        "data": {settings.data or "starter corpus": fingerprint(texts)},
        "seed": settings.seed,
    }
    if found := store.find("base", **inputs):
        say(f"base: {found.ref} is there already")
        return found
    set_threads(settings.threads)
    seed_everything(settings.seed)
    tokenizer = _tokenizer(settings, learned)
    tokens, rest = _tokens(tokenizer, learned, unseen, settings.sequence_length)
    say(f"pretrain: {account(settings, tokenizer.vocab_size, len(tokens), len(rest))}")
    held_out = HeldOut.of(rest, settings.sequence_length, token_sizes(tokenizer), settings.bf16)
    log = MetricLog(store.root / "logs" / f"base-{settings.name}")
    work = store.work_folder("base", inputs_hash("base", **inputs))
    with Stopwatch(work) as watch:
        model, best = _train(settings, tokenizer, tokens, held_out, log, work / "state.pt", say)
    measured = held_out.measure(model)
    say(f"pretrain: {outcome(measured, best)}")
    with store.new("base", settings.name, **inputs) as writer:
        model.save_pretrained(writer.path)
        tokenizer.save(writer.path)
        log.save(writer.path)
        writer.read = accounts_of(texts)
        writer.metrics = {
            "validation_loss": round(measured["loss"], 4),
            "bits_per_byte": round(measured["bits_per_byte"], 4),
            "best_step": best.step,
            "tokens": settings.tokens,
            "passes": round(settings.tokens / len(tokens), 1),
            "train_s": round(watch.seconds, 1),
        }
    store.discard_work("base", inputs_hash("base", **inputs))
    return writer.entry


def _texts(
    settings: PretrainSettings, say: Callable[[str], None]
) -> tuple[PretrainSettings, Sequence[str], Sequence[str], Sequence[str]]:
    """The settings with what the text decides, the whole text, what is learned of it and what is not."""
    if not settings.data:
        settings = planned(settings, None)
        texts = corpus(settings.tokens, settings.seed)
        return settings, texts, texts, []
    read = read_texts(settings.data, options=read_options(settings, say))
    learned, unseen = without_end(read, FILE_SHARE)
    return planned(settings, sum(len(text.encode()) for text in learned)), read, learned, unseen


def _tokenizer(settings: PretrainSettings, texts: Sequence[str]) -> Tokenizer:
    if settings.tokenizer:
        return published_tokenizer(settings.tokenizer)
    return train_tokenizer(texts, settings.vocab_size)


def _tokens(
    tokenizer: Tokenizer, learned: Sequence[str], unseen: Sequence[str], length: int
) -> tuple[Tensor, Tensor]:
    """Tokens to learn from and to measure on; the starter corpus, of which nothing is unseen yet, gives its end."""
    tokens = packed_tokens(tokenizer, learned)
    if unseen:
        return tokens, packed_tokens(tokenizer, unseen)
    num_unseen = max(length + 1, int(STARTER_SHARE * len(tokens)))
    return tokens[:-num_unseen], tokens[-num_unseen:]


def _train(
    settings: PretrainSettings,
    tokenizer: Tokenizer,
    tokens: Tensor,
    held_out: HeldOut,
    log: MetricLog,
    state_file: Path,
    say: Callable[[str], None],
) -> tuple[GPT, Best]:
    device = best_device()
    size = (settings.layers, settings.width, settings.heads, settings.context)
    model = new_model(tokenizer, *size, dropout=settings.dropout or 0.0).to(device)
    length = settings.sequence_length
    num_steps = max(1, settings.tokens // (settings.batch_size * length))
    windows = Windows(num_steps=num_steps, batch_size=settings.batch_size, length=length, seed=settings.seed)
    best = train(
        model, Optimizers(*muon_and_adamw(model, settings.lr, settings.muon_lr)), tokens, held_out, windows,
        warmup=max(1, int(settings.warmup_fraction * num_steps)), log=log, say=say, bf16=settings.bf16,
        watch=None if settings.threads else ThreadWatch(), state_file=state_file,
    )  # fmt: skip
    return model, best
