"""The tiny store of `tests/chat/tiny.py`, made once, and a server of it for a file of tests."""

import openai
import pytest

from tests.chat.tiny import serving, tiny_store


@pytest.fixture(scope="session")
def chat_store(tmp_path_factory):
    return tiny_store(tmp_path_factory.mktemp("chat") / "store")


@pytest.fixture(scope="module")
def address(chat_store, tmp_path_factory):
    with serving(chat_store, tmp_path_factory.mktemp("labels") / "labels.db", "serve") as found:
        yield found.url


@pytest.fixture(scope="module")
def client(address):
    return openai.OpenAI(base_url=f"{address}/v1", api_key="anything", max_retries=0)
