"""`rlhf ppo --extend ENTRY`: a finished run made longer, as if it had been started with more episodes."""

import math
import shutil
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from rlhf.durable import copy_files
from rlhf.errors import InputError
from rlhf.learning.training import load_state
from rlhf.machine import processes
from rlhf.store import Entry, Store
from stages.ppo.learner import Learner
from stages.settings import PPOConfig, PPOSettings

STATE = "state/state.pt"  # in the entry of a run with keep_state: what an exact continuation needs
BEST = "best"  # the policy with the highest objective on held-out prompts
EARLIER_BEST = (
    "state/best"  # that before the run's end, where only the end was a reason to measure the better one
)
OBJECTIVE = "eval/objective"
NEW = (
    "episodes",
    "name",
    "extend",
)  # what a longer run may have of its own, beside settings that change no number


def settings_of_longer_run(settings: PPOSettings, entry: Entry) -> PPOSettings:
    """The settings of the entry's run with the new number of episodes.

    Raises InputError where the run kept no state, cannot be made longer, or is asked to go on with another setting.
    """
    if entry.stage != "ppo" or not (entry.path / STATE).exists():
        raise InputError(
            f"--extend {entry.ref}: it kept no training state; train it with --set keep_state=true"
        )
    before = entry.manifest["settings"]
    own = {
        each.name: before.get(each.name, each.default)
        for each in fields(settings)
        if each.metadata["decides"] and each.name not in NEW
    }
    for each in fields(settings):
        if each.name in own and getattr(settings, each.name) not in (each.default, own[each.name]):
            raise InputError(
                f"--extend {entry.ref} goes on with {each.name} = {own[each.name]}; leave it out"
            )
    if own["lr_decay"] != "none":
        raise InputError(f"--extend {entry.ref}: its learning rate has decayed to its end; begin a new run")
    if own["max_staleness"]:
        raise InputError(
            f"--extend {entry.ref}: its next batch would have been drawn while its last one trained; begin a new run"
        )
    if before["episodes"] % own["batch_size"]:
        raise InputError(
            f"--extend {entry.ref}: its last iteration had fewer than batch_size = {own['batch_size']} completions; "
            "a longer run would have had all of them"
        )
    if settings.episodes <= before["episodes"]:
        raise InputError(f"--extend {entry.ref}: it has {before['episodes']} episodes; give more in all")
    return replace(settings, **own, extend=entry.ref)


def check_parents(entry: Entry, parents: dict[str, Entry], outside: dict[str, str]) -> None:
    """Raises InputError where the models that the entry's run began with are others now.

    outside: what identifies the models and functions that lie outside the store.
    """
    for name, content in outside.items():
        if entry.manifest["data"].get(name) != content:
            raise InputError(f"--extend {entry.ref}: {name} is not what it was in that run")
    for role, parent in parents.items():
        was = entry.manifest["parents"].get(role)
        if was is None or was["hash"] != parent.hash:
            raise InputError(f"--extend {entry.ref}: its {role} was {was and was['ref']}, not {parent.ref}")


def first_episodes(store: Store, settings: PPOSettings) -> int:
    """The episodes that the first of a chain of longer runs was to have: so many prompts it took."""
    episodes, extended = settings.episodes, settings.extend
    while extended:
        before = store.resolve(extended).manifest["settings"]
        episodes, extended = before["episodes"], before.get("extend")
    return episodes


def is_measured_by_its_end(eval_every: int, num_done: int) -> bool:
    """Whether held-out prompts are measured after so many iterations only because the run ends with them."""
    return bool(eval_every) and num_done % eval_every != 0


def keep_earlier_best(folder: Path, config: PPOConfig, learner: Learner) -> None:
    """Before a better policy takes its place in a run's folder: put the best one aside where a longer run needs it."""
    earlier, num_done = folder / EARLIER_BEST, learner.iteration
    if num_done < config.num_iterations or not is_measured_by_its_end(config.eval_every, num_done):
        shutil.rmtree(earlier, ignore_errors=True)
    elif learner.best > -math.inf and not earlier.exists():
        earlier.parent.mkdir(exist_ok=True)
        (folder / BEST).rename(earlier)


def begin_where_it_ended(entry: Entry, work: Path) -> dict[str, Any]:
    """The state to go on with from a finished run, whose best policy, kept policies and samples are copied into `work`.

    An evaluation that the run made only because it ended is taken back, as far as the run kept what was best before it.
    """
    state = load_state(entry.path / STATE)
    assert state is not None
    history = list(state["history"])
    before = [row[OBJECTIVE] for row in history[:-1] if OBJECTIVE in row]
    best, kept = max(before, default=-math.inf), entry.path / EARLIER_BEST
    was_best = history[-1].get(OBJECTIVE, -math.inf) > best
    of_best = entry.path / BEST
    eval_every = entry.manifest["settings"].get("eval_every", 0)
    if is_measured_by_its_end(eval_every, state["iteration"]) and not (
        was_best and before and not kept.exists()
    ):
        history[-1] = {name: value for name, value in history[-1].items() if not name.startswith("eval/")}
        state |= {"history": history, "best": best}
        of_best = kept if was_best else of_best
    if processes.is_main_process():
        for source, name in ((of_best, BEST), (entry.path / "checkpoints", "checkpoints")):
            shutil.rmtree(work / name, ignore_errors=True)
            copy_files(source, work / name)
        if (samples := entry.path / "samples.jsonl").exists():
            shutil.copyfile(samples, work / samples.name)
    return state
