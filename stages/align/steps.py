"""`rlhf align`: a language model through SFT, reward models, PPO and an honest judgment, on people's own data.

Beside the reward model that PPO climbs there is a gold one: trained on other conversations, from other weights, and
shown to no stage before the last, which it judges (Gao et al. 2023). Like `rlhf quickstart` every step asks its store
first, so that a run that was stopped goes on where it was.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from annotate.labels import LabelStore
from rlhf.errors import InputError, StoreError
from rlhf.inputs import locate_model
from rlhf.learning.reward_sources import parse_weights
from rlhf.machine import processes
from rlhf.measuring.constraints import REWARD
from rlhf.models.sources import content_hash
from rlhf.models.tokenizer import load_tokenizer
from rlhf.store import Entry, Store
from stages.align.data import AlignData, divide
from stages.judging_settings import AlignEvalSettings
from stages.settings import AlignDataSettings, PPOSettings, RewardSettings, SampleSettings, SFTSettings
from stages.steps import Steps, checked_label, settings_of

if TYPE_CHECKING:
    from stages.judging.answers import Model

SETTINGS: dict[str, type] = {
    "data": AlignDataSettings,
    "sft": SFTSettings,
    "reward": RewardSettings,
    "gold": RewardSettings,
    "ppo": PPOSettings,
    "judge": AlignEvalSettings,
}
# What the pipeline gives each step, so that no recipe may set it.
FIXED: dict[str, frozenset[str]] = {
    "data": frozenset(),
    "sft": frozenset({"base", "data", "validation_data", "name", "seed"}),
    "reward": frozenset({"init", "data", "labels", "name", "seed", "validation_fraction"}),
    "gold": frozenset({"init", "data", "labels", "name", "seed", "validation_fraction"}),
    "ppo": frozenset({"policy", "reward", "prompts", "ptx_data", "name", "seed"}),
    "judge": frozenset(),
}
GOLD_SEED = 1000  # added to the run's seed: the gold model's head and order of rows are its own


def run(
    recipe: Mapping[str, Mapping[str, Any]],
    store: Store,
    labels_url: str | None,
    *,
    base: str,
    data: Path | None,
    name: str,
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """All steps on the sources that the recipe names; returns the report's numbers.

    Of several processes all train; the first alone divides the data, and draws and judges answers while the others wait.

    data: folder where files of these names are looked for first.
    base: what to start from, by store reference, folder, GGUF file or hub id.
    """
    from stages.align.report import steps_and_curves
    from stages.report.report import write_report

    label = check(recipe, name, seed)
    check_folder(data)
    processes.join_process_group()
    say = say if processes.is_main_process() else lambda line: None
    peers = _peers(recipe, store)
    steps = Steps(say)
    by_one = processes.broadcast_from_main
    by_one(lambda: LabelStore(labels_url).close())  # one that cannot be opened is known now
    parts = steps.run_step("data", lambda: by_one(lambda: _data(recipe, store, base, data, say)))
    sft = steps.run_step("sft", lambda: _sft(recipe, store, base, parts, label, seed, say))
    reward = steps.run_step("reward", lambda: _reward(recipe, store, sft.ref, parts, label, seed, say))
    gold = steps.run_step("gold", lambda: _gold(recipe, store, base, parts, label, seed + GOLD_SEED, say))
    ppo = steps.run_step("ppo", lambda: _ppo(recipe, store, sft, reward, parts, label, seed, say))
    entries = {"sft": sft, "reward": reward, "gold": gold, "ppo": ppo}
    batch = steps.run_step(
        "blind", lambda: by_one(lambda: _blind(recipe, store, labels_url, sft, ppo, parts, label, seed, say))
    )
    folder = store.root / "reports" / label
    results = steps.run_step(
        "judge", lambda: by_one(lambda: _judge(recipe, store, base, peers, entries, parts, folder, seed, say))
    )
    results |= {"blind_batch": batch, **steps.cost()}
    results |= steps_and_curves(results, entries)
    if processes.is_main_process():
        write_report(folder, label, results, say)
    say(f"blind comparison for people: rlhf label, batch {batch}")
    return results


def check(recipe: Mapping[str, Mapping[str, Any]], name: str, seed: int) -> str:
    """The label of a run's entries, batches and report.

    Raises InputError for a recipe that is not one of this pipeline, or names what no step has, and for a name or seed that
    a step would refuse after hours.
    """
    if unknown := sorted(set(recipe) - set(SETTINGS)):
        raise InputError(
            f"recipe: rlhf align has no step named {', '.join(unknown)}; known are {', '.join(SETTINGS)}"
        )
    if not recipe.get("data", {}).get("rankings") or not recipe["data"].get("demonstrations"):
        raise InputError("recipe, [data]: name demonstrations and rankings: files, or data sets on the hub")
    for step, kind in SETTINGS.items():
        settings_of(kind, recipe, step)
        if given := sorted(FIXED[step] & set(recipe.get(step, {}))):
            raise InputError(f"recipe, [{step}]: rlhf align itself sets {', '.join(given)}")
    _check_rewards(recipe)
    _check_shares(settings_of(AlignDataSettings, recipe, "data"))
    from stages.trainers.recipe import check_tables

    check_tables(recipe, SETTINGS)
    return checked_label(name, seed, seed + GOLD_SEED)


def check_folder(data: Path | None) -> None:
    """Raises InputError for a folder of data that is not there."""
    if data is not None and not data.is_dir():
        raise InputError(f"--data {data}: no such folder; name one, or leave --data out")


def _check_rewards(recipe: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises InputError for weights that are not of the rewards PPO will have: hours before PPO would."""
    checked = bool(recipe["data"].get("constrained_share"))
    wanted, given = 1 + checked, len(parse_weights(recipe.get("ppo", {}).get("reward_weights", "")))
    if checked and given != wanted:
        raise InputError(
            "recipe, [ppo]: with [data] constrained_share give reward_weights, that of the reward model and that of a "
            'constraint kept, such as "1, 1"'
        )
    if not checked and given > wanted:
        raise InputError(
            f"recipe, [ppo]: {given} reward_weights for one reward model; set [data] constrained_share, or leave them out"
        )


