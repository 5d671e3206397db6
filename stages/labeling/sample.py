"""K completions per prompt into the label store, as ranking tasks for people or for simulated labelers."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from annotate.labels import LabelStore, NewTask
from annotate.simulate import simulate
from rlhf.data import Prompt, as_messages, read_options
from rlhf.errors import InputError
from rlhf.inputs import load_prompts, locate_model
from rlhf.learning.training import seed_everything
from rlhf.machine.devices import best_device, set_threads
from rlhf.models.checkpoints import load_policy
from rlhf.models.sources import content_hash
from rlhf.models.tokenizer import AnyTokenizer, load_tokenizer
from rlhf.sampling.generate import Sample
from rlhf.settings import hashed_settings, without_places
from rlhf.starter.items import take_items
from rlhf.store import Store
from stages.judging.answers import fitting_prompts
from stages.judging.sampled import SampleFile, kept_until_done, sample_answers
from stages.reading import prefixed
from stages.settings import SampleSettings


def run(
    settings: SampleSettings,
    store: Store,
    labels_url: str | Path | None = None,
    say: Callable[[str], None] = print,
    *,
    renames: bool = False,
) -> str:
    """Sample answers to prompts and put them up for ranking; returns the batch's name.

    A batch already made from the same inputs is not sampled again, but its simulated labelers go on where they were. Of a
    name that a batch of other inputs has, `renames` makes one of its own; else it raises InputError.
    """
    _check(settings)
    models = [
        (folder, entry, name) for name in _policies(settings) for folder, entry in [locate_model(store, name)]
    ]
    prompts, data = load_prompts(
        settings.prompts, settings.split, settings.num_prompts, settings.seed,
        read_options(settings, prefixed("sample", say)),
    )  # fmt: skip
    made_of = [entry.hash if entry else content_hash(name) for _, entry, name in models]
    source = _hash([made_of, without_places(settings, hashed_settings(settings)), [*data.values()]])
    by_places = _hash([made_of, hashed_settings(settings), data])  # as earlier batches have it
    named = [(folder, entry.ref if entry else name) for folder, entry, name in models]
    with LabelStore(labels_url) as labels:
        settings = _with_free_name(settings, labels, (source, by_places), renames)
        if labels.batch_source(settings.batch) is None:
            say(f"sample: {settings.k} answers to each of {len(prompts)} prompts")
            kind = "compare" if settings.against and settings.k == 2 else "rank"
            fitting = fitting_prompts(
                [folder for folder, _ in named], prompts, settings, prefixed("sample", say)
            )
            with kept_until_done(store, "sample", source, say) as work:
                tasks = _tasks(settings, named, [row.prompt for row in fitting], work)
                labels.add_batch(settings.batch, tasks, kind=kind, overlap=settings.overlap, source=source)
        if settings.simulate:
            items = {
                item.prompt: item for item in take_items(settings.split, settings.num_prompts, settings.seed)
            }
            given = simulate(labels, settings.batch, items, settings.seed)
            say(
                f"sample: {given} rankings by simulated labelers in batch {settings.batch}"
                if given
                else f"sample: batch {settings.batch} is ranked already"
            )
        else:
            say(
                f"sample: batch {settings.batch} waits for labelers: {labels.progress(settings.batch).tasks} tasks"
            )
    return settings.batch


def _with_free_name(
    settings: SampleSettings, labels: LabelStore, sources: tuple[str, str], renames: bool
) -> SampleSettings:
    """The settings with the name of a batch that is not there yet, or is there from these sources."""
    for batch in (settings.batch, f"{settings.batch}-{sources[0][:8]}")[: 1 + renames]:
        if labels.batch_source(batch) in (None, *sources):
            return replace(settings, batch=batch)
    raise InputError(
        f"batch {settings.batch}: is there already, made from other inputs; choose another --batch"
    )


def _hash(inputs: Any) -> str:
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()


def _policies(settings: SampleSettings) -> list[str]:
    return [settings.policy] if settings.against is None else [settings.policy, settings.against]


def _check(settings: SampleSettings) -> None:
    if settings.simulate and settings.prompts:
        raise InputError(
            "simulated labelers know the starter world's prompts only; leave out --simulate or --prompts"
        )
    if settings.against and settings.k % 2:
        raise InputError(f"k is {settings.k}; two policies give half of the answers each, so it must be even")
    if settings.simulate and settings.against and settings.k == 2:
        raise InputError("simulated labelers rank, they do not compare; leave out --simulate or use --k 4")


def _loaded(settings: SampleSettings, folder: str) -> tuple[Any, AnyTokenizer]:
    set_threads(0)
    seed_everything(settings.seed)
    return load_policy(folder).to(best_device()).eval(), load_tokenizer(folder, settings.template_kwargs)


def _sampling(settings: SampleSettings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in ("temperature", "max_new_tokens", "seed")}


def _tasks(
    settings: SampleSettings, named: Sequence[tuple[str, str]], prompts: Sequence[Prompt], work: Path | None
) -> list[NewTask]:
    """A task for each prompt with k answers, an equal share from every model of (folder, checkpoint).

    What is sampled is kept under `work`, so that an interrupted run goes on with the rest.
    """
    share = settings.k // len(named)
    answers: list[dict[str, tuple[bool, str]]] = [{} for _ in prompts]
    for number, (folder, checkpoint) in enumerate(named):
        policy, tokenizer = _loaded(settings, folder)
        rows = [tokenizer.encode_prompt(as_messages(prompt)) for prompt in prompts for _ in range(share)]
        seed = settings.seed + 77 + number
        file = SampleFile(work and work / f"{number}.samples", f"sample {checkpoint}")
        samples = sample_answers(
            policy, tokenizer, rows, settings.temperature, settings.max_new_tokens, seed, file
        )
        for place, found in enumerate(answers):
            for text, ended in different(tokenizer, samples[place * share : (place + 1) * share]).items():
                found.setdefault(text, (ended, checkpoint))
    tasks = [
        NewTask(
            prompt=prompt,
            completions=tuple(found),
            ended=tuple(ended for ended, _ in found.values()),
            checkpoints=tuple(checkpoint for _, checkpoint in found.values()),
            samplings=(_sampling(settings),) * len(found),
        )
        for prompt, found in zip(prompts, answers, strict=True)
        if len(found) >= 2
    ]
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
