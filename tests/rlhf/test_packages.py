"""The extras that the package declares, and what a command says where one is missing."""

import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from rlhf.packages import EXTRAS, how_to_install

ROOT = Path(__file__).parents[2]
WITHOUT = """
import sys
for name in {names}: sys.modules[name] = None
from stages.cli import main
sys.exit(main({arguments}))
"""


def plain(distribution):
    return distribution.lower().replace("_", "-")


def required(lines):
    return {plain(line.partition(">")[0].partition("[")[0]) for line in lines}


@pytest.mark.parametrize("extra", EXTRAS)
def test_every_package_of_an_extra_is_known_by_the_name_it_is_imported_by(extra):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    always, declared = map(required, (project["dependencies"], project["optional-dependencies"][extra]))
    distributions = packages_distributions()
    known = {plain(d) for name in EXTRAS[extra] for d in distributions[name]}
    assert declared - always <= known


@pytest.mark.parametrize(
    "arguments, extra",
    [
        (["serve"], "label"),
        (["chat", "--web"], "label"),
        (["label"], "label"),
        (["--labels", "postgresql://nobody@localhost/none", "labels", "stats"], "postgres"),
    ],
)
def test_a_command_whose_extra_is_not_installed_says_what_to_install(arguments, extra, tmp_path):
    names = [name for packages in EXTRAS.values() for name in packages]
    code = WITHOUT.format(names=names, arguments=["--store", str(tmp_path / "store"), *arguments])
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (ended.returncode, len(ended.stderr.splitlines())) == (2, 1), ended.stderr
    assert f"pip install 'rlhf-loop[{extra}]'" in ended.stderr


def test_a_module_of_no_extra_has_no_such_command():
    assert how_to_install("fastapi.routing") == "pip install 'rlhf-loop[label]'"
    assert how_to_install("my_rewards") is None