def _check_shares(data: AlignDataSettings) -> None:
    """Raises InputError where the conversations that are put aside leave none to train on."""
    if (together := data.gold_share + data.validation_share + data.test_share) >= 1:
        raise InputError(
            f"recipe, [data]: gold_share, validation_share and test_share are {together:g} together, which leaves nothing to "
            "train on; give less than 1 in all"
        )


def _data(recipe: Any, store: Store, base: str, folder: Path | None, say: Any) -> AlignData:
    return divide_data(recipe, locate_model(store, base)[0], folder, store.root / "data", say)


def divide_data(
    recipe: Mapping[str, Any], model: str, folder: Path | None, root: Path, say: Callable[[str], None]
) -> AlignData:
    """The sources divided into files under `root` as the recipe says, by the tokens of a model."""
    return divide(settings_of(AlignDataSettings, recipe, "data"), folder, load_tokenizer(model), root, say)


def stage_settings(parts: AlignData, recipe: Mapping[str, Any], stage: str, **fixed: Any) -> Any:
    """A training stage's settings from its table in the recipe, on its part of the data."""
    texts = parts.file("texts") if recipe.get("ppo", {}).get("ptx_coef") else None
    files: dict[str, dict[str, Any]] = {
        "sft": {
            "data": parts.file("demonstrations"),
            "validation_data": parts.file("demonstrations_validation"),
        },
        "reward": {"data": parts.file("rankings"), "validation_fraction": 0.0},
        "gold": {"data": parts.file("rankings_gold"), "validation_fraction": 0.0},
        "ppo": {"prompts": parts.file("prompts"), "ptx_data": texts},
    }
    return settings_of(SETTINGS[stage], recipe, stage, **files[stage], **fixed)


