"""Attacks on the running app: what another session, another site or no session at all can do, which is nothing."""

import json
import re
import time

import httpx
import pytest

from annotate.app.assets import static_address
from annotate.labels import LabelStore
from annotate.store.accounts import add_token, open_session
from annotate.work.drafts import save_draft
from annotate.work.history import history
from tests.browser.conftest import PASSWORD, PATIENCE_MS, Server


class Caller:
    """An HTTP client with a session, as the page sends it: cookie and CSRF token."""

    def __init__(self, world, name=None):
        self.world, self.client = world, httpx.Client(base_url=world.url, timeout=PATIENCE_MS / 1000)
        self.cookie = f"rlhf_label_{world.server.port}"
        if name is not None:
            self.client.cookies.set(self.cookie, open_session(world.database, name))
            boot = re.search(r'id="boot">(.*?)</script>', self.client.get("/label/tasks").text)[1]
            self.client.headers["X-CSRF-Token"] = json.loads(boot)["csrf"]

    def next(self, batch):
        return self.client.post("/api/next", params={"batch": batch}).json()["task"]

    def submit(self, task, **more):
        body = {"client_id": task["client_id"], "kind": "rank", "ranks": [0, 1, 2, 3]} | more
        return self.client.post(f"/api/tasks/{task['id']}/answers", json=body)


@pytest.fixture
def caller(world):
    return lambda name=None: Caller(world, name)


def test_log_in_by_keyboard_and_out_again(either, browse):
    name, batch = either.person(), either.batch()
    page = browse(either)
    page.goto(f"{either.url}/label/?batch={batch}")
    page.wait_for_selector("[name=name]:focus")
    page.keyboard.type(name)
    page.keyboard.press("Tab")
    page.keyboard.type("wrong password")
    page.keyboard.press("Enter")
    assert "wrong" in page.locator(".wrong").inner_text()
    page.wait_for_selector("[name=password]:focus")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_selector(".foot")
    assert page.url.endswith(f"/label/?batch={batch}")
    cookie = next(c for c in page.context.cookies() if c["name"] == f"rlhf_label_{either.server.port}")
    assert cookie["httpOnly"] and cookie["sameSite"] in ("Lax", "Strict")
    page.locator(".menu summary").click()
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_selector("[name=password]")
    page.context.add_cookies([{k: cookie[k] for k in ("name", "value", "domain", "path")}])
    page.goto(either.url + "/label/history")  # the old cookie opens nothing any more
    page.wait_for_selector("[name=password]")


def test_log_in_is_throttled_and_names_are_not_told_apart(world):
    client = httpx.Client(base_url=world.url)
    name = world.person()

    def attempt(name):
        csrf = re.search(r'name="csrf" value="(\w+)"', client.get("/login").text)[1]
        return client.post("/login", data={"name": name, "password": "no such thing", "csrf": csrf})

    unknown, known = attempt("nobody-at-all"), attempt(name)
    assert unknown.status_code == known.status_code == 401
    assert "name or password" in known.text.lower() and "name or password" in unknown.text.lower()
    codes = [attempt(name).status_code for _ in range(6)]
    assert codes[-1] == 429 and codes.count(401) <= 5
    assert int(attempt(name).headers["retry-after"]) > 0


def test_a_planted_session_is_not_adopted_and_log_in_needs_its_own_form(world):
    name = world.person()
    cookie = f"rlhf_label_{world.server.port}"
    client = httpx.Client(base_url=world.url, cookies={cookie: "planted-by-an-attacker"})
    form = {"name": name, "password": PASSWORD}
    assert client.post("/login", data=form).status_code == 403  # no token of the form
    csrf = re.search(r'name="csrf" value="(\w+)"', client.get("/login").text)[1]
    reply = client.post("/login", data=form | {"csrf": csrf, "next": "//evil.example/"})
    assert reply.status_code == 303 and reply.headers["location"] == "/"
    values = {c.value for c in client.cookies.jar if c.name == cookie and c.domain}
    assert values and "planted-by-an-attacker" not in values
    planted = httpx.get(world.url + "/api/me", cookies={cookie: "planted-by-an-attacker"})
    assert planted.status_code == 401


def test_another_labelers_work_is_neither_read_nor_changed(world, caller):
    ann, ben, batch = world.person("ann"), world.person("ben"), world.batch(num_tasks=2, overlap=1)
    hers, his = caller(ann), caller(ben)
    task = hers.next(batch)
    save_draft(world.database, ann, task["id"], {"comment": "private"}, 5)
    attacks = [
        his.client.put(f"/api/tasks/{task['id']}/draft", json={"content": {"comment": "x"}, "revision": 9}),
        his.client.get(f"/api/tasks/{task['id']}/answers/0/text"),
        his.client.get(f"/api/tasks/{task['id']}/answers/0/source"),
        his.client.get(f"/api/tasks/{task['id']}/prompt/0/text"),
    ]
    assert all(reply.status_code in (403, 404, 409) for reply in attacks)
    his.client.post(f"/api/tasks/{task['id']}/release")  # releases nothing of hers
    again = hers.next(batch)
    assert (again["id"], again["draft"]) == (task["id"], {"comment": "private"})
    mine = hers.submit(task).json()["id"]
    assert his.client.get(f"/api/history/{mine}").status_code == 409
    assert his.client.get("/api/history").json()["answers"] == []
    # The same client id is another answer when another account sends it.
    other = his.next(batch)
    assert his.submit(other, client_id=task["client_id"]).json()["repeated"] is False
    assert [past.id for past in history(world.database, ann)] == [mine]


