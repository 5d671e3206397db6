"""Help fits a screen, and every setting stands in one of the two helps."""

import argparse
import dataclasses

import pytest

from stages.cli.main import parser
from stages.cli.options import STAGES

SCREEN = 40  # lines


def commands(top=None, path=()):
    """Every command's path and parser, the nested ones included."""
    top = top or parser()
    yield path, top
    for action in top._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                yield from commands(inner, (*path, name))


@pytest.mark.parametrize(
    "path, command", list(commands()), ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_help_fits_a_screen(path, command):
    lines = command.format_help().splitlines()
    assert len(lines) <= SCREEN and max(map(len, lines)) <= 100


@pytest.mark.parametrize("stage", STAGES)
def test_help_all_names_every_setting(stage, capsys):
    with pytest.raises(SystemExit) as ended:
        parser().parse_args([stage, "--help-all"])
    assert ended.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for field in dataclasses.fields(STAGES[stage]):
        flag = "--snapshot" if field.name == "labels" else "--" + field.name.replace("_", "-")
        assert flag in shown or f"{field.name} (" in shown, field.name
