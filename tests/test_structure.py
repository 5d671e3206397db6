"""The shape of the code: imports run one way, light modules stay light, files and functions stay small."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {"rlhf": set(), "annotate": {"rlhf"}, "stages": {"rlhf", "annotate"}}
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name.split(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way_and_code_stays_small(path):
    package = path.relative_to(ROOT).parts[0]
    tree = ast.parse(path.read_text())
    assert set(imported(tree)) & PACKAGES.keys() <= PACKAGES[package] | {package}
    assert len(path.read_text().splitlines()) <= 550
    if "migrations" in path.parts:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 70, f"{node.name} does not fit a screen"


@pytest.mark.parametrize(
    "module", ["rlhf", "rlhf.data", "rlhf.errors", "rlhf.store", "annotate.labels", "stages.cli"]
)
def test_light_modules_import_no_torch(module):
    code = f"import sys, {module}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "False"
