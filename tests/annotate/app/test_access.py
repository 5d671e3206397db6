"""Who may do what: docs/access.md has a row for every endpoint, page and route of Gradio, and each cell is tried here."""

import re
from contextlib import suppress

import pytest
from fastapi.testclient import TestClient
from starlette.routing import Mount, Route

from annotate.app import pages, work_api
from annotate.app.lead import api as lead_api
from annotate.app.security import csrf_token
from annotate.app.server import create_app
from annotate.app.settings import AppSettings
from annotate.app.site import routes
from annotate.app.site.mount import Site
from annotate.labels import LabelStore, NewTask, Submission
from annotate.store.accounts import add_account, add_token, open_session
from tests.browser.conftest import PASSWORD, ROOT

PAGE = ROOT / "docs" / "access.md"
CALLERS = ("nobody", "labeler", "lead", "admin", "labeler's program", "lead's program")
ACCOUNTS = {
    "labeler": "ann",
    "lead": "lea",
    "admin": "ada",
    "labeler's program": "pia",
    "lead's program": "lou",
}
ROLES = {"ann": "labeler", "lea": "lead", "ada": "admin", "pia": "labeler", "lou": "lead", "other": "labeler"}
BODIES = {
    "POST /api/tasks/{task_id}/answers": {"client_id": "1", "kind": "rank", "ranks": [0, 1]},
    "PUT /api/tasks/{task_id}/draft": {"content": {}, "revision": 1},
    "PUT /api/lead/webhook": {"url": ""},
    "PATCH /api/lead/people": {},
    "PUT /api/language": {"language": "en"},
}
CLOSED = "every other route of Gradio's"
SAMPLES = {
    "name": "labelers", "place": "0", "turn": "0", "environment": "client", "type": "component", "id": "ab12",
    "file_name": "index.js", "api_name": "lease", "event_id": "ab12",
}  # fmt: skip
LOOKS_LIKE_LOG_IN = re.compile(r"^(/|http://[^/]+/)login\b")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Everybody has answered one task and holds another."""
    with LabelStore(tmp_path_factory.mktemp("access") / "labels.db") as store:
        for name, role in ROLES.items():
            add_account(store.database, name, PASSWORD, role)
        store.add_batch("round", [NewTask(prompt=f"q{i}", completions=("a", "b")) for i in range(40)])
        yield store


@pytest.fixture(scope="module")
def own(store):
    """Ids of a held task and an answer, by account."""
    found = {}
    for name in ROLES:
        task = store.lease(name, "round")
        answer = store.submit(name, Submission(task_id=task.id, client_id=name, ranks=(0, 1)))
        found[name] = {"task_id": store.lease(name, "round").id, "annotation_id": answer}
    return found


@pytest.fixture(scope="module")
def app(store):
    return create_app(store, AppSettings())


def ours():
    """(method, path) of our own endpoints and pages."""
    for router in (pages.router, work_api.router, lead_api.router):
        for route in router.routes:
            yield from ((method, route.path) for method in sorted(route.methods - {"HEAD"}))
    yield from (("GET", path) for path in (*routes.SITE.pages, *routes.LEAD.pages, "/api/openapi.json"))


class Caller:
    """One kind of caller, with a session or token of its own for each request."""

    def __init__(self, kind, store, app):
        self.kind, self.name, self.store = kind, ACCOUNTS.get(kind), store
        self.client = TestClient(app, base_url="http://localhost", follow_redirects=False)
        if "program" in kind:
            token = add_token(store.database, self.name, "test")
            self.client.headers["Authorization"] = f"Bearer {token}"

    def ask(self, method, path, body=None, form=None):
        """Status, and where to."""
        cookies, headers = {}, {}
        if self.name and "program" not in self.kind:
            session = open_session(self.store.database, self.name)
            cookies["rlhf_label_7861"], headers["X-CSRF-Token"] = session, csrf_token(session)
            form = form and {**form, "csrf": csrf_token(session)}
        if path == "/login" and method == "POST":  # with the form's own token
            self.client.cookies = {}
            page = self.client.get(path)
            cookies.update(page.cookies)
            form = {
                "csrf": re.search(r'name="csrf" value="(\w+)"', page.text)[1],
                "name": f"who {self.kind}",
                "password": "wrong wrong",
            }
        sent = {"data": form} if form else {"json": {} if body is None else body} if method != "GET" else {}
        self.client.cookies = cookies
        reply = self.client.request(method, path, headers=headers, **sent)
        return reply.status_code, reply.headers.get("location", "")


def filled(path, ids):
    """A path with values for its parameters, and a query that fits all."""

    def value(match):
        name = match[1].split(":")[0]
        return str(ids[name]) if name in ids else SAMPLES.get(name, "any.js")

    return re.sub(r"\{([\w:]+)\}", value, path) + "?batch=round"


def outcome(caller, method, path, own):
    """One cell: yes, own, no, or – (sign in first)."""
    mine, theirs = own.get(caller.name, own["other"]), own["other"]
    body, form = BODIES.get(f"{method} {path}"), {"x": "y"} if path == "/logout" else None
    found = cell(*caller.ask(method, filled(path, mine) if path != "/login" else path, body, form), path)
    if found == "yes" and ("{task_id}" in path or "{annotation_id}" in path):
        status, _ = caller.ask(method, filled(path, theirs), body, form)
        return "own" if status in (404, 409) else "yes"
    return found


def cell(status, location, path):
    if status == 401 and path == "/login":
        return "yes"  # the wrong password was looked at
    if status == 401 or (
        300 <= status < 400 and LOOKS_LIKE_LOG_IN.search(location) and path not in ("/", "/logout")
    ):
        return "–"
    if status == 403:
        return "no"
    return "yes"


def rows_of_the_page(gradios):
    """The page's rows of Gradio's routes, or the others."""
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith(("| `", f"| {CLOSED}"))]
    start = next((i for i, row in enumerate(rows) if "/assets/{path:path}" in row), len(rows))
    return rows[start:] if gradios else rows[:start]


def test_every_cell_of_the_table_is_what_happens(store, own, app):
    callers = [Caller(kind, store, app) for kind in CALLERS]
    found = [
        f"| `{method} {path}` | {' | '.join(outcome(caller, method, path, own) for caller in callers)} |"
        for method, path in ours()
    ]
    new = "\n".join(found)
    assert rows_of_the_page(False) == found, f"docs/access.md should say, if this is as it should be:\n{new}"


def sites(app):
    """The middlewares in front of an app that pass on to Gradio's pages, by the path that they stand at."""
    found, layer = {}, app.middleware_stack
    while layer is not None:
        if isinstance(layer, Site):
            found[layer.place.path] = layer
        layer = getattr(layer, "told", None) or getattr(layer, "app", None)
    return found


