"""`rlhf chat --web` behind nginx with TLS, at the root of its host and below a path: all that `rlhf label` has there."""

import re

import httpx
import pytest
from playwright.sync_api import expect
from sqlalchemy import select

from annotate.chat.conversations import conversations
from annotate.labels import LabelStore
from annotate.store.accounts import add_account
from annotate.store.schema import LoginFailure
from tests.browser.conftest import PASSWORD
from tests.browser.nginx import Nginx
from tests.chat.tiny import serving, tiny_store
from tests.command_line import rlhf

BELOW = ("location / {", "location /talk/ {")
# What nginx does with the path, where there is one.
WAYS = {
    "/": [],
    "/talk left": [BELOW],
    "/talk taken away": [BELOW, ("proxy_pass http://rlhf_label;", "proxy_pass http://rlhf_label/;")],
}


@pytest.fixture(scope="module")
def chat_store(tmp_path_factory):
    return tiny_store(tmp_path_factory.mktemp("chat") / "store")


@pytest.fixture
def labels(tmp_path):
    with LabelStore(tmp_path / "labels.db") as store:
        add_account(store.database, "ann", PASSWORD)
        yield store


@pytest.fixture
def behind(chat_store, labels):
    """behind(way): nginx in front of the chat page; `.path` is where it stands, `.url` its address with that."""
    running = []

    def started(way):
        path = way.split()[0].rstrip("/")
        options = ["--behind-proxy", "127.0.0.1", *(["--root-path", path] if path else [])]
        server = serving(chat_store, labels.database.engine.url.database, "chat", "--web", *options)
        running.append(server)
        front = Nginx([server.__enter__().port], WAYS[way])
        running.append(front)
        front.path, front.url = path, front.url + path
        return front

    yield started
    for one in reversed(running):
        one.stop() if isinstance(one, Nginx) else one.__exit__(None, None, None)


@pytest.mark.parametrize("way", WAYS)
def test_a_person_talks_over_tls_with_a_secure_cookie(labels, behind, browse, way):
    front, missing = behind(way), []
    page = browse(front, ignore_https_errors=True)
    page.on("response", lambda reply: reply.status >= 400 and missing.append((reply.url, reply.status)))
    page.goto(front.url + "/")
    page.fill("[name=name]", "ann")
    page.fill("[name=password]", PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_selector(".welcome, .tries")
    assert page.url == f"{front.url}/chat"
    (cookie,) = [one for one in page.context.cookies() if one["name"].startswith("rlhf_label")]
    assert cookie["name"] == f"rlhf_label{front.path.replace('/', '_')}"
    assert cookie["secure"] and cookie["httpOnly"] and cookie["path"] == (front.path or "/")
    page.fill("#say", "where is the dog")
    page.keyboard.press("Enter")
    expect(page.locator(".turn.assistant [data-act=up]")).to_have_count(1)
    (head,) = conversations(labels.database, "ann")
    expect(page).to_have_url(f"{front.url}/chat/{head.id}")
    page.reload()
    expect(page.locator(".turn.assistant [data-act=up]")).to_have_count(1)
    page.locator("#new").click()
    expect(page).to_have_url(f"{front.url}/chat")
    page.locator("#list nav a").click()
    expect(page.locator(".turn.user .text")).to_have_text("where is the dog")
    for link in page.locator("a[href]").evaluate_all("all => all.map(one => one.href)"):
        assert link.startswith(front.url + "/") and page.request.get(link).ok, link
    page.locator("header.bar .menu summary").first.click()
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_selector("[name=password]")
    assert page.url == f"{front.url}/login" and missing == []


def test_the_throttle_knows_peoples_own_addresses(labels, behind):
    front = behind("/")
    headers = {"X-Forwarded-For": "203.0.113.5"}
    with httpx.Client(base_url=front.url, verify=False, headers=headers, timeout=60) as client:
        csrf = re.search(r'name="csrf" value="(\w+)"', client.get("/login").text)[1]
        reply = client.post("/login", data={"name": "ann", "password": "wrong wrong", "csrf": csrf})
    assert reply.status_code == 401
    with labels.database.read() as connection:
        found = connection.execute(select(LoginFailure.name, LoginFailure.address)).all()
    assert found == [("ann", "203.0.113.5")]


def test_no_proxy_stands_in_front_of_the_terminal(chat_store, tmp_path):
    done = rlhf("--store", str(chat_store.root), "chat", "--root-path", "/talk", folder=tmp_path)
    assert (
        done.returncode != 0
        and "--root-path: nothing stands in front of the terminal; add --web" in done.stderr
    )
