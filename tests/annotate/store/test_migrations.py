"""Label databases of every earlier schema, with data in them, open with this version and lose nothing."""

import shutil
import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, text

from annotate.labels import LabelStore, Submission
from annotate.store import database
from annotate.store.backup import check
from annotate.store.database import Database, _engine
from annotate.store.migrations import HEAD, KNOWN, upgrade
from annotate.store.schema import Base
from tests.conftest import quick_folder

DATA = {
    "0001": [
        "INSERT INTO batch VALUES (1, 'old', 'rank', '# Rules', 2, '{\"ratings\": true}', 'abc', 1.5)",
        "INSERT INTO batch VALUES (2, 'written', 'demonstrate', '', 1, '{}', '', 1.5)",
        "INSERT INTO labeler VALUES (1, 'ann', 'lead', false, 'hash', 1.0)",
        "INSERT INTO labeler VALUES (2, 'simulated-01', 'labeler', true, NULL, 1.0)",
        "INSERT INTO labeler VALUES (3, 'imported', 'labeler', false, NULL, 1.0)",
        "INSERT INTO prompt VALUES (1, '\"question\"', 'sha1')",
        'INSERT INTO prompt VALUES (2, \'[{"role": "user", "content": "talk"}]\', \'sha2\')',
        "INSERT INTO completion VALUES (1, 1, 'a', true, 'sft/1', '{\"temperature\": 1.0}')",
        "INSERT INTO completion VALUES (2, 1, 'b', NULL, '', '{}')",
        "INSERT INTO task VALUES (1, 1, 1, 2, 2, 0.5)",
        "INSERT INTO task VALUES (2, 2, 2, 1, 0, 0.0), (60000, 2, 2, 0, 0, 0.0)",  # large enough to overflow
        "INSERT INTO task_completion VALUES (1, 0, 1), (1, 1, 2)",
        "INSERT INTO annotation VALUES (1, 'c1', 1, 1, 'rank', '[1, 0]', NULL, 'first', 3.5, false, NULL, false, 2.0)",
        "INSERT INTO annotation VALUES (2, 'c2', 1, 1, 'rank', '[1, 0]', NULL, 'edited', 4.5, true, 1, true, 3.0)",
        "INSERT INTO annotation VALUES (3, 'c3', 1, 2, 'none_acceptable', '[]', NULL, '', 0.0, false, NULL, true, 4.0)",
        "INSERT INTO ranking_item VALUES (1, 0, 0, 7, '[\"opinion\"]'), (1, 1, 1, NULL, '[]')",
        "INSERT INTO ranking_item VALUES (2, 0, 1, NULL, '[]'), (2, 1, 0, NULL, '[]')",
        "INSERT INTO lease VALUES (2, 1, 99999999999.0)",
        "INSERT INTO snapshot VALUES ('snap', 1, 5.0)",
        "INSERT INTO snapshot_annotation VALUES ('snap', 1)",
    ]
}
ANNOTATION = (
    "INSERT INTO annotation (id, client_id, task_id, labeler_id, kind, shown_order, comment, time_s, late, supersedes, "
    "standing, created, none_acceptable, adjudicates, origin) VALUES"
)
DATA["0002"] = [
    "INSERT INTO batch (id, name, kind, guidelines, overlap, asks, source, created, quota, task_order, gold_every, open, "
    "origin, webhook_url, webhook_secret) VALUES "
    "(1, 'old', 'rank', '# Rules', 2, '{\"ratings\": true}', 'abc', 1.5, 0, 'random', 10, true, 'label', '', ''), "
    "(2, 'written', 'demonstrate', '', 1, '{}', '', 1.5, 0, 'random', 10, true, 'label', '', '')",
    "INSERT INTO labeler (id, name, role, created, origin, active) VALUES (1, 'ann', 'lead', 1.0, 'person', true), "
    "(2, 'simulated-01', 'labeler', 1.0, 'simulated', true), (3, 'imported', 'labeler', 1.0, 'imported', true)",
    *DATA["0001"][5:9],
    "INSERT INTO task (id, batch_id, prompt_id, overlap, done, priority, shuffle) VALUES (1, 1, 1, 2, 2, 0.5, 1), "
    "(2, 2, 2, 1, 0, 0.0, 2)",
    DATA["0001"][11],
    f"{ANNOTATION} (1, 'c1', 1, 1, 'rank', '[1, 0]', 'first', 3.5, false, NULL, false, 2.0, false, false, 'label')",
    f"{ANNOTATION} (2, 'c2', 1, 1, 'rank', '[1, 0]', 'edited', 4.5, true, 1, true, 3.0, false, false, 'label')",
    f"{ANNOTATION} (3, 'c3', 1, 2, 'rank', '[]', '', 0.0, false, NULL, true, 4.0, true, false, 'label')",
    *DATA["0001"][15:17],
    "INSERT INTO lease VALUES (2, 1, 99999999999.0, 1.0)",
    *DATA["0001"][18:],
]
DATA["0003"] = DATA["0002"]