LEAD_ENDPOINTS = (
    ("GET", "/lead/"),
    ("GET", "/lead/dashboard?batch=x"),
    ("GET", "/lead/review?batch=x"),
    ("GET", "/lead/new"),
    ("GET", "/lead/settings?batch=x"),
    ("GET", "/lead/export"),
    ("GET", "/lead/people"),
    ("GET", "/api/lead/batches"),
    ("POST", "/api/lead/batches"),
    ("PATCH", "/api/lead/batches?batch=x"),
    ("POST", "/api/lead/upload"),
    ("GET", "/api/lead/tables/agreement.csv"),
    ("GET", "/api/lead/plots/throughput.svg"),
    ("GET", "/api/lead/disagreements?batch=x"),
    ("POST", "/api/lead/tasks/1/verdict"),
    ("GET", "/api/lead/export"),
    ("GET", "/lead/config"),
    ("GET", "/lead/gradio_api/info"),
    ("POST", "/lead/gradio_api/queue/join"),
    ("POST", "/lead/gradio_api/run/wanted_batch"),
    ("POST", "/lead/gradio_api/upload"),
    ("GET", "/lead/gradio_api/file=/etc/passwd"),
    ("GET", "/lead/gradio_api/heartbeat/any"),
    ("POST", "/lead/gradio_api/cancel"),
    ("POST", "/lead/gradio_api/stream/any"),
    ("GET", "/lead/gradio_api/stream/any/1/2/playlist.m3u8"),
    ("GET", "/lead/gradio_api/queue/data?session_hash=any"),
)


def gradios(lead):
    """What Gradio says of a lead's pages, once they are built."""
    for _ in range(600):
        if (reply := lead.client.get("/lead/config")).status_code != 503:
            return reply.json()
        time.sleep(0.5)
    raise AssertionError("the lead's pages did not come")


def test_leads_endpoints_and_gradios_hidden_ones_refuse_labelers_and_strangers(world, caller):
    labeler, stranger = caller(world.person()), caller()
    for method, path in LEAD_ENDPOINTS:
        for who in (labeler, stranger):
            reply = who.client.request(method, path, json={} if method in ("POST", "PATCH") else None)
            assert reply.status_code in (303, 401, 403), (method, path, reply.status_code, reply.text[:200])


def test_gradio_serves_no_file_of_the_server_and_trusts_no_session_hash(world, caller):
    lead = caller(world.person("lea", "lead"))
    config = gradios(lead)
    for path in ("/etc/passwd", "../../../../etc/passwd", world.server.labels, "/proc/self/environ"):
        for route in ("file=", "file/"):
            reply = lead.client.get(f"/lead/gradio_api/{route}{path}")
            assert reply.status_code in (403, 404) and "root:" not in reply.text
    for route in (
        "deep_link",
        "proxy=http://127.0.0.1/",
        "stream/a/1/2/playlist.m3u8",
        "file=x",
        "vibe-code",
        "runs",
    ):
        assert lead.client.get(f"/lead/gradio_api/{route}").status_code == 404, route
    # Every event handler asks who calls, whatever the session hash claims.
    labeler = caller(world.person())
    for dependency in config["dependencies"]:
        body = {"fn_index": dependency["id"], "data": [], "session_hash": "lea"}
        reply = labeler.client.post("/lead/gradio_api/run/predict", json=body)
        assert reply.status_code in (401, 403)


def test_a_demoted_leads_open_page_can_do_nothing_more(world, caller):
    from annotate.store.schema import Labeler

    name = world.person("lea", "lead")
    lead = caller(name)
    config = gradios(lead)
    listing = next(d for d in config["dependencies"] if d["targets"][0][1] == "load")
    body = {"fn_index": listing["id"], "data": [], "session_hash": "any"}
    assert lead.client.post("/lead/gradio_api/run/predict", json=body).status_code == 200
    with world.database.write() as connection:  # the session stays, the role goes
        connection.execute(Labeler.__table__.update().where(Labeler.name == name).values(role="labeler"))
    assert lead.client.post("/lead/gradio_api/run/predict", json=body).status_code in (401, 403)
    assert lead.client.get("/api/lead/batches").status_code == 403


def test_changes_need_the_pages_token_and_come_from_this_site(world, caller):
    ann, batch = world.person(), world.batch()
    hers = caller(ann)
    task = hers.next(batch)
    token = hers.client.headers.pop("X-CSRF-Token")
    assert hers.submit(task).status_code == 403
    hers.client.headers["X-CSRF-Token"] = token
    for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        reply = hers.client.post(f"/api/tasks/{task['id']}/release", headers=headers)
        assert reply.status_code == 403
    assert history(world.database, ann) == []
    assert hers.submit(task).status_code == 200


