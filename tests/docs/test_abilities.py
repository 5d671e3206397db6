"""The table of abilities in docs/labeling.md: each row names tests, and every test that it names is there."""

import ast
import re

from tests.docs.test_commands import ROOT

PAGE = ROOT / "docs" / "labeling.md"


def rows():
    """(ability, {file: tests named of it}) of each row."""
    table = PAGE.read_text().split("| ability | test |\n|---|---|\n")[1].split("\n\n")[0]
    for row in table.splitlines():
        ability, tests = (cell.strip() for cell in row.strip("|").split("|"))
        named, file = {}, None
        for name in re.findall(r"`([^`]+)`", tests):
            file = name if name.endswith(".py") else file
            named.setdefault(file, []).extend([] if name == file else [name])
        yield ability, named


def defined(file):
    """Names of the tests in a file."""
    tree = ast.parse((ROOT / file).read_text())
    return {
        node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def test_every_ability_has_tests_and_each_of_them_is_there():
    found = list(rows())
    assert len(found) > 25
    for ability, named in found:
        assert named and all(named.values()), f"{ability}: no test is named"
        for file, tests in named.items():
            assert set(tests) <= defined(file), (ability, file, set(tests) - defined(file))
