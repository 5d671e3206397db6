"""The shape of the code: files import from their own floor or below, no circle, light modules, small files and rooms."""

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {"rlhf": set(), "annotate": {"rlhf"}, "stages": {"rlhf", "annotate"}}
FILES = [path.relative_to(ROOT) for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
# From the ground up; a room or file stands above all that it imports (docs/architecture.md draws them).
FLOORS = [
    [
        "rlhf",
        "annotate",
        "stages",
        "rlhf/errors",
        "rlhf/packages",
        "rlhf/hub_names",
        "stages/quiet",
        "stages/page",
    ],
    ["rlhf/data", "rlhf/model_card", "rlhf/store", "rlhf/machine", "stages/settings", "stages/fields"],
    [
        "rlhf/models",
        "rlhf/splits",
        "rlhf/intervals",
        "rlhf/starter",
        "rlhf/state_parts",
        "annotate/store",
        "stages/arrow",
        "stages/judging_settings",
        "stages/reading",
        "stages/steps",
        "stages/stopwatch",
    ],
    [
        "rlhf/inputs",
        "rlhf/sharding",
        "rlhf/rollout_server",
        "rlhf/sampling",
        "annotate/work",
        "stages/import_model",
        "stages/push",
        "stages/show_data",
    ],
    ["rlhf/learning", "annotate/answers"],
    [
        "rlhf/measuring",
        "rlhf/serving",
        "annotate/labels",
        "stages/ppo",
        "stages/pretrain",
        "stages/talking_settings",
        "stages/trainers",
    ],
    [
        "annotate/figures",
        "annotate/simulate",
        "stages/report",
        "stages/judging",
        "stages/sft",
        "stages/reward",
    ],
    ["annotate/app", "stages/labeling"],
    ["annotate/chat", "stages/quickstart", "stages/align"],
    ["stages/talk", "stages/estimate"],
    ["stages/cli"],
]
FLOOR = {place: floor for floor, places in enumerate(FLOORS) for place in places}
MAX_FILES_IN_A_ROOM = 14


def name_of(path):
    """A file's dotted name; a package's own for its __init__.py."""
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for path in FILES}


def place_of(module):
    """The room of a file, or the file itself where it stands in a package's hall."""
    parts = module.split(".")
    while "/".join(parts) not in FLOOR:
        parts.pop()
    return "/".join(parts)


def imported(path):
    """Dotted names of the project's modules that a file imports, wherever in it.

    `from package import module` runs the package's own file, too.
    """
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            yield node.module
            yield from (inner for alias in node.names if (inner := f"{node.module}.{alias.name}") in MODULES)


IMPORTS = {module: set(imported(path)) - {module} for module, path in MODULES.items()}


def reached_from(module):
    """All modules that a module imports, directly or through others."""
    seen, waiting = set(), [module]
    while waiting:
        for name in IMPORTS[waiting.pop()] - seen:
            seen.add(name)
            waiting.append(name)
    return seen


@pytest.mark.parametrize("module", MODULES)
def test_a_file_imports_from_its_own_floor_or_below(module):
    package, floor = module.split(".")[0], FLOOR[place_of(module)]
    for name in IMPORTS[module]:
        assert name.split(".")[0] in PACKAGES[package] | {package}, f"{module} imports {name}"
        assert FLOOR[place_of(name)] <= floor, f"{module} (floor {floor}) imports {name} from above"


@pytest.mark.parametrize("module", MODULES)
def test_no_file_imports_back(module):
    assert module not in reached_from(module)


@pytest.mark.parametrize("path", FILES, ids=str)
def test_files_and_functions_stay_small(path):
    text = (ROOT / path).read_text()
    assert len(text.splitlines()) <= 400
    if "migrations" in path.parts:
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < 60, f"{node.name} does not fit a screen"


def test_the_page_shows_the_floors_that_are_tested():
    shown = (ROOT / "docs/architecture.md").read_text().split("```")[1]
    lines = {int(line.split()[0]): set(line.split()[1:]) for line in shown.splitlines()[2:] if line.strip()}
    packages = {"rlhf", "annotate", "stages"}
    assert lines == {floor + 1: set(places) - packages for floor, places in enumerate(FLOORS)}


def test_rooms_stay_small():
    files = Counter(str(path.parent) for path in FILES)
    crowded = {room for room, number in files.items() if number > MAX_FILES_IN_A_ROOM}
    assert not crowded


@pytest.mark.parametrize(
    "module", ["rlhf", "rlhf.data", "rlhf.errors", "rlhf.store", "annotate.labels", "stages.cli"]
)
def test_light_modules_import_no_torch(module):
    code = f"import sys, {module}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "False"
