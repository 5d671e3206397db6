"""One task in several windows, devices and hands: what was said last or longest is never dropped in silence."""

import pytest
from fastapi.testclient import TestClient

from annotate.app.server import create_app
from annotate.app.settings import AppSettings
from annotate.labels import LabelStore, NewTask, Submission
from annotate.store.accounts import add_account, add_token

ROLES = {"ann": "labeler", "bob": "labeler", "lea": "lead", "max": "lead"}


@pytest.fixture
def app(tmp_path):
    with LabelStore(tmp_path / "labels.db") as store:
        for name, role in ROLES.items():
            add_account(store.database, name, None, role)
        yield create_app(store, AppSettings())


@pytest.fixture
def ask(app):
    """ask(name, method, path, body): the reply to somebody's request, as (status, JSON)."""
    client = TestClient(app, base_url="http://localhost")
    tokens = {name: add_token(app.state.store.database, name, "test") for name in ROLES}

    def asked(name, method, path, body=None):
        headers = {"Authorization": f"Bearer {tokens[name]}"}
        reply = client.request(method, f"/api{path}", json=body, headers=headers)
        return reply.status_code, reply.json()

    return asked


@pytest.fixture
def task(app, ask):
    """Ann's task, with three answers."""
    app.state.store.add_batch("round", [NewTask(prompt="q", completions=("a", "b", "c"))])
    return ask("ann", "POST", "/next?batch=round")[1]["task"]


def ranked(task, ranks, **more):
    return {"client_id": task["client_id"], "kind": "rank", "ranks": ranks, **more}


def draft(task, revision, comment):
    return {"client_id": task["client_id"], "revision": revision, "content": {"comment": comment}}


# Drafts


def test_a_drafts_revision_comes_with_the_task_and_counts_on_at_every_device(ask, task):
    path = f"/tasks/{task['id']}/draft"
    assert task["revision"] == 0
    assert ask("ann", "PUT", path, draft(task, 1, "phone"))[1]["saved"]
    laptop = ask("ann", "POST", "/next?batch=round")[1]["task"]
    assert (laptop["draft"], laptop["revision"]) == ({"comment": "phone"}, 1)
    assert ask("ann", "PUT", path, draft(task, 2, "laptop"))[1] == {
        "saved": True,
        "revision": 2,
        "answered": False,
    }
    assert ask("ann", "PUT", path, draft(task, 2, "phone again"))[1] == {
        "saved": False,
        "revision": 2,
        "answered": False,
    }


def test_a_drafts_revision_is_known_after_the_answer_too(ask, task):
    path = f"/tasks/{task['id']}"
    program = {"content": {"comment": "so far"}, "revision": 5}
    assert ask("ann", "PUT", f"{path}/draft", program)[1]["saved"]
    number = ask("ann", "POST", f"{path}/answers", ranked(task, [2, 1, 0]))[1]
    assert not ask("ann", "PUT", f"{path}/draft", program)[1]["saved"]
    opened = ask("ann", "GET", f"/history/{number['id']}")[1]["task"]
    assert (opened["draft"], opened["revision"]) == (None, 5)


def test_a_draft_of_an_answer_that_was_given_is_late(ask, task):
    number = ask("ann", "POST", f"/tasks/{task['id']}/answers", ranked(task, [2, 1, 0], comment="final"))[1]
    late = ask("ann", "PUT", f"/tasks/{task['id']}/draft", draft(task, 99, "half"))[1]
    assert (late["saved"], late["answered"]) == (False, True)
    opened = ask("ann", "GET", f"/history/{number['id']}")[1]
    assert opened["task"]["draft"] is None and opened["given"]["comment"] == "final"
    assert ask("ann", "PUT", f"/tasks/{task['id']}/draft", draft(opened["task"], 1, "changing it"))[1][
        "saved"
    ]


@pytest.mark.parametrize("depth", [60, 300, 900])
def test_a_draft_that_could_not_be_shown_again_is_refused_in_one_line(ask, task, depth):
    nested = 1
    for _ in range(depth):
        nested = [nested]
    status, said = ask("ann", "PUT", f"/tasks/{task['id']}/draft", {"content": {"a": nested}, "revision": 1})
    assert status == 409 and "too deep" in said["detail"]
    assert ask("ann", "POST", "/next?batch=round")[0] == 200


def test_a_draft_with_a_number_that_json_has_not_is_refused(app, task):
    client = TestClient(app, base_url="http://localhost", raise_server_exceptions=False)
    token = add_token(app.state.store.database, "ann", "nan")
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    body = '{"content": {"time_s": NaN}, "revision": 1}'
    assert client.put(f"/api/tasks/{task['id']}/draft", content=body, headers=headers).status_code == 409
    assert client.post("/api/next?batch=round", headers=headers).status_code == 200


# Answers


