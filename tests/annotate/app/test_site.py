"""The labelers' pages between Gradio and the rest: which of its routes are served, and what comes before it is there."""

import re
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from fastapi.testclient import TestClient
from starlette.routing import Mount, Route

from annotate.app import server
from annotate.app.launch import labeling, page_named
from annotate.app.server import create_app
from annotate.app.settings import AppSettings
from annotate.app.site.routes import LEAD, SITE, is_open
from annotate.labels import LabelStore
from annotate.store.accounts import add_account, open_session
from rlhf.errors import InputError
from tests.browser.conftest import ROOT

# Every route of Gradio 6.31 that a page of ours needs; a later version's new ones are refused until they stand here.
FOR_ALL = {
    "GET /assets/{path:path}", "GET /static/{path:path}", "GET /theme.css", "GET /gradio_api/theme.css",
    "GET /config", "GET /config/", "GET /gradio_api/info", "GET /gradio_api/info/", "GET /gradio_api/startup-events",
    "GET /gradio_api/heartbeat/{session_hash}", "GET /gradio_api/queue/data",
    "GET /gradio_api/call/{api_name}/{event_id}",
    "GET /gradio_api/custom_component/{id}/{environment}/{type}/{file_name}",
    "POST /gradio_api/run/{api_name}", "POST /gradio_api/run/{api_name}/",
    "POST /gradio_api/api/{api_name}", "POST /gradio_api/api/{api_name}/",
    "POST /gradio_api/call/{api_name}", "POST /gradio_api/call/{api_name}/",
    "POST /gradio_api/call/v2/{api_name}", "POST /gradio_api/call/v2/{api_name}/",
    "POST /gradio_api/queue/join", "POST /gradio_api/cancel", "POST /gradio_api/reset", "POST /gradio_api/reset/",
}  # fmt: skip
SERVED = {SITE: FOR_ALL, LEAD: FOR_ALL | {"POST /gradio_api/upload", "GET /gradio_api/upload_progress"}}
SAMPLES = {
    "environment": "client",
    "type": "component",
    "id": "ab12",
    "file_name": "index.js",
    "path:path": "a/b.js",
}


def gradios(app, place):
    """Method and path of every route of a mounted Gradio app, below its mount."""
    (mount,) = [one for one in app.routes if isinstance(one, Mount) and one.path == place.path]
    included = [
        route
        for one in mount.app.routes
        if hasattr(one, "original_router")
        for route in one.original_router.routes
    ]
    for route in [*mount.app.routes, *included]:
        if isinstance(route, Route):
            yield from ((method, route.path) for method in sorted(route.methods))
        elif hasattr(route, "path"):  # a mounted app, such as one for MCP
            yield "GET", f"{route.path}/any"


@pytest.fixture(scope="module")
def built():
    """What the pages are built with, and the labelers' and the lead's pages, once for all tests."""
    from annotate.app.lead.build import lead_apps
    from annotate.app.site.build import site_apps
    from annotate.app.site.parts import default_page

    shared = SimpleNamespace(settings=AppSettings(), doorman=None)
    return shared, {SITE: site_apps(default_page, shared), LEAD: lead_apps(shared)}


@pytest.fixture
def build(built, monkeypatch):
    """Have an app take the pages that are built, after `ready()`."""

    def take(app, ready=bool):
        def pages(place):
            ready()
            vars(built[0]).update(app.state._state)
            return built[1][place]

        monkeypatch.setattr(server, "_site_apps", lambda page, shared: pages(SITE))
        monkeypatch.setattr(server, "_lead_apps", lambda shared: pages(LEAD))

    return take


def wait_for_page(client, address="/label/"):
    while 'http-equiv="refresh"' in (page := client.get(address)).text:
        pass
    return page