@pytest.fixture(params=["sqlite", "postgresql"])
def new_url(request):
    """A database without any table."""
    if request.param == "postgresql":
        yield request.getfixturevalue("postgres").create()
        return
    folder = Path(quick_folder())
    yield str(folder / "labels.db")
    shutil.rmtree(folder)


def made_at(url, version):
    """A database of an earlier version, with that version's data in it."""
    database = Database(_engine(url))
    with database.write() as connection:
        upgrade(connection, version)
        for statement in DATA[version]:
            connection.execute(text(statement))
        if not database.is_sqlite:  # ids were given, so the counters behind them are moved on
            for table in ("batch", "labeler", "prompt", "completion", "task", "annotation"):
                connection.execute(text(f"SELECT setval('{table}_id_seq', (SELECT max(id) FROM {table}))"))
    database.close()


def test_data_of_every_earlier_version_is_there():
    assert set(DATA) == set(KNOWN) - {HEAD}


@pytest.mark.parametrize("version", sorted(DATA))
def test_an_earlier_version_is_migrated_with_its_data(new_url, version):
    made_at(new_url, version)
    with LabelStore(new_url) as store:
        (ranking,) = store.rankings()
        assert (ranking.prompt, ranking.completions, ranking.ranks) == ("question", ("a", "b"), (1, 0))
        (old,) = store.rankings(snapshot="snap")
        assert (old.ranks, old.ratings, old.flags) == ((0, 1), (7, None), (("opinion",), ()))
        assert {row["name"]: row["origin"] for row in store.labelers()} == {
            "ann": "person",
            "simulated-01": "simulated",
            "imported": "imported",
        }
        assert store.progress("old").finished == 1 and check(store.database) == []
        task = store.lease("ann", "written")  # the lease of then is still held
        assert task.prompt == [{"role": "user", "content": "talk"}]
        store.submit(
            "ann", Submission(task_id=task.id, client_id="new", kind="demonstrate", demonstration="Hi.")
        )
        assert [row.completion for row in store.demonstrations()] == ["Hi."]
        store.add_batch("later", [])
    with LabelStore(new_url) as store:
        assert store.batches() == ["old", "written", "later"]


@pytest.mark.parametrize("version", [*sorted(DATA), None])
def test_the_migrated_schema_is_the_one_the_code_names(new_url, version):
    if version is not None:
        made_at(new_url, version)
    with LabelStore(new_url) as store, store.database.read() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), Base.metadata)
        assert differences == []
        names = set(inspect(connection).get_table_names())
        assert names == {*Base.metadata.tables, "alembic_version"}


def test_a_copy_is_kept_before_a_file_is_migrated(tmp_path):
    made_at(str(tmp_path / "labels.db"), "0001")
    LabelStore(tmp_path / "labels.db").close()
    kept = Database(_engine(str(tmp_path / "labels.before-0001.db")))
    with kept.read() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == "0001"
        assert connection.execute(text("SELECT count(*) FROM annotation")).scalar() == 3
    kept.close()


def test_a_copy_from_before_is_never_written_over_and_is_of_the_version_that_it_names(tmp_path, monkeypatch):
    path = tmp_path / "labels.db"
    made_at(str(path), "0001")
    (tmp_path / "labels.before-0001.db").write_text("the only whole one")
    look, others = database._version_at_first, [lambda: LabelStore(path).close()]

    def slowly(own):
        found = look(own)
        if others:
            others.pop()()  # another process opens and migrates it between the look and the copy
        return found

    monkeypatch.setattr(database, "_version_at_first", slowly)
    LabelStore(path).close()
    assert (tmp_path / "labels.before-0001.db").read_text() == "the only whole one"
    assert {copy.name for copy in tmp_path.glob("*before*")} == {
        "labels.before-0001.db",
        "labels.before-0001-2.db",
    }
    with sqlite3.connect(tmp_path / "labels.before-0001-2.db") as kept:
        assert kept.execute("SELECT version_num FROM alembic_version").fetchone() == ("0001",)


def test_a_migration_that_fails_leaves_the_old_version_untouched(new_url):
    made_at(new_url, "0001")
    database = Database(_engine(new_url))
    with database.write() as connection:
        connection.execute(text("CREATE TABLE message (id INTEGER)"))  # in the migration's way
    with pytest.raises(Exception, match="message"):
        LabelStore(new_url)
    with database.read() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == "0001"
        assert "draft" not in inspect(connection).get_table_names()
        assert connection.execute(text("SELECT simulated FROM labeler WHERE id = 2")).scalar()
    database.close()
