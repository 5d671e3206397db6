"""The address that the app says, before and while it starts."""

import asyncio
import re
import socket
import threading

import pytest
from fastapi.testclient import TestClient

from annotate.app.assets import static_address
from annotate.app.server import _listener, create_app, serve
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


def test_a_small_answer_waits_for_no_other(app_at):
    """Nagle's algorithm is off: it would hold the second part of an answer back for 40 ms."""
    options = []

    class Told(asyncio.Protocol):
        def connection_made(self, transport):
            accepted = transport.get_extra_info("socket")
            options.append(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    async def connect(listener):
        async with await asyncio.get_running_loop().create_server(Told, sock=listener):
            _, writer = await asyncio.open_connection(*listener.getsockname())
            while not options:
                await asyncio.sleep(0)
            writer.close()

    aside = threading.Thread(target=lambda: asyncio.run(connect(_listener(AppSettings(port=0)))))
    aside.start()  # a browser's loop may be running in this one
    aside.join()
    assert options == [1]


def test_scripts_and_answers_of_some_length_are_compressed(tmp_path):
    with LabelStore(tmp_path / "labels.db") as store:
        client = TestClient(create_app(store, AppSettings()), base_url="http://127.0.0.1")
        script = client.get(f"{static_address()}/work.js")
        assert script.headers["content-encoding"] == "gzip" and "export class Work" in script.text
        assert "content-encoding" not in client.get("/api/me").headers


@pytest.mark.parametrize(
    "wrong", [{"port": 99_999}, {"port": -1}, {"host": "ä" * 80}, {"host": "no such host"}]
)
def test_what_nobody_can_listen_at_is_refused_in_one_line(wrong):
    with pytest.raises(InputError, match=r"choose another --host or --port$") as refused:
        _listener(AppSettings(**wrong))
    assert "\n" not in str(refused.value)


def test_an_address_in_use_is_refused_by_name(app_at):
    said = []
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(InputError, match=f"127.0.0.1:{port}: .*--port"):
            serve(app_at(port), said.append)
    assert not said