def gradios(app, place):
    """(method, path) of all routes of the Gradio app at a place, in the order of their paths."""
    (mount,) = [one for one in app.routes if isinstance(one, Mount) and one.path == place]
    inner = [one for one in mount.app.routes if hasattr(one, "original_router")]
    found = [*mount.app.routes, *(route for one in inner for route in one.original_router.routes)]
    ways = {
        (place + one.path, method)
        for one in found
        if isinstance(one, Route)
        for method in one.methods - {"HEAD"}
    }
    return [(method, path) for path, method in sorted(ways)]


@pytest.fixture(scope="module")
def walked(store):
    """(client of a running app, ways by place) once Gradio's pages are built."""
    app = create_app(store, AppSettings())
    with TestClient(app, base_url="http://localhost") as client:
        found = sites(app)
        headers = {"Authorization": f"Bearer {add_token(store.database, 'lea', 'ready')}"}
        for place, site in found.items():
            while not site.late.apps:
                client.get(f"{place}/config", headers=headers)
        yield client, {place: gradios(site.late.apps["en"], place) for place, site in found.items()}


async def answered(app, method, path, headers):
    """Status, address and text of an answer to somebody who goes away at once, so that no stream goes on.

    A stream that has not begun by then has status 200: whoever may not have it is told so before.
    """
    status, location, text = 200, "", b""
    messages = iter(
        [{"type": "http.request", "body": b"{}" if method == "POST" else b"", "more_body": False}]
    )

    async def receive():
        return next(messages, {"type": "http.disconnect"})

    async def send(message):
        nonlocal status, location, text
        if message["type"] == "http.response.start":
            status = message["status"]
            location = dict(message["headers"]).get(b"location", b"").decode()
        text += message.get("body", b"")

    given = {"host": "localhost", "content-type": "application/json", **headers}
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "method": method, "path": path,
        "raw_path": path.encode(), "query_string": b"session_hash=x1", "root_path": "", "state": {},
        "headers": [(name.lower().encode(), value.encode()) for name, value in given.items()],
        "client": ("127.0.0.1", 5), "server": ("localhost", 80),
    }  # fmt: skip
    with suppress(TypeError, KeyError):  # Gradio's, for what its handlers do not take, after the answer
        await app(scope, receive, send)
    return status, location, text.decode("utf-8", "replace")


def gradio_cell(client, store, kind, method, path):
    """One cell: yes, no, – (sign in first) or closed."""
    headers = {}
    if "program" in kind:
        headers["Authorization"] = f"Bearer {add_token(store.database, ACCOUNTS[kind], 'test')}"
    elif kind in ACCOUNTS:
        session = open_session(store.database, ACCOUNTS[kind])
        headers = {"Cookie": f"rlhf_label_7861={session}", "X-CSRF-Token": csrf_token(session)}
    sample = filled(path, {"session_hash": "x1"}).split("?")[0]
    status, location, text = client.portal.call(answered, client.app, method, sample, headers)
    if status == 404 and "there is nothing here" in text:
        return "closed"
    return cell(status, location, path)


def test_every_cell_of_gradios_routes_is_what_happens(store, walked):
    client, found = walked
    rows = []
    for place, ways in found.items():
        theirs = [way for way in ways if way not in set(ours())]
        cells = {way: [gradio_cell(client, store, kind, *way) for kind in CALLERS] for way in theirs}
        shut = [way for way, row in cells.items() if set(row) <= {"closed", "no", "–"}]
        rows += [
            f"| `{method} {path}` | {' | '.join(row)} |"
            for (method, path), row in cells.items()
            if (method, path) not in shut
        ]
        rest = sorted({tuple(cells[way]) for way in shut})
        rows += [f"| {CLOSED} below `{place}/` | {' | '.join(row)} |" for row in rest]
    new = "\n".join(rows)
    assert rows_of_the_page(True) == rows, f"docs/access.md should say, if this is as it should be:\n{new}"


def test_no_cell_lets_in_whom_it_must_not():
    """What the table may never say, whoever writes it."""
    for line in PAGE.read_text().splitlines():
        if not line.startswith("| `"):
            continue
        path, nobody, labeler, *_ = [part.strip() for part in line.strip("| ").split("|")]
        if "/lead" in path and "/assets/" not in path and "/static/" not in path and "theme.css" not in path:
            assert (nobody, labeler) in {("–", "no")}, line
        if "/api/" in path and "openapi" not in path and "gradio_api" not in path:
            assert nobody == "–", line
