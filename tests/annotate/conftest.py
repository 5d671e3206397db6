"""Every test of the label store runs on SQLite and on a real PostgreSQL server."""

import shutil
import uuid
from pathlib import Path

import psycopg
import pytest

from annotate.labels import LabelStore
from annotate.store import accounts
from annotate.work.drafts import DRAFT
from tests.conftest import quick_folder

NAMES = ("ann", "bob", "cleo")


def draft_of(database, labeler, task):
    """What a labeler's draft of a task says; None for no draft."""
    with database.read() as connection:
        mine = {"task": task, "labeler": accounts.labeler_id(connection, labeler)}
        return connection.execute(DRAFT, mine).scalar()


@pytest.fixture(scope="session")
def empty_file():
    """An empty label file, migrated once."""
    folder = Path(quick_folder())
    LabelStore(folder / "empty.db").close()
    yield folder / "empty.db"
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def empty_database(postgres):
    """The name of an empty label database, migrated once, for others to be copied from."""
    with psycopg.connect(postgres.server(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE empty")
    LabelStore(postgres.server("empty")).close()
    return "empty"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request):
    """A new label database, of each kind."""
    if request.param == "sqlite":
        folder = Path(quick_folder())
        yield shutil.copy(request.getfixturevalue("empty_file"), folder / "labels.db")
        shutil.rmtree(folder)
        return
    server, empty = request.getfixturevalue("postgres"), request.getfixturevalue("empty_database")
    name = "t" + uuid.uuid4().hex
    with psycopg.connect(server.server(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {empty} STRATEGY file_copy")
        yield server.server(name)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def store(url):
    """An empty store with three labelers."""
    with LabelStore(url) as store:
        for name in NAMES:
            store.add_labeler(name)
        yield store