@pytest.fixture
def client(tmp_path, build):
    """A client of the whole app with built pages, signed in as a labeler."""
    with LabelStore(tmp_path / "labels.db") as store:
        for name, role in (("ann", "labeler"), ("lea", "lead")):
            add_account(store.database, name, role=role)
        app = create_app(store, AppSettings())
        build(app)
        with TestClient(app, base_url="http://127.0.0.1") as client:
            client.sign_in = lambda name: client.cookies.set(
                app.state.settings.cookie, open_session(store.database, name)
            )
            client.sign_in("lea")
            wait_for_page(client, "/lead/")
            client.sign_in("ann")
            yield client


@pytest.mark.parametrize("place", [SITE, LEAD], ids=["labelers", "leads"])
def test_only_the_routes_that_a_page_needs_are_served(built, place):
    served, refused = set(), set()
    for method, path in gradios(built[1][place]["en"], place):
        sample = re.sub(r"\{([\w:]+)\}", lambda name: SAMPLES.get(name[1], "x1"), path)
        allowed = is_open(method, sample) or place.serves(method, sample)
        allowed = allowed or (method == "GET" and f"{place.path}{sample}" in place.pages)
        (served if allowed else refused).add(f"{method.replace('HEAD', 'GET')} {path}")
    needed = SERVED[place] | {f"GET {page.removeprefix(place.path)}" for page in place.pages}
    assert served <= needed, served - needed
    assert served >= {"GET /config", "POST /gradio_api/run/{api_name}", "POST /gradio_api/queue/join"}
    for name in (
        "file=",
        "proxy=",
        "stream",
        "deep_link",
        "monitoring",
        "runs",
        "process_recording",
        "vibe",
    ):
        there = {route for route in served | refused if name in route}
        assert there and there <= refused, name


def test_what_is_refused_is_refused_over_http_to_everybody(client):
    for method, path in (
        ("GET", "/gradio_api/file=/etc/passwd"),
        ("GET", "/gradio_api/proxy=http://127.0.0.1/"),
        ("POST", "/gradio_api/upload"),
        ("GET", "/gradio_api/deep_link"),
        ("GET", "/monitoring"),
        ("GET", "/gradio_api/mcp/sse"),
        ("GET", "/gradio_api/custom_component/x/../../../server.py"),
        ("GET", "/assets/%2e%2e/%2e%2e/index.html"),
    ):
        reply = client.request(method, f"/label{path}")
        assert reply.status_code in (403, 404), (path, reply.status_code)
    assert client.get("/label/config").status_code == 200
    for path in ("/lead/config", "/lead/gradio_api/upload_progress", "/lead/gradio_api/file=x", "/lead/"):
        assert client.get(path).status_code == 403, path  # for a labeler
    assert client.post("/lead/gradio_api/upload").status_code == 403
    client.sign_in("lea")
    assert client.get("/lead/config").status_code == 200
    assert client.get("/lead/gradio_api/file=/etc/passwd").status_code == 404
    client.cookies.clear()
    for place in ("label", "lead"):
        assert client.post(f"/{place}/gradio_api/run/predict", json={}).status_code == 401
        assert client.get(f"/{place}/config").status_code == 401


@pytest.mark.parametrize("address", ["/label/?batch=x", *LEAD.pages])
def test_a_page_has_no_inline_code_but_what_its_own_number_lets_run(client, address):
    client.sign_in("lea")
    replies = [client.get(address) for _ in range(2)]
    numbers = set()
    for reply in replies:
        policy = reply.headers["content-security-policy"]
        (number,) = re.findall(r"'nonce-([\w-]+)'", policy)
        assert "unsafe-eval" not in policy and "unsafe-inline" not in policy.split("style-src")[0]
        inline = re.findall(r"<script(?![^>]*(?:src=|application/json))([^>]*)>", reply.text)
        assert inline and all(f'nonce="{number}"' in attributes for attributes in inline)
        numbers.add(number)
    assert len(numbers) == 2
    assert 'lang="ja"' in client.get("/label/", headers={"Accept-Language": "ja"}).text


