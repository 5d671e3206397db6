"""Every test of the label store runs on SQLite and on a real PostgreSQL server."""

import pytest

from annotate.labels import LabelStore

NAMES = ("ann", "bob", "cleo")


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    """A new label database, of each kind."""
    if request.param == "sqlite":
        return str(tmp_path / "labels.db")
    return request.getfixturevalue("postgres").create()


@pytest.fixture
def store(url):
    """An empty store with three labelers."""
    with LabelStore(url) as store:
        for name in NAMES:
            store.add_labeler(name)
        yield store
