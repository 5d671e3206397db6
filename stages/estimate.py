"""`rlhf doctor --base M`: what each stage would take of time and memory here, from a short probe of the real model.

Each stage runs in a process of its own, through the code of the stage itself: SFT and the reward model for a few
optimizer steps, PPO for one small iteration. What that held at most is the memory; its seconds times the number of steps
are the time. Where the recipe names no file, the rows are made up, of a common length, and the estimate says so.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rlhf.data import (
    Demonstration,
    Ranking,
    read_demonstrations,
    read_options,
    read_prompts,
    read_rankings,
    read_texts,
)
from rlhf.machine.memory import peak_mib
from stages.align.data import AlignData
from stages.align.steps import SETTINGS, stage_settings
from stages.settings import PPOSettings, RewardSettings, SFTSettings
from stages.steps import settings_of

ROWS = 1000  # where there is no data
WORDS = (
    "Some",
    "people",
    "like",
    "to",
    "walk",
    "in",
    "the",
    "park",
    "when",
    "there",
    "is",
    "little",
    "wind.",
)
STEPS = 4  # optimizer steps of a probe; the first one is not counted
EPISODES = 32  # completions of PPO's probe, if a minibatch has as many
SMALL_MILLIONS = 30
UNITS = ((3600, "h"), (60, "min"), (1, "s"))


@dataclass(frozen=True)
class Estimate:
    """One stage: what it was estimated for, and how long and large it is. peak_mib None: it did not fit."""

    stage: str
    work: str
    seconds: float = 0.0
    peak_mib: float | None = None

    @property
    def summary(self) -> str:
        """One line for people."""
        if self.peak_mib is None:
            return self.work
        return f"about {format_duration(self.seconds)}, {self.peak_mib / 1024:.1f} GiB: {self.work}"


def format_duration(seconds: float) -> str:
    """Seconds in the unit people would use."""
    size, unit = next((size, unit) for size, unit in UNITS if seconds >= 1.5 * size or size == 1)
    return f"{seconds / size:.1f} {unit}"


def fitting_recipe(folder: str) -> tuple[str, str]:
    """The recipe for a model on this machine, and why: by its size, and whether there is a GPU."""
    from rlhf.machine.devices import best_device
    from rlhf.models.checkpoints import load_policy

    millions = sum(p.numel() for p in load_policy(folder).parameters()) / 1e6
    if best_device().type != "cpu":
        return "hub-model", f"{millions:.0f}M parameters and a GPU"
    if millions < SMALL_MILLIONS:
        return "laptop", f"{millions:.0f}M parameters, small enough to train all of them on a CPU"
    return "smollm2", f"{millions:.0f}M parameters and no GPU: only the last blocks learn"


def estimates(
    folder: str, recipe: Mapping[str, Mapping[str, Any]], parts: AlignData | None = None
) -> Iterator[Estimate]:
    """An estimate for each stage with a recipe's settings, as soon as it is measured.

    parts: the data that `rlhf align` gives the stages, where the recipe is one of its.
    """
    data = recipe.get("data", {})
    num_rows = {"sft": data.get("num_demonstrations"), "reward": data.get("num_rankings")}
    for stage in PROBES:
        if stage == "gold" and stage not in recipe:
            continue
        settings = (
            stage_settings(parts, recipe, stage) if parts else settings_of(SETTINGS[stage], recipe, stage)
        )
        # A new process for each: its peak is the stage's, and one that the system ends takes nothing with it.
        with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
            try:
                yield pool.submit(probe, stage, folder, settings, num_rows.get(stage) or ROWS).result()
            except BrokenProcessPool:  # such as by the system, for lack of memory
                yield Estimate(stage, "ended by the system for lack of memory")


def probe(stage: str, folder: str, settings: Any, num_rows: int) -> Estimate:
    """Measure a stage in this process, which says nothing meanwhile; num_rows: of data, where no file is named."""
    for stream in (1, 2):  # trainers report to both
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    started = time.perf_counter()
    from rlhf.machine.devices import set_threads

    set_threads(0)
    work, begun, seconds = PROBES[stage](folder, settings, num_rows)
    return Estimate(stage, work, begun - started + seconds, peak_mib())


def filler_text(num_words: int, place: int) -> str:
    """Words in place of data, others at every place."""
    return " ".join([str(place), *(WORDS[(place + i) % len(WORDS)] for i in range(num_words - 1))])


def evenly_spaced(rows: Sequence[Any], num_rows: int) -> list[Any]:
    """So many rows from all over the data, some more than once where it has fewer."""
    return [rows[i * len(rows) // num_rows] for i in range(num_rows)]


def forward_share(model: Any, settings: SFTSettings | RewardSettings) -> float:
    """What a pass without gradients takes of one with, counting blocks: the backward pass is two more of those that learn.

    Under adapters it is one more of all, which have no gradients of their own.
    """
    blocks = model.config.num_hidden_layers
    backward = blocks if settings.lora_rank else 2 * (settings.last_blocks or blocks)
    return blocks / (blocks + backward)


def describe_rows(num_rows: int, named: str | None, what: str) -> str:
    return f"{num_rows:,} {what}" + ("" if named else " of about 160 words, the recipe naming no file")


def timed_steps(trainer: Any) -> tuple[float, float]:
    """When the first optimizer step of a trl trainer began, and the seconds of one; nothing is saved."""
    from transformers import TrainerCallback
    from transformers.trainer_utils import IntervalStrategy

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.begun = 0.0
            self.ends: list[float] = []

        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            self.begun = self.begun or time.perf_counter()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            self.ends.append(time.perf_counter())

    clock, args = Clock(), trainer.args
    args.max_steps, args.load_best_model_at_end = STEPS, False
    args.save_strategy = args.eval_strategy = args.logging_strategy = IntervalStrategy.NO
    trainer.add_callback(clock)
    trainer.train()
    return clock.begun, (clock.ends[-1] - clock.ends[0]) / (STEPS - 1)


def probe_sft(folder: str, settings: SFTSettings, num_rows: int) -> tuple[str, float, float]:
    """What was measured, when its first step began, and the seconds of all steps from there on."""
    from rlhf.models.tokenizer import load_chat_tokenizer
    from stages.sft.stage import VALIDATION_SHARE, trainer_of

    made = [Demonstration(prompt=filler_text(40, n), completion=filler_text(120, n)) for n in range(num_rows)]
    rows = read_demonstrations(settings.data, options=read_options(settings)) if settings.data else made
    held_out = 0.0 if settings.validation_data else VALIDATION_SHARE
    with tempfile.TemporaryDirectory() as work:
        training = evenly_spaced(rows, 2 * STEPS * settings.batch_size)  # some may be too long
        trainer = trainer_of(
            settings,
            folder,
            load_chat_tokenizer(folder),
            training,
            training,
            Path(work),
            None,
            lambda line: None,
        )
        begun, step_s = timed_steps(trainer)
    trained_on = len(trainer.train_dataset) / len(training)  # less if too long, or packed together
    num_steps = settings.epochs * len(rows) * (1 - held_out) * trained_on / settings.batch_size
    work = f"{describe_rows(len(rows), settings.data, 'demonstrations')}, {num_steps:.0f} steps of {step_s:.2f} s"
    return (
        work,
        begun,
        num_steps * step_s * (1 + VALIDATION_SHARE * forward_share(trainer.model, settings)),
    )


def probe_reward(folder: str, settings: RewardSettings, num_rows: int) -> tuple[str, float, float]:
    """As `probe_sft`."""
    from rlhf.models.tokenizer import load_tokenizer
    from stages.reward.data import group_by_prompt
    from stages.reward.stage import trainer_of

    made = [
        Ranking(
            prompt=filler_text(40, n),
            completions=(filler_text(120, n), filler_text(120, n + 1)),
            ranks=(0, 1),
        )
        for n in range(num_rows)
    ]
    rows = read_rankings(settings.data, options=read_options(settings)) if settings.data else made
    groups = group_by_prompt(rows)
    what = "prompts" if settings.data else "prompts, two answers each"
    num_steps = (
        settings.epochs * len(groups) * (1 - settings.validation_fraction) / settings.prompts_per_batch
    )
    with tempfile.TemporaryDirectory() as work:
        training = evenly_spaced(groups, STEPS * settings.prompts_per_batch)
        trainer = trainer_of(settings, folder, load_tokenizer(folder), training, Path(work))
        begun, step_s = timed_steps(trainer)
    work = f"{describe_rows(len(groups), settings.data, what)}, {num_steps:.0f} steps of {step_s:.2f} s"
    passes = settings.validation_fraction + (1 / settings.epochs if settings.probe_l2 else 0)
    return work, begun, num_steps * step_s * (1 + passes * forward_share(trainer.model, settings))


def probe_ppo(folder: str, settings: PPOSettings, num_rows: int) -> tuple[str, float, float]:
    """As `probe_sft`, for iterations of which one with at most EPISODES completions is measured."""
    from rlhf.models.adapters import lora, scalar_model_over, with_adapters
    from rlhf.models.checkpoints import load_policy, scalar_from_policy
    from rlhf.models.tokenizer import load_tokenizer
    from stages.ppo.trainer import PPOTrainer

    policy, rank = load_policy(folder), settings.lora_rank
    reward = with_adapters(scalar_model_over(policy), rank, "score") if rank else scalar_from_policy(policy)
    prompts = (
        read_prompts(settings.prompts, options=read_options(settings))
        if settings.prompts
        else [filler_text(40, n) for n in range(num_rows)]
    )
    texts = (
        read_texts(settings.ptx_data) if settings.ptx_data else [filler_text(100, n) for n in range(num_rows)]
    )
    at_once = min(settings.minibatch_size, EPISODES)
    small = replace(
        settings, episodes=at_once, batch_size=at_once, minibatch_size=at_once, kl_budget=0.0, save_every=0
    )
    trainer = PPOTrainer(
        small, processing_class=load_tokenizer(folder), model=policy, reward_model=reward,
        train_dataset=evenly_spaced(prompts, at_once), peft_config=lora(rank) if rank else None,
        pretrain_dataset=texts if settings.ptx_coef else None, say=lambda line: None,
    )  # fmt: skip
    trainer.args = replace(small, episodes=4, batch_size=4, minibatch_size=4)
    trainer.train()  # what is made once: caches, compiled loops, Adam's moments
    trainer.args, trainer.learner.iteration = small, 0
    begun = time.perf_counter()
    trainer.train()
    episode_s = (time.perf_counter() - begun) / at_once
    words = "" if settings.prompts else ", prompts of about 40 words"
    return (
        f"{settings.episodes:,} completions of {episode_s:.2f} s{words}",
        begun,
        settings.episodes * episode_s,
    )


PROBES: dict[str, Callable[[str, Any, int], tuple[str, float, float]]] = {
    "sft": probe_sft,
    "reward": probe_reward,
    "gold": probe_reward,
    "ppo": probe_ppo,
}
