"""A field of a stage's settings, and the settings that many stages have."""

from dataclasses import dataclass
from typing import Any

from rlhf.settings import Settings, bounded
from rlhf.store import NAME, NAME_TEXT


def setting(
    default: Any,
    help: str,
    *,
    flag: bool = True,
    common: bool = True,
    decides: bool = True,
    place: bool = False,
    **limits: Any,
) -> Any:
    """A dataclass field with its help; without `flag` it can be set in a recipe or by --set only.

    common: whether `--help` shows its flag; `--help-all` shows every one.

    decides: whether what comes out depends on it. One that does not, such as a number that only saves memory, may
    change before a stopped run goes on. place: whether it names a file or model whose content the stage puts into its
    inputs, so that it may be called otherwise later. limits: see `bounded`.
    """
    return bounded(default, help=help, flag=flag, common=common, decides=decides, place=place, **limits)


LAST_BLOCKS = "train only the last n blocks and what follows them; the rest stays frozen (0: train all)"

LORA_RANK = "train adapters of this rank, merged when saved (0: all weights)"

TEMPLATE_KWARGS = "what the chat template is given, such as enable_thinking=false; kept with the model"

GIVEN_TEMPLATE_KWARGS = "what the models' chat templates are given, such as enable_thinking=false"

GRADIENT_CHECKPOINTING = (
    "run every block again for its gradient instead of keeping all it computed (memory only)"
)


LARGEST_SEED = 2**32 - 1  # that all generators of random numbers take


def seeding() -> Any:
    """The field of a stage's seed."""
    return setting(0, "seed of everything random", at_least=0, at_most=LARGEST_SEED)


def naming() -> Any:
    """The field of a new entry's name."""
    return setting("starter", "name of the new entry", pattern=NAME, pattern_text=NAME_TEXT)


SHARD = "divide the weights between processes (auto: where whole they would take half the memory)"


def sharding() -> Any:
    """The field of stages that can divide their weights."""
    return setting("auto", SHARD, common=False, choices=("auto", "on", "off"), decides=False)


@dataclass(frozen=True, kw_only=True)
class ReadingSettings(Settings):
    """How a stage reads the files that it is given. What comes out decides, not these: they are in no hash."""

    map: str = setting(
        "", "columns by the names the formats have: prompt=question,chosen=good", decides=False, common=False
    )
    answers: str = setting(
        "", "columns of a labeling tool's export that hold the answers", decides=False, common=False
    )
    left: str = setting("", "column that a labeling tool showed on the left", decides=False, common=False)
    skip_bad_rows: bool = setting(False, "leave malformed rows out and count them", decides=False)
