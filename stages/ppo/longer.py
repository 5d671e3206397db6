"""`rlhf ppo --extend ENTRY`: a finished run made longer, as if it had been started with more episodes."""

from dataclasses import fields, replace

from rlhf.errors import InputError
from rlhf.store import Entry, Store
from stages.settings import PPOSettings

STATE = "state/state.pt"  # in the entry of a run with keep_state: what an exact continuation needs
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
