import json

import pytest

from examples import pages
from tests.stages.conftest import base_store  # noqa: F401

MACHINE = {"processor": "x", "cores": 2, "threads": 1, "load": 0.1, "torch": "2", "day": "2026-01-01"}


@pytest.fixture
def keep(tmp_path):
    """Writes the result file of what an experiment found."""

    def write(name, found, **settings):
        result = {"settings": settings, "machine": MACHINE, "seconds": 60, "found": found}
        (tmp_path / f"{name}.json").write_text(json.dumps(result))

    return write


@pytest.fixture
def page_of(tmp_path, keep):
    """The page that a template makes of what an experiment found."""

    def fill(name, found, **settings):
        keep(name, found, **settings)
        pages.fill(name, tmp_path, tmp_path)
        return (tmp_path / f"{name}.md").read_text()

    return fill
