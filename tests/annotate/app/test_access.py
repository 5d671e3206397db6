"""Who may do what: docs/access.md has a row for every endpoint and page, and each cell is tried here."""

import re

import pytest
from fastapi.testclient import TestClient

from annotate.app import pages, work_api
from annotate.app.lead import api as lead_api
from annotate.app.lead import pages as lead_pages
from annotate.app.security import csrf_token
from annotate.app.server import create_app
from annotate.app.settings import AppSettings
from annotate.app.site import routes
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
    "PUT /api/language": {"language": "en"},
}
QUERIES = {"batch": "round", "language": "en"}
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
    for router in (pages.router, lead_pages.router, work_api.router, lead_api.router):
        for route in router.routes:
            yield from ((method, route.path) for method in sorted(route.methods - {"HEAD"}))
    yield from (("GET", path) for path in (*routes.PAGES, "/api/openapi.json"))


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


def test_every_cell_of_the_table_is_what_happens(store, own, app):
    callers = [Caller(kind, store, app) for kind in CALLERS]
    found = [
        f"| `{method} {path}` | {' | '.join(outcome(caller, method, path, own) for caller in callers)} |"
        for method, path in ours()
    ]
    said = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    new = "\n".join(found)
    assert said == found, f"docs/access.md should say, if this is as it should be:\n{new}"


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
