"""K completions per prompt into the label store, as ranking tasks for people or for simulated labelers."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from annotate.labels import LabelStore, NewTask
from annotate.simulate import simulate
from rlhf.data import Prompt, as_messages
from rlhf.errors import InputError
from rlhf.generate import Sample
from rlhf.model import load_policy
from rlhf.starter.items import take_items
from rlhf.store import Store
from rlhf.tokenizer import AnyTokenizer, load_tokenizer
from rlhf.training import best_device, seed_everything, set_threads
from stages.evaluate import sampled
from stages.inputs import model_of, prompts_of
from stages.settings import SampleSettings


def run(
    settings: SampleSettings,
    store: Store,
    labels_url: str | Path | None = None,
    say: Callable[[str], None] = print,
) -> str:
    """Sample answers to prompts and put them up for ranking; returns the batch's name.

    A batch already made from the same inputs is not sampled again, but its simulated labelers go on where they were.
    """
    if not 2 <= settings.k <= 9:
        raise InputError(f"k is {settings.k}; between 2 and 9 answers can be ranked")
    if settings.simulate and settings.prompts:
        raise InputError(
            "simulated labelers know the starter world's prompts only; leave out --simulate or --prompts"
        )
    folder, entry = model_of(store, settings.policy)
    prompts, data = prompts_of(settings.prompts, settings.split, settings.num_prompts, settings.seed)
    inputs = [entry.hash if entry else settings.policy, asdict(settings), data]
    source = hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()
    with LabelStore(labels_url) as labels:
        known = labels.batch_source(settings.batch)
        if known not in (None, source):
            raise InputError(
                f"batch {settings.batch}: is there already, made from other inputs; choose another --batch"
            )
        if known is None:
            say(f"sample: {settings.k} answers to each of {len(prompts)} prompts")
            tasks = _tasks(settings, folder, entry.ref if entry else settings.policy, prompts)
            labels.add_batch(settings.batch, tasks, overlap=settings.overlap, source=source)
        if settings.simulate:
            items = {
                item.prompt: item for item in take_items(settings.split, settings.num_prompts, settings.seed)
            }
            given = simulate(labels, settings.batch, items, settings.seed)
            say(f"sample: {given} rankings by simulated labelers in batch {settings.batch}")
        else:
            say(
                f"sample: batch {settings.batch} waits for labelers: {labels.progress(settings.batch).tasks} tasks"
            )
    return settings.batch


def _tasks(
    settings: SampleSettings, folder: str, checkpoint: str, prompts: Sequence[Prompt]
) -> list[NewTask]:
    set_threads(0)
    seed_everything(settings.seed)
    policy, tokenizer = load_policy(folder).to(best_device()).eval(), load_tokenizer(folder)
    rows = [tokenizer.encode_prompt(as_messages(prompt)) for prompt in prompts for _ in range(settings.k)]
    samples = sampled(
        policy, tokenizer, rows, settings.temperature, settings.max_new_tokens, settings.seed + 77
    )
    sampling = {name: getattr(settings, name) for name in ("temperature", "max_new_tokens", "seed")}
    tasks = []
    for place, prompt in enumerate(prompts):
        texts = different(tokenizer, samples[place * settings.k : (place + 1) * settings.k])
        if len(texts) >= 2:
            task = NewTask(
                prompt=prompt,
                completions=tuple(texts),
                ended=tuple(texts.values()),
                checkpoints=(checkpoint,) * len(texts),
                samplings=(sampling,) * len(texts),
            )
            tasks.append(task)
    if not tasks:
        raise InputError("every prompt got the same answer each time: nothing to rank; raise the temperature")
    return tasks


def different(tokenizer: AnyTokenizer, samples: Sequence[Sample]) -> dict[str, bool]:
    """The texts that differ, each with whether it ended: ranking twins would cost labelers' time and teach nothing."""
    texts: dict[str, bool] = {}
    for sample in samples:
        text = tokenizer.decode(sample.tokens).strip().replace("\x00", "")
        texts[text] = texts.get(text, False) or sample.ended
    return texts
