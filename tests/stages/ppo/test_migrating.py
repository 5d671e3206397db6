"""docs/migrating-from-trl.md names only settings, arguments and numbers that exist, and leaves none out."""

import dataclasses
import inspect
import re
from pathlib import Path

from stages.ppo.trainer import PPOConfig, PPOTrainer
from tests.tiny_ppo import TEXTS, config, count_e, scalar, trainer

PAGE = (Path(__file__).parents[3] / "docs" / "migrating-from-trl.md").read_text()
SETTINGS = {field.name for field in dataclasses.fields(PPOConfig)}


def rows(section):
    """The cells of a section's table, first column trl's, second ours."""
    part = PAGE.split(f"## {section}\n")[1].split("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("| ")][1:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def named(cell):
    return set(re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", cell, flags=re.S)))


def test_every_setting_stands_on_the_page_and_every_one_named_exists():
    ours = set().union(*(named(row[1]) for row in rows("PPOConfig"))) - {"PPOTrainer"}
    assert ours <= SETTINGS
    assert named(PAGE) >= SETTINGS


def test_every_argument_of_the_trainer_exists():
    arguments = set(inspect.signature(PPOTrainer.__init__).parameters)
    given = set().union(*(named(row[1]) for row in rows("PPOTrainer"))) - {"prompt"}
    assert given <= arguments
    example = PAGE.split("```python")[1].split("```")[0]
    assert set(re.findall(r"^    (\w+)=", example, re.M)) <= arguments
    assert set(re.findall(r"(\w+)=", example.split("PPOConfig(")[1].split(")")[0])) <= SETTINGS


def test_every_logged_number_stands_on_the_page_and_every_one_named_is_logged():
    made = trainer(config(ptx_coef=1.0), reward_model=[count_e, scalar()], pretrain_dataset=TEXTS)
    logged = {name for name in made.train()[0] if name != "step"}
    pages = set().union(*(named(row[1]) for row in rows("Logged numbers"))) - {"reward/NAME"}
    assert logged - {"reward/count_e", "reward/ScalarGPT", "kl/beta"} == pages - {"kl/beta"}
    assert "kl/beta" in named(PAGE.split("## Logged numbers")[1])
