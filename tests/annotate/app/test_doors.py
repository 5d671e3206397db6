"""Who gets in, from where: accounts, throttles and what proxies say. Over HTTP, on both databases."""

import re
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from annotate.app import identity
from annotate.app.proxies import check_proxies, check_root_path
from annotate.app.server import create_app
from annotate.app.settings import AppSettings
from annotate.labels import LabelStore, NewTask
from annotate.store import accounts
from rlhf.errors import InputError, LabelError

PASSWORD = "correct horse"
TASKS = [NewTask(prompt=f"q{i}", completions=("a", "b", "c", "d")) for i in range(3)]


@pytest.fixture
def visit(store):
    """visit(address, …): a browser at an address, before an app with these settings."""

    def opened(address="127.0.0.1", app=None, **settings):
        app = app or create_app(store, AppSettings(**settings))
        return TestClient(app, base_url="http://localhost", client=(address, 1), follow_redirects=False)

    return opened


def sign_in(client, name, password=PASSWORD, **headers):
    csrf = re.search(r'name="csrf" value="(\w+)"', client.get("/login", headers=headers).text)[1]
    form = {"name": name, "password": password, "csrf": csrf}
    return client.post("/login", data=form, headers=headers)


def test_an_app_whose_last_account_is_disabled_stays_closed(store, visit):
    accounts.add_account(store.database, "lea", PASSWORD, "admin")
    client = visit()
    accounts.set_active(store.database, "lea", False)
    for visitor in (client, visit()):
        assert "password" in visitor.get("/login").text
        assert visitor.get("/").headers["location"].startswith("/login")
        assert visitor.get("/api/me").status_code == 401
        assert sign_in(visitor, "lea").status_code == 401


def test_a_session_that_is_used_lasts_in_the_browser_too(store, visit):
    accounts.add_account(store.database, "ann two", PASSWORD)
    client = visit()
    sign_in(client, "ann two")
    (cookie,) = [cookie for cookie in client.cookies.jar if cookie.name == "rlhf_label_7861"]
    with store.database.write() as connection:  # seven of twelve hours later
        connection.execute(text("UPDATE session SET created = created - 25200, expires = expires - 25200"))
    cookie.expires -= 25_200
    assert client.get("/api/me").status_code == 200
    with store.database.read() as connection:
        expires = connection.execute(text("SELECT expires FROM session")).scalar()
    assert expires > time.time() + 11 * 3600
    (cookie,) = [cookie for cookie in client.cookies.jar if cookie.name == "rlhf_label_7861"]
    assert cookie.expires >= int(expires)


@pytest.mark.parametrize("settings", [{}, {"root_path": "/labels"}])
def test_a_header_that_holds_no_address_is_the_clients_fault(visit, settings):
    client = visit(**settings)
    for origin in ("http://[", "http://evil.example", "null"):
        assert client.post("/login", headers={"Origin": origin}).status_code == 403
    for host in ("[", "a]", "[::1"):
        assert client.get("/lead", headers={"Host": host}).status_code == 400
    assert client.get("/login", headers={"Host": "evil.example"}).status_code == 421
    assert client.get("/login", headers={"Host": "[::1]:7861"}).status_code == 303


def test_an_app_whose_accounts_come_through_a_proxy_does_not_open_without_it(store, visit):
    accounts.add_account(store.database, "lea", role="admin")
    assert visit(proxy_header="X-User").get("/login", headers={"X-User": "lea"}).status_code == 303
    client = visit()
    assert "password" in client.get("/login", headers={"X-User": "lea"}).text
    assert sign_in(client, "lea", "").status_code in (401, 422)


def test_the_local_administrator_is_gone_once_there_are_accounts(store, visit):
    client = visit()
    assert client.get("/login").status_code == 303
    token = accounts.add_token(store.database, accounts.LOCAL, "script")
    bearer = {"Authorization": f"Bearer {token}"}
    assert (
        client.get("/api/me").json()["role"]
        == client.get("/api/me", headers=bearer).json()["role"]
        == "admin"
    )
    accounts.add_account(store.database, "lea", PASSWORD)
    assert client.get("/api/me").status_code == client.get("/api/me", headers=bearer).status_code == 401


