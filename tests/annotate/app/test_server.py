"""The address that the app says, before and while it starts."""

import re
import socket

import pytest

from annotate.app.server import create_app, serve
from annotate.app.settings import AppSettings
from annotate.labels import LabelStore
from rlhf.errors import InputError


@pytest.fixture
def app_at(tmp_path):
    with LabelStore(tmp_path / "labels.db") as store:
        yield lambda port: create_app(store, AppSettings(port=port))


def test_who_reads_the_address_can_connect_at_once(app_at):
    class Connected(Exception):
        pass

    def connect(line):
        port = int(re.search(r"127\.0\.0\.1:(\d+)/", line)[1])
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
        raise Connected

    with pytest.raises(Connected):
        serve(app_at(0), connect)


def test_an_address_in_use_is_refused_by_name(app_at):
    said = []
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(InputError, match=f"127.0.0.1:{port}: .*--port"):
            serve(app_at(port), said.append)
    assert not said