def test_old_addresses_lead_on_with_what_they_ask_for(client):
    for old, new in (
        ("/label?batch=a%20b", "/label/?batch=a%20b"),
        ("/history", "/label/history"),
        ("/tasks", "/label/tasks"),
        ("/lead", "/lead/"),
        ("/adjudicate?batch=x", "/lead/review?batch=x"),
    ):
        assert client.get(old, follow_redirects=False).headers["location"] == new


def test_who_comes_before_gradio_is_there_gets_a_page_that_goes_on(tmp_path, build):
    may_build = threading.Event()
    with LabelStore(tmp_path / "labels.db") as store:
        app = create_app(store, AppSettings())
        build(app, lambda: may_build.wait(60))
        with TestClient(app, base_url="http://127.0.0.1") as client:
            early = client.get("/label/")  # signed in as the local account on the way
            assert (
                early.status_code == 200 and 'http-equiv="refresh"' in early.text and "starting" in early.text
            )
            assert client.get("/label/config").status_code == 503
            assert client.get("/api/me").json()["name"] == "local"  # programs wait for nothing
            may_build.set()
            assert "gradio_config" in wait_for_page(client).text


def test_a_page_that_cannot_be_built_says_so_and_is_not_waited_for(tmp_path, caplog):
    def broken(parts):
        raise ValueError("a mistake in the lead's page")

    with LabelStore(tmp_path / "labels.db") as store:
        app = create_app(store, AppSettings(), page=broken)
        with TestClient(app, base_url="http://127.0.0.1") as client:
            page = wait_for_page(client)
            assert "could not be built" in page.text and "a mistake in the lead's page" in caplog.text


def test_a_page_is_named_by_module_and_function(tmp_path, monkeypatch):
    (tmp_path / "my_pages.py").write_text("def ranking(parts):\n    pass\n\nnumber = 3\n")
    (tmp_path / "half_page.py").write_text("def ranking(:")
    (tmp_path / "wrong_page.py").write_text("{}['colour']")
    monkeypatch.chdir(tmp_path)
    assert page_named("my_pages:ranking").__name__ == "ranking"
    for name, said in (
        ("my_pages", "MODULE:FUNCTION"),
        ("nowhere:page", "no module nowhere"),
        ("my_pages:other", "no other"),
        ("my_pages:number", "no function"),
        ("half_page:ranking", r"cannot be imported: SyntaxError: .*line 1"),
        ("wrong_page:ranking", "cannot be imported: KeyError: 'colour'"),
        (".my_pages:ranking", "cannot be imported: TypeError"),
    ):
        with pytest.raises(InputError, match=said):
            page_named(name)
    assert labeling("x.db", page=len, port=1).settings == {"port": 1}


def test_pages_that_are_made_at_the_same_time_do_not_get_each_others_parts(tmp_path):
    from annotate.app.lead.build import lead_apps
    from annotate.app.site.build import site_apps
    from annotate.app.site.parts import default_page

    def slowly(parts):
        default_page(parts)
        time.sleep(0.3)

    def kinds(app):
        mounts = [one.app for one in app.routes if isinstance(one, Mount) and hasattr(one.app, "get_blocks")]
        return {part["type"] for app in mounts for part in app.get_blocks().get_config_file()["components"]}

    made = {}
    with LabelStore(tmp_path / "labels.db") as store:
        shared = create_app(store, AppSettings()).state
        threads = [
            threading.Thread(target=lambda: made.update(site_apps(slowly, shared))),
            threading.Thread(target=lambda: made.update(leads=lead_apps(shared))),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for language in ("en", "ja"):
        assert "rankingboard" in kinds(made[language]) and "file" not in kinds(made[language])
        assert "file" in kinds(made["leads"][language]) and "rankingboard" not in kinds(
            made["leads"][language]
        )


def test_what_gradio_looks_at_in_every_event_is_whole_before_there_are_pages():
    """An event that came while a figure's first picture had pyplot imported failed."""
    code = "import sys, annotate.app.site.build; print('matplotlib.pyplot' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "True"
