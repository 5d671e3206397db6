"""The tiny store of `tests/chat/tiny.py`, made once."""

import pytest

from tests.chat.tiny import tiny_store


@pytest.fixture(scope="session")
def chat_store(tmp_path_factory):
    return tiny_store(tmp_path_factory.mktemp("chat") / "store")
