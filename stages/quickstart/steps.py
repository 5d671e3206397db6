"""`rlhf quickstart`: the whole recipe in order, from plain text to an aligned model and an honest report.

Every step asks its store first and is skipped where the same inputs already gave a result, so a run that was stopped
goes on where it was.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from annotate.labels import LabelStore
from rlhf.errors import InputError
from rlhf.store import Entry, Store
from stages.judging_settings import EvalSettings
from stages.settings import PPOSettings, PretrainSettings, RewardSettings, SampleSettings, SFTSettings
from stages.steps import Steps, checked_label, settings_of

SETTINGS: dict[str, type] = {
    "pretrain": PretrainSettings,
    "sft": SFTSettings,
    "sample": SampleSettings,
    "reward": RewardSettings,
    "ppo": PPOSettings,
    "eval": EvalSettings,
}
# What each step gives the next, so that no recipe may set it.
FIXED: dict[str, frozenset[str]] = {
    "pretrain": frozenset({"data", "name", "seed"}),
    "sft": frozenset({"base", "data", "name", "seed"}),
    "sample": frozenset({"policy", "prompts", "split", "batch", "simulate", "seed"}),
    "reward": frozenset({"init", "data", "labels", "name", "seed"}),
    "ppo": frozenset({"policy", "reward", "prompts", "name", "seed"}),
    "eval": frozenset(
        {"policy", "against", "prompts", "reward", "split", "seed", "judge", "best_of", "name", "rankings"}
    ),
}


def run(
    recipe: Mapping[str, Mapping[str, Any]],
    store: Store,
    labels_url: str | None = None,
    *,
    name: str = "quickstart",
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """The three InstructGPT stages on the starter world with simulated labelers; returns the report's numbers.

    Everything is drawn anew from `seed`: corpus, demonstrations, initial weights, samples, labelers and PPO.
    """
    label = check(recipe, name, seed)
    LabelStore(labels_url).close()  # one that cannot be opened is known now
    steps = Steps(say)
    base = steps.run_step("base", lambda: _base(recipe, store, label, seed, say))
    sft = steps.run_step("sft", lambda: _sft(recipe, store, label, seed, base, say))
    batches = steps.run_step("labels", lambda: _labels(recipe, store, labels_url, label, seed, sft, say))
    reward = steps.run_step(
        "reward", lambda: _reward(recipe, store, labels_url, label, seed, sft, batches, say)
    )
    ppo = steps.run_step("ppo", lambda: _ppo(recipe, store, label, seed, sft, reward, say))
    from stages.quickstart.report import judge_all, steps_and_curves
    from stages.report.report import write_report

    settings = settings_of(
        EvalSettings, recipe, "eval", policy=ppo.ref, against=sft.ref, reward=reward.ref, seed=seed
    )
    models = {"base": base, "sft": sft, "reward": reward, "ppo": ppo}
    results = steps.run_step("eval", lambda: judge_all(settings, models, labels_url, batches[1], say))
    results |= steps.cost()
    results |= steps_and_curves(results, models)
    write_report(store.root / "reports" / label, label, results, say)
    return results


def check(recipe: Mapping[str, Mapping[str, Any]], name: str, seed: int) -> str:
    """The label of a run's entries, batches and report.

    Raises InputError for a recipe that is not one of a whole pipeline, or names what no stage has, and for a name or seed
    that a stage would refuse later.
    """
    if unknown := sorted(set(recipe) - set(SETTINGS)):
        raise InputError(f"recipe: no stage named {', '.join(unknown)}; known are {', '.join(SETTINGS)}")
    alone = "run its stages one by one, such as rlhf sft --recipe NAME"
    if "pretrain" not in recipe:
        raise InputError(f"recipe: no [pretrain] table, so it is for a model of your own: {alone}")
    for stage, kind in SETTINGS.items():
        settings_of(kind, recipe, stage)
        if given := sorted(FIXED[stage] & set(recipe.get(stage, {}))):
            raise InputError(f"recipe, [{stage}]: the pipeline itself sets {', '.join(given)}: {alone}")
    from stages.trainers.recipe import check_tables

    check_tables(recipe, SETTINGS)
    return checked_label(name, seed)


def _base(recipe: Any, store: Store, name: str, seed: int, say: Any) -> Entry:
    from stages import pretrain

    return pretrain.run(settings_of(PretrainSettings, recipe, "pretrain", name=name, seed=seed), store, say)


def _sft(recipe: Any, store: Store, name: str, seed: int, base: Entry, say: Any) -> Entry:
    from stages import sft

    return sft.run(settings_of(SFTSettings, recipe, "sft", name=name, seed=seed, base=base.ref), store, say)


def _labels(
    recipe: Any, store: Store, url: str | None, name: str, seed: int, sft: Entry, say: Any
) -> tuple[str, str]:
    """Two batches ranked by simulated labelers: one to train on, one of validation prompts to measure on."""
    from stages.labeling import sample

    settings = settings_of(
        SampleSettings, recipe, "sample", batch=name, seed=seed, policy=sft.ref, simulate=True, prompts=None
    )
    num_measured = max(1, settings.num_prompts // 5)
    measured = replace(settings, batch=f"{name}-validation", split="validation", num_prompts=num_measured)
    trained, held_out = (sample.run(each, store, url, say, renames=True) for each in (settings, measured))
    return trained, held_out


def _reward(
    recipe: Any,
    store: Store,
    url: str | None,
    name: str,
    seed: int,
    sft: Entry,
    batches: tuple[str, str],
    say: Any,
) -> Entry:
    from stages import reward

    settings = settings_of(RewardSettings, recipe, "reward", name=name, seed=seed, init=sft.ref)
    return reward.run(settings, store, url, say, batch=batches[0])


def _ppo(recipe: Any, store: Store, name: str, seed: int, sft: Entry, reward: Entry, say: Any) -> Entry:
    from stages import ppo

    return ppo.run(
        settings_of(PPOSettings, recipe, "ppo", name=name, seed=seed, policy=sft.ref, reward=reward.ref),
        store,
        say,
    )
