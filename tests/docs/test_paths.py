"""Files that the pages name are there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *(p for p in sorted((ROOT / "docs").rglob("*.md")) if p.name != "lab-log.md")]
NAMED = re.compile(r"`((?:rlhf|stages|annotate|tests|benchmarks|examples|recipes|docs)/[\w./-]+)`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_a_page_names_is_there(page):
    named = {path for path in NAMED.findall(page.read_text()) if not (ROOT / path).exists()}
    assert sorted(named) == []


def test_every_set_and_model_that_a_recipe_names_has_its_licence_told():
    recipes = "".join(path.read_text() for path in (ROOT / "recipes").glob("*.toml"))
    named = set(re.findall(r"\b((?:[A-Z]\w+|databricks|nvidia|lmsys|openai-community)/[\w.-]+)", recipes))
    told = (ROOT / "docs/align.md").read_text()
    assert len(named) > 5 and sorted(name for name in named if name not in told) == []
