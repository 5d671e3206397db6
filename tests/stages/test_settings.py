"""Every field of every settings class says what it may be, and refuses all else from Python, a recipe and --set."""

import dataclasses
import math

import pytest

from rlhf.errors import InputError
from rlhf.sampling.generate import SamplingSettings
from rlhf.settings import Settings, value_type
from stages.cli.main import main
from stages.cli.options import TABLES, TRAINING, parse_setting, read_recipe
from stages.ppo.checks import check
from stages.settings import PPOConfig


def below(kind):
    """A class's subclasses, and theirs: all that the command line knows, and those of Python alone."""
    return [each for child in kind.__subclasses__() for each in (child, *below(child))]


assert SamplingSettings in below(Settings)
KINDS = sorted({*below(Settings), *TABLES.values()}, key=lambda kind: kind.__name__)
FIELDS = [(kind, field) for kind in KINDS for field in dataclasses.fields(kind)]


def outside(kind, field):
    """Values that a field may not have, made from its type and what it declares."""
    expected, metadata = value_type(kind, field.name), field.metadata
    if metadata["choices"]:
        return [True, "", metadata["choices"][0] + "x", 1]
    if expected is bool:
        return ["no", 2, 0, None]
    if expected is str:
        unlike = ["x" * 300, *(["my model", "größe", "../x"] if field.name == "name" else [])]
        unlike = unlike if metadata.get("pattern") else []
        return [3, True, ["a"], *unlike, *([] if field.default == "" else ["", "  "])]
    step = 1 if expected is int else 1e-6
    limits = metadata["bounds"]
    beyond = {"at_least": -step, "above": 0, "at_most": step, "below": 0, "zero_or_at_least": -step / 2}
    found = [-step] if limits["zero_or_at_least"] else []
    found += [limits[name] + more for name, more in beyond.items() if limits[name] is not None]
    if expected is int and limits["at_most"] is None and limits["below"] is None:
        found.append(2**31)
    return [
        *found,
        10**400,
        math.nan,
        math.inf,
        -math.inf,
        "many",
        True,
        *([0.5, 3.0] if expected is int else []),
    ]


@pytest.mark.parametrize(
    "kind, field", FIELDS, ids=lambda value: getattr(value, "__name__", None) or value.name
)
def test_a_value_outside_is_refused_by_name(kind, field):
    if value_type(kind, field.name) in (int, float):
        limits = field.metadata["bounds"]
        starts = [limits[name] for name in ("at_least", "above", "zero_or_at_least")]
        assert any(start is not None for start in starts), "it says from where on"
    for value in outside(kind, field):
        with pytest.raises(InputError, match=field.name):
            kind(**{field.name: value})


@pytest.mark.parametrize(
    "kind, field", FIELDS, ids=lambda value: getattr(value, "__name__", None) or value.name
)
def test_recipes_and_the_command_line_refuse_the_same_numbers(kind, field, tmp_path):
    tables = [name for name, table in TABLES.items() if table is kind]
    for value in outside(kind, field) if tables and value_type(kind, field.name) in (int, float) else ():
        for given in (value, str(value)):
            if value is True or (value == 3.0 and isinstance(given, str)):
                continue  # text has no type
            with pytest.raises(InputError, match=f"here.*{field.name}"):
                parse_setting(kind, field.name, given, "here")


def test_defaults_and_recipes_of_ours_are_within():
    for kind in KINDS:
        kind()
    for name in ("quickstart", "smoke", "laptop", "gpt2", "paper", "hub-model", "smollm2"):
        for table, values in read_recipe(name).items():
            TABLES[table](**values)


@pytest.mark.parametrize(
    "values",
    [
        {"adaptive_kl": True, "batch_size": 256, "kl_horizon": 50},  # 1 − 0.2 · 256 / 50 is below zero
        {"adaptive_kl": True, "kl_coef": 0.0},
        {"kl_budget": 3.0, "kl_coef": 0.0},
        {"kl_budget": 3.0, "adaptive_kl": True},
    ],
)
def test_settings_that_undo_each_other_are_refused(values):
    with pytest.raises(InputError, match="kl_"):
        check(PPOConfig(**values))


def test_the_largest_step_of_adaptive_kl_leaves_beta_above_zero():
    from stages.ppo.learner import kl_coefficient

    beta = kl_coefficient(PPOConfig(adaptive_kl=True, batch_size=249, kl_horizon=50))
    for _ in range(5):
        beta.update(mean_kl=0.0, num_episodes=249)
        assert beta.value > 0


@pytest.mark.parametrize(
    "command, name",
    [
        (["ppo", "--episodes", "0"], "--episodes: episodes is 0; it is at least 1"),
        (["ppo", "--temperature", "-1"], "temperature is -1.0; it is at least 1e-06"),
        (["ppo", "--set", "bf16=True"], "bf16 is one of auto, on, off"),
        (["eval", "--temperature=-0.5"], "temperature is -0.5"),
        (["sft", "--epochs", "nan"], "epochs is nan"),
        (["sample", "--k", "1"], "k is 1; it is at least 2 and at most 9"),
        (["sample", "--batch", "b" * 250], "batch is 'bbb"),
        *(([stage, "--name", "my model"], "my model") for stage in TRAINING),
        (["import", "base", "--name", "my model"], "my model"),
        *((["quickstart", "--seed", seed], f"--seed {seed}") for seed in ("-1", "4294967296")),
    ],
)
def test_the_command_line_says_it_in_one_line_before_anything_is_done(command, name, capsys, tmp_path):
    assert main([*command, "--store", str(tmp_path)]) == 2
    *_, error = capsys.readouterr().err.strip().splitlines()
    assert error.startswith("rlhf: error: ") and name in error
    assert not list(tmp_path.iterdir())
