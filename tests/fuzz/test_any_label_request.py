"""Whatever is sent to the labeling app: an answer or a refusal of the client's fault, and never an error of the server."""

import json

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from annotate.app.server import create_app
from annotate.app.settings import AppSettings
from annotate.labels import LabelStore, NewTask, Submission
from annotate.store.accounts import add_account, add_token
from tests.browser.conftest import PASSWORD
from tests.fuzz.examples import ANYTHING, NUMBERS, TEXTS, changed, examples

TASK = {"prompt": "q", "completions": ["a", "b"], "checkpoints": ["x", "y"], "gold": [0, 1], "priority": 1.0}
BODIES = {
    "AnswerIn": {
        "client_id": "1", "kind": "rank", "ranks": [0, 1], "ratings": [1, None], "flags": [["x"], []], "verdict": "a",
        "strength": 1, "demonstration": "d", "none_acceptable": False, "comment": "c", "time_s": 1.0, "fields": {"f": 1},
    },
    "DraftIn": {"content": {"a": 1}, "revision": 1},
    "ChangesIn": {"open": True, "guidelines": "g", "overlap": 1, "quota": 1, "task_order": "random"},
    "WebhookIn": {"url": "http://127.0.0.1:9/x", "secret": "0123456789abcdef"},
    "NewBatchIn": {"name": "new", "kind": "rank", "overlap": 1, "guidelines": "g", "tasks": [TASK]},
    "PeopleIn": {"names": ["zoe"]},
}  # fmt: skip
KNOWN = {"batch": "round", "name": "labelers", "task_id": "1", "place": "0", "turn": "0"}


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A client of an admin's program, and the app's endpoints: (method, path, parameters by place, name of its body)."""
    with LabelStore(tmp_path_factory.mktemp("fuzz") / "labels.db") as store:
        add_account(store.database, "ada", PASSWORD, "admin")
        store.add_batch("round", [NewTask(prompt=f"q{i}", completions=("a", "b")) for i in range(4)])
        task = store.lease("ada", "round")
        store.submit("ada", Submission(task_id=task.id, client_id="1", ranks=(0, 1)))
        app = create_app(store, AppSettings())
        client = TestClient(app, base_url="http://localhost", follow_redirects=False)
        client.headers["Authorization"] = f"Bearer {add_token(store.database, 'ada', 'fuzz')}"
        yield client, endpoints(app.openapi())


def endpoints(schema):
    found = []
    for path, methods in schema["paths"].items():
        for method, one in methods.items():
            given = [(each["in"], each["name"]) for each in one.get("parameters", [])]
            content = one.get("requestBody", {}).get("content", {})
            name = content.get("application/json", {}).get("schema", {}).get("$ref", "").split("/")[-1]
            if "multipart/form-data" not in content and path not in ("/logout",):
                found.append((method.upper(), path, given, name))
    return found


@examples(300)
@given(st.data())
def test_any_request_is_answered_or_refused(asked, data):
    client, known = asked
    method, path, given, name = data.draw(st.sampled_from(known))
    query = {}
    for place, parameter in given:
        usual = st.just(KNOWN[parameter]) if parameter in KNOWN else st.nothing()
        value = str(data.draw(usual | NUMBERS | TEXTS)).encode("utf-8", "replace").decode()
        if place == "path":
            path = path.replace(
                f"{{{parameter}}}", value.replace("/", "-").replace("?", "-").replace("#", "-") or "-"
            )
        elif data.draw(st.booleans()) or parameter in KNOWN:
            query[parameter] = value
    content = None
    if method in ("POST", "PUT", "PATCH"):
        body = data.draw(changed(BODIES[name]) if name in BODIES else ANYTHING)
        content = json.dumps(body).encode("utf-8", "surrogatepass")
    headers = {"Content-Type": "application/json"}
    try:
        reply = client.request(method, path, params=query, content=content, headers=headers)
    except Exception as unsent:
        if type(unsent).__name__ != "InvalidURL":
            raise
        return
    assert reply.status_code < 500, reply.text
    if reply.status_code >= 400:
        assert "Traceback" not in reply.text and len(reply.text) < 20_000


def test_half_a_surrogate_pair_in_a_name_is_answered(asked):
    """Found by `make fuzz WHAT=bodies`: the name came back as it was sent, which is no UTF-8."""
    client, _ = asked
    headers = {"Content-Type": "application/json"}
    one = client.post("/api/lead/people", content=rb'{"names": ["half \ud800"]}', headers=headers)
    assert [each["name"] for each in one.json()["people"]] == ["half \ufffd"]
    twice = client.post("/api/lead/people", content=rb'{"names": ["\ud800", "\ud800"]}', headers=headers)
    assert twice.status_code == 409 and "\ufffd: is given twice" in twice.json()["detail"]