def test_behind_a_proxy_an_app_without_accounts_does_not_start(store):
    with pytest.raises(LabelError, match="--behind-proxy lets other machines in"):
        create_app(store, AppSettings(behind_proxy=("127.0.0.1",)))


@pytest.mark.parametrize("wrong", ["nginx", "10.0.0.0/33", "", "1.2.3.4:80"])
def test_a_proxy_is_named_by_address_or_network(wrong):
    check_proxies(["127.0.0.1", "::1", "10.0.0.0/8"])
    with pytest.raises(InputError, match="--behind-proxy"):
        check_proxies([wrong])


@pytest.mark.parametrize(
    "wrong", ["labels", "/labels/", "//labels", "/label", "/api/x", "/a b", "/ä", "/a?b"]
)
def test_a_path_to_stand_below_is_a_plain_one_that_the_app_does_not_use(wrong):
    for fine in ("", "/labels", "/team/labels-2"):
        check_root_path(fine)
    with pytest.raises(InputError, match="--root-path"):
        check_root_path(wrong)


@pytest.mark.parametrize("taken_away", [True, False])
def test_below_a_path_redirections_and_cookies_have_it(store, visit, taken_away):
    accounts.add_account(store.database, "ann two", PASSWORD)
    settings = {"root_path": "/team/labels", "behind_proxy": ("10.0.0.2",), "host": "0.0.0.0"}
    client, root = visit("10.0.0.2", **settings), "" if taken_away else "/team/labels"
    assert client.get(f"{root}/").headers["location"] == "/team/labels/login"
    page = client.get(f"{root}/login")
    assert 'action="/team/labels/login"' in page.text and 'href="/' not in page.text.replace(
        'href="/team/', ""
    )
    assert (
        "Path=/team/labels;" in page.headers["set-cookie"]
        and "rlhf_label_team_labels" in page.headers["set-cookie"]
    )
    assert client.get(f"{root}/lead/").headers["location"] == "/team/labels/login?next=/lead/"


# Tasks


@pytest.fixture
def as_program(store, visit):
    """as_program(name): REST with that account's token."""
    accounts.add_account(store.database, "with password", PASSWORD)

    def opened(name):
        client = visit()
        client.headers["Authorization"] = f"Bearer {accounts.add_token(store.database, name, 'test')}"
        return client

    return opened


def said(task, **more):
    return {"client_id": f"{task}-0", "kind": "rank", "ranks": [0, 1, 2, 3]} | more


def test_only_who_was_given_a_task_answers_or_drafts_it(store, as_program):
    store.add_labeler("lea", role="lead")
    store.add_batch("round", TASKS, overlap=2)
    ann, bob, lea = as_program("ann"), as_program("bob"), as_program("lea")
    task = ann.post("/api/next?batch=round").json()["task"]["id"]
    for stranger in (bob, lea):
        assert stranger.post(f"/api/tasks/{task}/answers", json=said(task)).status_code == 404
        draft = {"content": {"comment": "x"}, "revision": 1}
        assert stranger.put(f"/api/tasks/{task}/draft", json=draft).status_code == 409
        assert stranger.post(f"/api/tasks/{task}/renew").status_code == 409
    unknown = bob.post("/api/tasks/999999/answers", json=said(task))
    foreign = bob.post(f"/api/tasks/{task}/answers", json=said(task))
    assert unknown.json()["detail"].replace("999999", str(task)) == foreign.json()["detail"]
    assert store.progress("round").answers == 0
    assert ann.post(f"/api/tasks/{task}/answers", json=said(task)).json()["repeated"] is False


def test_a_task_whose_time_is_over_is_still_ones_own(store, as_program):
    store.add_batch("round", TASKS[:1])
    ann, bob = as_program("ann"), as_program("bob")
    task = store.lease("ann", "round", minutes=0.0005).id
    time.sleep(0.1)
    assert store.lease("bob", "round").id == task
    assert store.lease("ann", "round") is None  # looked for another one meanwhile
    assert ann.put(f"/api/tasks/{task}/draft", json={"content": {}, "revision": 1}).json()["saved"]
    answered = ann.post(f"/api/tasks/{task}/answers", json=said(task))
    assert answered.json()["late"] is True
    assert bob.post(f"/api/tasks/{task}/answers", json=said(task)).json()["late"] is False


