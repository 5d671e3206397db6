"""A database's password is in nothing that is shown."""

import subprocess
import sys

import pytest

from annotate.labels import LabelStore
from rlhf.errors import LabelError, without_password

URLS = [
    "postgresql://ann:s3cret@127.0.0.1:9/labels", "postgresql://ann:s3cret@s3cret:s3cret@127.0.0.1:9/labels",
    "postgresql://127.0.0.1:9/labels?user=ann&password=s3cret", "postgres://ann:s3cret/s3cret@127.0.0.1:9/x",
    "postgresql://ann:a:s3cret@127.0.0.1:9/labels", "postgresql+psycopg://:s3cret@127.0.0.1:9/labels?sslpassword=s3cret",
    "postgresql://ann@127.0.0.1:9/labels?password=s3cret%40",
]  # fmt: skip


@pytest.mark.parametrize("url", URLS)
def test_a_database_that_is_away_is_named_without_its_password(url):
    assert "s3cret" not in without_password(url) and "127.0.0.1" in without_password(url)
    with pytest.raises(LabelError) as refused:
        LabelStore(url)
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    "url", ["labels.db", "sqlite:///a:b@c.db", "postgresql://ann@host:5432/labels", "a@b.db"]
)
def test_what_has_no_password_is_shown_as_it_is(url):
    assert without_password(url) == url.replace("a:b@", "a:***@")


@pytest.mark.parametrize("url", URLS)
def test_no_command_shows_it(url, tmp_path):
    for command in (["doctor"], ["labels", "batches"]):
        done = subprocess.run(
            [sys.executable, "-m", "stages.cli", *command, "--store", str(tmp_path), "--labels", url],
            capture_output=True,
            text=True,
        )
        assert "s3cret" not in done.stdout + done.stderr