def _sft(recipe: Any, store: Store, base: str, parts: AlignData, name: str, seed: int, say: Any) -> Entry:
    from stages import sft

    return sft.run(
        stage_settings(parts, recipe, "sft", name=name, seed=seed, base=base), store, say, parts.read
    )


def _reward(recipe: Any, store: Store, sft: str, parts: AlignData, name: str, seed: int, say: Any) -> Entry:
    from stages import reward

    settings = stage_settings(parts, recipe, "reward", name=name, seed=seed, init=sft)
    return reward.run(settings, store, None, say, read=parts.read)


def _gold(recipe: Any, store: Store, base: str, parts: AlignData, name: str, seed: int, say: Any) -> Entry:
    """From the base model, since the SFT model is what it judges."""
    from stages import reward

    settings = stage_settings(parts, recipe, "gold", name=f"{name}-gold", seed=seed, init=base)
    return reward.run(settings, store, None, say, read=parts.read)


def _ppo(
    recipe: Any, store: Store, sft: Entry, reward: Entry, parts: AlignData, name: str, seed: int, say: Any
) -> Entry:
    from stages import ppo

    rewards = f"{reward.ref},{REWARD}" if recipe["data"].get("constrained_share") else reward.ref
    settings = stage_settings(parts, recipe, "ppo", name=name, seed=seed, policy=sft.ref, reward=rewards)
    return ppo.run(settings, store, say, parts.read)


def _blind(
    recipe: Any,
    store: Store,
    url: str | None,
    sft: Entry,
    ppo: Entry,
    parts: AlignData,
    name: str,
    seed: int,
    say: Any,
) -> str:
    """Answers of SFT and PPO in pairs, for people to judge without knowing which is which."""
    from stages.labeling import sample

    judge = settings_of(AlignEvalSettings, recipe, "judge")
    settings = SampleSettings(
        policy=ppo.ref, against=sft.ref, prompts=parts.file("prompts_test"), num_prompts=judge.num_blind, k=2,
        temperature=judge.temperature, max_new_tokens=judge.max_new_tokens, batch=f"{name}-blind", seed=seed,
    )  # fmt: skip
    return sample.run(settings, store, url, say, renames=True)


def _peers(recipe: Any, store: Store) -> "dict[str, Model]":
    """The models to judge ours beside. Raises before hours of training for one that is not there."""
    names = settings_of(AlignEvalSettings, recipe, "judge").peers.split(",")
    try:
        return {name: _model(store, name) for name in filter(None, map(str.strip, names))}
    except (InputError, StoreError) as problem:
        raise InputError(f"recipe, [judge] peers: {problem}") from None


def _model(store: Store, name: str) -> "Model":
    from stages.judging.answers import Model

    where, entry = locate_model(store, name)
    return Model(where, entry.hash if entry else content_hash(name))


def _judge(
    recipe: Any,
    store: Store,
    base: str,
    peers: "Mapping[str, Model]",
    entries: Mapping[str, Entry],
    parts: AlignData,
    folder: Path,
    seed: int,
    say: Any,
) -> dict[str, Any]:
    from stages.align.judge import judge_policies
    from stages.judging.answers import Model
    from stages.judging.kept import MeasurementCache

    ppo = entries["ppo"]
    policies = {
        **peers,
        "base": _model(store, base),
        "sft": Model(entries["sft"].path, entries["sft"].hash),
        **{f"ppo at {int(path.name)}": Model(path, f"{ppo.hash} {path.name}")
           for path in sorted((ppo.path / "checkpoints").glob("*"))},
        "ppo": Model(ppo.path, ppo.hash),
    }  # fmt: skip
    judges = {name: Model(entries[name].path, entries[name].hash) for name in ("reward", "gold")}
    max_length = {name: entries[name].manifest["settings"]["max_length"] for name in judges}
    penalty = ppo.manifest["settings"]["missing_eos_penalty"]
    settings = replace(settings_of(AlignEvalSettings, recipe, "judge"), missing_eos_penalty=penalty)
    kept = MeasurementCache(folder / "kept", say)
    return judge_policies(settings, policies, judges, parts, max_length, kept, seed)