def test_a_task_given_back_comes_again(store):
    store.add_batch("round", TASKS[:1])
    task = store.lease("ann", "round").id
    store.release("ann", task)
    assert store.lease("bob", "round").id == task
    store.release("bob", task)
    assert store.lease("ann", "round").id == task


# Throttles


def test_twenty_wrong_names_slow_their_address_down_and_shut_nobody_out(store, visit):
    accounts.add_account(store.database, "ann two", PASSWORD)
    client = visit()
    for number in range(accounts.FAILURES_PER_ADDRESS):
        failed = time.monotonic()
        assert sign_in(client, f"nobody {number}").status_code == 401
    assert sign_in(client, "ann two").status_code == 303
    assert time.monotonic() - failed > accounts.SHARED_PAUSE_S
    for address in ("127.0.0.1", "127.0.0.9"):
        with pytest.raises(accounts.LoginRefused) as refused:
            for _ in range(2):
                accounts.log_in(store.database, "nobody", "wrong wrong", address)
        assert refused.value.wait_s <= accounts.SHARED_PAUSE_S


def test_guesses_at_once_are_counted_like_guesses_one_after_the_other(store):
    accounts.add_account(store.database, "dora", PASSWORD)

    def guess(number):
        with pytest.raises(accounts.LoginRefused) as refused:
            accounts.log_in(store.database, "dora", f"guess {number}", "10.0.0.1")
        return refused.value.wait_s == 0

    with ThreadPoolExecutor(8) as pool:
        checked = sum(pool.map(guess, range(24)))
    assert (
        accounts.FAILURES_PER_NAME <= checked <= accounts.FAILURES_PER_NAME + 8
    )  # PostgreSQL: those at once


def test_the_address_is_the_one_that_a_trusted_proxy_tells(store, visit, caplog, monkeypatch):
    monkeypatch.setattr(identity, "SHARED_PAUSE_S", 0.0)  # refused instead of waited for
    monkeypatch.setattr(accounts, "SHARED_PAUSE_S", 60.0)
    accounts.add_account(store.database, "ann two", PASSWORD)
    proxy = visit("10.0.0.2", behind_proxy=("10.0.0.0/24",), host="0.0.0.0")

    def attempt(address, name="nobody", password="wrong wrong", client=proxy):
        return sign_in(client, name, password, **{"X-Forwarded-For": address}).status_code

    for number in range(accounts.FAILURES_PER_ADDRESS):
        # What the browser itself claims stands left of what the proxy adds.
        assert attempt(f"198.51.100.{number}, 203.0.113.5", f"nobody {number}") == 401
    assert attempt("203.0.113.5") == 429 and "log-in from 203.0.113.5 refused" in caplog.text
    assert attempt("203.0.113.6", "ann two", PASSWORD) == 303
    direct = visit("203.0.113.5", app=proxy.app)
    assert attempt("203.0.113.7", client=direct) == 429  # nobody asked this one to speak for others


def test_cookies_are_secure_where_a_trusted_proxy_speaks_tls(store, visit):
    accounts.add_account(store.database, "ann two", PASSWORD)
    tls = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.5"}

    def cookies(address):
        client = visit(address, behind_proxy=("10.0.0.2",), host="0.0.0.0")
        return sign_in(client, "ann two", **tls).headers.get_list("set-cookie") + client.get(
            "/login", headers=tls
        ).headers.get_list("set-cookie")

    assert all("Secure" in cookie for cookie in cookies("10.0.0.2"))
    assert not any("Secure" in cookie for cookie in cookies("10.0.0.3"))


def test_the_databases_password_is_in_no_message():
    with pytest.raises(LabelError) as refused:
        LabelStore("postgresql://rlhf:s3cret@127.0.0.1:1/labels?password=an0ther")
    assert "s3cret" not in str(refused.value) and "an0ther" not in str(refused.value)
    with pytest.raises(LabelError, match="URL cannot be read") as refused:
        LabelStore("postgresql://rlhf:s3/cret@host:port/labels")
    assert "cret" not in str(refused.value)