def test_an_old_address_of_an_answer_opens_what_stands_now(ask, task):
    path = f"/tasks/{task['id']}/answers"
    first = ask("ann", "POST", path, ranked(task, [0, 1, 2], comment="first"))[1]["id"]
    opened = ask("ann", "GET", f"/history/{first}")[1]
    second = ask("ann", "POST", path, ranked(opened["task"], [2, 1, 0], comment="corrected"))[1]["id"]
    again = ask("ann", "GET", f"/history/{first}")[1]
    assert again["id"] == second and again["given"]["comment"] == "corrected" and again["versions"] == 2
    assert ask("bob", "GET", f"/history/{first}")[0] == 409


def test_another_answer_under_the_same_client_id_is_refused_and_kept_after_a_new_look(ask, task):
    path = f"/tasks/{task['id']}/answers"
    first = ranked(task, [0, 1, 2], comment="typo only")
    number = ask("ann", "POST", path, first)[1]["id"]
    assert ask("ann", "POST", path, first)[1] == {"id": number, "repeated": True, "late": False}
    for other in (
        ranked(task, [2, 1, 0], comment="typo only"),
        ranked(task, [0, 1, 2], comment="a long explanation"),
        ranked(task, [0, 1, 2], comment="typo only", ratings=[1, 2, 3]),
        {"client_id": task["client_id"], "kind": "skip"},
    ):
        status, said = ask("ann", "POST", path, other)
        assert status == 409 and "another answer was kept" in said["detail"]
    fresh = ask("ann", "POST", f"/tasks/{task['id']}/open")[1]["task"]
    assert fresh["client_id"] != task["client_id"]
    ask("ann", "POST", path, ranked(fresh, [2, 1, 0], comment="a long explanation"))
    ((row),) = ask("ann", "GET", "/history")[1]["answers"]
    assert row["versions"] == 2 and ask("bob", "POST", f"/tasks/{task['id']}/open")[0] == 409


# Verdicts


@pytest.fixture
def apart(app):
    """Five tasks on which ann and bob disagree."""
    store = app.state.store
    store.add_batch("apart", [NewTask(prompt=f"p{i}", completions=("a", "b")) for i in range(5)], overlap=2)
    for name, ranks in (("ann", (0, 1)), ("bob", (1, 0))):
        while one := store.lease(name, "apart"):
            store.submit(name, Submission(task_id=one.id, client_id=f"{name}{one.id}", ranks=ranks))
    return store


def listed(ask, more, name="lea"):
    while (found := ask(name, "GET", f"/lead/disagreements?batch=apart&limit=1{more}")[1])["computing"]:
        pass
    return found["disagreements"]


def give(ask, name, found, ranks=(0, 1), comment=""):
    body = {"client_id": found["client_id"], "kind": "rank", "ranks": list(ranks), "comment": comment}
    return ask(name, "POST", f"/lead/tasks/{found['task']['id']}/verdict", body)


@pytest.mark.usefixtures("apart")
def test_every_disagreement_is_seen_once_while_two_leads_decide(ask):
    seen, after = [], ""
    while rows := listed(ask, after):
        if rows[0]["adjudicated"]:
            break
        seen.append(rows[0]["task"]["id"])
        if len(seen) == 2:  # the other lead decides one that was seen, and one that comes
            give(ask, "max", listed(ask, f"&task={seen[0]}")[0])
            give(ask, "max", listed(ask, f"&task={seen[0] + 4}")[0])
        elif len(seen) != 1:
            assert give(ask, "lea", rows[0])[0] == 200
        after = f"&after={rows[0]['place']}"
    assert seen == [1, 2, 3, 4]
    assert listed(ask, "&task=99") == []
    assert ask("lea", "GET", "/lead/disagreements?batch=apart&after=nonsense")[0] == 422


def test_a_disagreement_that_has_gone_since_it_was_counted_is_left_out(apart, app, ask, monkeypatch):
    (first,) = listed(ask, "")
    known = app.state.computed.kept
    for name in ("ann", "bob"):
        said = Submission(task_id=first["task"]["id"], client_id=f"e{name}", none_acceptable=True)
        apart.submit(name, said)
    monkeypatch.setattr(app.state.computed, "soon", lambda key, *_: known[key])  # still counting anew
    (second,) = listed(ask, "")
    assert second["task"]["id"] != first["task"]["id"]


@pytest.mark.usefixtures("apart")
def test_a_verdict_on_what_another_lead_has_decided_since_is_refused(ask):
    (seen,) = listed(ask, "")
    number = give(ask, "max", seen, comment="after discussion")[1]
    assert give(ask, "max", seen, comment="after discussion") == (200, number)  # the reply was lost
    status, said = give(ask, "lea", seen, ranks=(1, 0), comment="unsent since Monday")
    assert status == 409 and "max has given a verdict meanwhile" in said["detail"]
    (now,) = listed(ask, f"&task={seen['task']['id']}")
    assert give(ask, "lea", now, ranks=(1, 0))[0] == 200
