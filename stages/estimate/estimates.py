"""All stages of a recipe, one probe after another.

Each runs in a process of its own, through the code of the stage itself: SFT and the reward model for a few optimizer
steps, PPO for one small iteration. What that held at most is the memory; its seconds times the number of steps are the
time. Where the recipe names no file, the rows are made up, of a common length, and the estimate says so.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing import get_context
from typing import Any

from stages.align.data import AlignData
from stages.align.steps import SETTINGS, stage_settings
from stages.estimate.estimate import Estimate
from stages.estimate.probes import PROBES, ROWS, expected_answer, ranked_prompts, reward_estimate
from stages.settings import RewardSettings
from stages.steps import settings_of

SMALL_MILLIONS = 30


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
    folder: str,
    recipe: Mapping[str, Mapping[str, Any]],
    parts: AlignData | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Iterator[Estimate]:
    """An estimate for each stage with a recipe's settings, as soon as it is measured; say: what is measured now.

    parts: the data that `rlhf align` gives the stages, where the recipe is one of its.
    """
    data = recipe.get("data", {})
    num_rows = {"sft": data.get("num_demonstrations"), "reward": data.get("num_rankings")}
    measured: tuple[RewardSettings, Estimate] | None = None
    for stage in PROBES:
        if stage == "gold" and stage not in recipe:
            continue
        settings = (
            stage_settings(parts, recipe, stage) if parts else settings_of(SETTINGS[stage], recipe, stage)
        )
        rows = num_rows.get(stage) or ROWS
        if stage == "gold" and measured and measured[1].step and same_step(settings, measured[0]):
            yield reward_estimate(stage, settings, ranked_prompts(settings, rows), measured[1].step)
            continue
        if stage == "ppo" and parts:
            expected = expected_answer(folder, parts.file("demonstrations"), settings.max_new_tokens)
            settings = replace(settings, max_new_tokens=expected)
        say(f"{stage}: measuring")
        found = replace(_in_a_process(folder, stage, settings, rows), stage=stage)
        if stage == "reward":
            measured = settings, found
        yield found


def same_step(settings: RewardSettings, other: RewardSettings) -> bool:
    """Whether two reward models' steps are alike, however many they take and on which rows of one division."""
    return settings == replace(
        other, data=settings.data, epochs=settings.epochs, validation_fraction=settings.validation_fraction
    )


def _in_a_process(folder: str, stage: str, settings: Any, num_rows: int) -> Estimate:
    """A stage's probe in a new process: its peak is the stage's, and one that the system ends takes nothing with it."""
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(probe, stage, folder, settings, num_rows).result()
        except BrokenProcessPool:  # such as by the system, for lack of memory
            return Estimate(stage, "ended by the system for lack of memory")


def probe(stage: str, folder: str, settings: Any, num_rows: int) -> Estimate:
    """Measure a stage in this process, which says nothing meanwhile; num_rows: of data, where no file is named."""
    for stream in (1, 2):  # trainers report to both
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    started = time.perf_counter()
    from rlhf.machine.devices import set_threads

    set_threads(0)
    return PROBES[stage](folder, settings, num_rows, started)
