"""docs/ppo.md names functions and files; each is there, and the way to the loss is as short as it says."""

import importlib
import re
from pathlib import Path

import pytest

from tests.test_structure import IMPORTS, MODULES, name_of

PAGE = (Path(__file__).parents[2] / "docs/ppo.md").read_text()
DETAILS = PAGE.partition("## The details of PPO")[2].partition("\n## ")[0]
NAMED = re.findall(r"\| `((?:rlhf|stages)\.[\w.]+)` \|$", DETAILS, re.MULTILINE)
WAY = re.findall(
    r"^\| `([\w/]+\.py)`",
    PAGE.partition("## From the command to the loss")[2].partition("\n## ")[0],
    re.MULTILINE,
)
LEARNING_MECHANICS = {"rlhf.learning.metrics", "rlhf.learning.training", "rlhf.learning.reward_sources"}


def found(name):
    """The object of a dotted name."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        if ".".join(parts[:end]) in MODULES:
            thing = importlib.import_module(".".join(parts[:end]))
            for attribute in parts[end:]:
                thing = getattr(thing, attribute)
            return thing
    raise LookupError(name)


def test_every_row_of_the_table_names_a_function():
    rows = [
        line for line in DETAILS.splitlines() if line.startswith("| ") and not line.startswith("| detail")
    ]
    assert len(rows) == len(NAMED) > 20


@pytest.mark.parametrize("name", NAMED)
def test_a_named_function_is_there_and_says_what_it_does(name):
    assert callable(found(name)) and found(name).__doc__


def test_the_way_to_the_loss_is_at_most_twelve_files_and_leaves_none_of_the_mathematics_out():
    way = {name_of(Path(file)) for file in WAY}
    assert "rlhf.learning.losses" in way and len(way) <= 12 and way <= MODULES.keys()
    used = IMPORTS["stages.ppo.loop"] | IMPORTS["stages.ppo.experience"]
    assert {
        name for name in used if name.startswith(("rlhf.learning", "rlhf.sampling"))
    } <= way | LEARNING_MECHANICS