def test_tokens_open_the_rest_endpoints_until_they_are_revoked(world):
    from annotate.store.accounts import revoke_token, tokens

    name, batch = world.person(), world.batch()
    token = add_token(world.database, name, "script")
    client = httpx.Client(base_url=world.url, headers={"Authorization": f"Bearer {token}"})
    task = client.post("/api/next", params={"batch": batch}).json()["task"]
    body = {"client_id": "script-1", "kind": "rank", "ranks": [0, 0, 1, 2]}
    first = client.post(f"/api/tasks/{task['id']}/answers", json=body).json()
    again = client.post(f"/api/tasks/{task['id']}/answers", json=body).json()
    assert first["id"] == again["id"] and again["repeated"]
    assert client.get("/api/lead/batches").status_code == 403
    assert "/api/next" in client.get("/api/openapi.json").json()["paths"]
    revoke_token(world.database, tokens(world.database, name)[0]["id"], name)
    assert client.get("/api/me").status_code == 401


def test_headers_and_size_limits(world, caller):
    stranger = caller()
    for path in ("/login", static_address() + "/site.js", "/api/me", "/lead/config"):
        headers = stranger.client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "http" not in headers["content-security-policy"]
    assert "unsafe" not in stranger.client.get("/login").headers["content-security-policy"]
    hers = caller(world.person())
    big = {"client_id": "x", "kind": "demonstrate", "demonstration": "a" * 5_000_000}
    assert hers.client.post("/api/tasks/1/answers", json=big).status_code == 413

    def chunks():
        for _ in range(600):
            yield b"x" * 10_000

    with pytest.raises(httpx.HTTPError):  # no length announced: the body is cut off
        hers.client.post("/api/tasks/1/answers", content=chunks()).raise_for_status()
    assert hers.client.get(f"{static_address()}/../server.py").status_code == 404
    assert hers.client.get(f"{static_address()}/%2e%2e/server.py").status_code == 404


def test_text_that_databases_cannot_keep_and_odd_numbers_are_refused_or_replaced(either):
    ann, batch = either.person(), either.batch()
    hers = Caller(either, ann)
    task = hers.next(batch)
    assert hers.submit(task, ranks=[0, 1]).status_code == 409
    assert hers.submit(task, ranks=[0, 1, 2, -1]).status_code == 409
    assert hers.submit(task, time_s="NaN").status_code == 422
    assert hers.submit(task, kind="like").status_code == 422
    assert hers.submit(task, kind="rate").status_code == 409  # of another kind than the batch
    assert (
        hers.submit(
            task, comment="a\x00b\ud800".encode("utf-8", "surrogatepass").decode("utf-8", "replace")
        ).status_code
        == 200
    )
    (past,) = history(either.database, ann)
    assert past.comment.startswith("a\ufffdb")


def test_without_accounts_only_this_machine_is_served(tmp_path):
    from annotate.app.server import create_app
    from annotate.app.settings import AppSettings
    from rlhf.errors import LabelError

    with LabelStore(tmp_path / "open.db") as store:
        for host in ("0.0.0.0", "192.168.1.5", "::"):
            with pytest.raises(LabelError, match="no accounts yet"):
                create_app(store, AppSettings(host=host))
    server = Server(tmp_path / "open.db")
    try:
        client = httpx.Client(base_url=server.url, follow_redirects=True)
        assert '"user": "local"' in client.get("/").text
        rebound = httpx.get(server.url + "/api/me", headers={"Host": f"evil.example:{server.port}"})
        assert rebound.status_code == 421
        assert httpx.get(server.url + "/api/me").status_code == 401
    finally:
        server.stop()
    assert "no accounts: only this machine" in server.process.stderr.read()


def test_a_proxys_header_counts_only_from_the_proxy(tmp_path):
    from fastapi.testclient import TestClient

    from annotate.app.server import create_app
    from annotate.app.settings import AppSettings
    from annotate.store.accounts import add_account

    header = {"X-Forwarded-User": "ann"}
    with LabelStore(tmp_path / "sso.db") as store:
        add_account(store.database, "ann")
        settings = AppSettings(host="0.0.0.0", proxy_header="X-Forwarded-User", behind_proxy=("10.9.9.9",))
        app = create_app(store, settings)
        outside = TestClient(app, headers=header, client=("10.9.9.8", 1))
        assert outside.get("/api/me").status_code == 401
        assert outside.get("/", follow_redirects=True).url.path == "/login"
        inside = TestClient(app, headers=header, client=("10.9.9.9", 1))
        inside.get("/")
        assert inside.get("/api/me").json()["name"] == "ann"
        # The proxy has somebody else now: the old session is not theirs.
        assert inside.get("/api/me", headers={"X-Forwarded-User": "mallory"}).status_code == 401
        assert inside.get("/login", headers={"X-Forwarded-User": "mallory"}).status_code == 403
