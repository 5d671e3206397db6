"""Steps of a pipeline: each done once, timed, its settings taken from the recipe."""

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from rlhf.errors import InputError
from rlhf.machine.memory import give_back_freed_memory, peak_mib, reset_peak
from rlhf.store import NAME, NAME_TEXT
from stages.fields import LARGEST_SEED

S = TypeVar("S")
LONGEST_ENDING = "-gold"  # of the names that a step gives to an entry of the run


def settings_of(kind: type[S], recipe: Mapping[str, Mapping[str, Any]], stage: str, **fixed: Any) -> S:
    """The settings of one stage from its table in a recipe. Raises InputError for a name the stage does not have."""
    table = {**recipe.get(stage, {}), **fixed}
    try:
        return kind(**table)
    except TypeError:
        known = sorted(kind.__dataclass_fields__)  # type: ignore[attr-defined]
        unknown = ", ".join(sorted(set(table) - set(known)))
        raise InputError(
            f"recipe, [{stage}]: no setting named {unknown}; known are {', '.join(known)}"
        ) from None


def checked_label(name: str, *seeds: int) -> str:
    """NAME-SEED, what a run's entries, batches and report are called; seeds: all that its steps will have, its own first.

    Raises InputError for one that a step would refuse when others have trained for hours.
    """
    label = f"{name}-{seeds[0]}"
    if not NAME.fullmatch(f"{label}{LONGEST_ENDING}"):
        raise InputError(
            f"recipe {name}: its entries would be called {label}; give the file another name, which with that is {NAME_TEXT}"
        )
    if not 0 <= min(seeds) <= max(seeds) <= LARGEST_SEED:
        raise InputError(
            f"--seed {seeds[0]}: it is at least 0 and at most {LARGEST_SEED - max(seeds) + seeds[0]}"
        )
    return label


class Steps:
    """Runs the steps, says which one is on, and keeps how long each took and the most memory it held."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.seconds: dict[str, float] = {}
        self.peak_gib: dict[str, float] = {}

    def run_step(self, name: str, step: Callable[[], S]) -> S:
        self.say(f"── {name}")
        give_back_freed_memory()
        reset_peak()
        started = time.monotonic()
        result = step()
        self.seconds[name] = round(time.monotonic() - started, 1)
        self.peak_gib[name] = round(peak_mib() / 1024, 2)
        return result

    def cost(self) -> dict[str, Any]:
        """What the report says of time and memory, by step."""
        return {
            "seconds": self.seconds,
            "peak_gib": self.peak_gib,
            "peak_memory_gib": max(self.peak_gib.values()),
        }
