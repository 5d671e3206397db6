"""What a lead does: a batch from a file, its settings, verdicts, exports, notices; by the forms and by the endpoints."""

import csv
import hmac
import json
import time

import httpx
import pytest
from playwright.sync_api import expect

from annotate.answers.adjudicate import adjudicate
from annotate.store.accounts import add_token
from annotate.work.asks import Asks
from annotate.work.batches import batch_settings
from annotate.work.history import history, verdicts_on
from annotate.work.submit import Submission
from rlhf.store import Store
from tests.browser.conftest import answer, batch_row, sign_in, upload
from tests.chat.tiny import serving


@pytest.fixture
def rest(world):
    """A lead's REST client."""
    token = add_token(world.database, world.person("lea", "lead"), "tests")
    return httpx.Client(base_url=world.url, headers={"Authorization": f"Bearer {token}"}, timeout=30)


def test_a_lead_makes_a_batch_from_a_file_and_a_labeler_gets_it(either, browse, tmp_path):
    lead, labeler = either.person("lea", "lead"), either.person()
    name = either.batch() + " from file"
    file = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"{name} {i}", "completions": ["a", "b", "c"], "ranks": [0, 1, 2]} for i in range(3)]
    file.write_text("\n".join(map(json.dumps, rows)))
    page = browse(either, lead)
    page.goto(either.url + "/lead")
    page.get_by_role("link", name="New batch").click()
    page.locator("#new-name textarea, #new-name input").fill(name)
    upload(page, "#new-file", file)
    page.get_by_label("Quality of each answer").check()
    page.get_by_label("Labelers per task").fill("0")
    page.click("#create button, button#create")
    expect(page.get_by_role("alert")).to_contain_text("overlap: Input should be greater than or equal to 1")
    page.get_by_label("Labelers per task").fill("1")
    page.click("#create button, button#create")
    expect(page.locator("#created")).to_contain_text("3 tasks, 0 answers kept")
    page.locator("#created a").click()
    expect(batch_row(page, name)).to_contain_text("0 / 3")
    page = browse(either, labeler)
    page.goto(either.url)
    page.locator(".batch", has_text=name).locator("a").click()
    page.wait_for_selector(".rating")


def test_a_verdict_overrules_and_the_labeler_sees_it(either, browse):
    lead, ann, ben = either.person("lea", "lead"), either.person("ann"), either.person("ben")
    batch = either.batch(overlap=2, num_tasks=1)
    task, _ = answer(either, ann, batch, (0, 1, 2, 3))
    answer(either, ben, batch, (3, 2, 1, 0))
    page = browse(either, lead)
    page.goto(f"{either.url}/lead/review?batch={batch}")
    page.wait_for_selector(".given")
    page.locator("#guidelines").click()
    expect(page.get_by_role("dialog")).to_contain_text("no guidelines")
    page.keyboard.press("Escape")
    assert page.locator(".given tbody th").all_inner_texts() == [ann, ben]
    texts = page.locator(".card .formatted").all_inner_texts()
    wanted = dict(zip(task.completions, (3, 2, 1, 0), strict=True))  # ben is right
    for text in texts:
        page.keyboard.press(str(wanted[text] + 1))
    page.fill("#comment", "ben read the question")
    page.locator("#submit").click()
    page.get_by_text("No more disagreements").or_(page.get_by_text("adjudicated before")).first.wait_for()
    assert history(either.database, ben)[0].overruled is None
    assert history(either.database, ann)[0].overruled.comment == "ben read the question"
    page = browse(either, ann)
    page.goto(either.url + "/label/history")
    expect(page.locator(".overruled")).to_contain_text("ben read the question")


def test_one_disagreement_after_the_other_and_a_verdict_that_came_too_late_is_shown_again(world, browse):
    lead, other = world.person("lea", "lead"), world.person("max", "lead")
    batch = world.batch(overlap=2, num_tasks=3, completions=("a", "b", "c"))
    for name, ranks in ((world.person("ann"), (0, 1, 2)), (world.person("ben"), (2, 1, 0))):
        tasks = sorted(answer(world, name, batch, ranks)[0].id for _ in range(3))
    page = browse(world, lead)

    def standing():
        with world.database.read() as connection:
            return {task: found.by for task, found in verdicts_on(connection, tasks).items()}

    def decide(comment=""):
        for key in ("1", "2", "3"):
            page.keyboard.press(key)
        page.fill("#comment", comment)
        page.locator("#submit").click()

    page.goto(f"{world.url}/lead/review?batch={batch}")
    prompt = page.locator("main .turn, main .prompt").first
    expect(prompt).to_contain_text("question 0")
    decide()
    expect(prompt).to_contain_text("question 1")  # and not the one behind it
    assert standing() == {tasks[0]: lead}
    cookies = page.context.cookies()
    page.context.clear_cookies()
    decide("ben is right")
    expect(page.locator("#problem")).to_contain_text("signed out")
    adjudicate(world.database, other, Submission(task_id=tasks[1], client_id=f"max{batch}", ranks=(0, 0, 1)))
    page.context.add_cookies(cookies)
    page.reload()
    expect(page.locator("#problem")).to_contain_text(f"{other} has given a verdict meanwhile")
    expect(page.locator("#comment")).to_have_value("ben is right")
    assert standing()[tasks[1]] == other
    page.locator("#submit").click()  # knowing the other one
    expect(prompt).to_contain_text("question 2")
    assert standing()[tasks[1]] == lead
    decide()
    expect(page.locator("main")).to_contain_text(
        "adjudicated before"
    )  # the one from before the page was loaded
    assert set(standing()) == set(tasks)
    page.get_by_role("button", name="Next").click()
    expect(page.locator(".nothing")).to_contain_text("No more disagreements")
    assert page.evaluate("Object.keys(localStorage).filter((name) => name.startsWith('rlhf-unsent'))") == []


def test_a_lead_changes_the_settings_of_the_batch_in_the_address(either, browse):
    batch = either.batch(guidelines="Be fair.", asks=Asks(ratings=True))
    page = browse(either, either.person("lea", "lead"))
    page.goto(either.url + "/lead")
    batch_row(page, batch).get_by_role("link", name="Settings").click()
    expect(page.get_by_label("Guidelines")).to_have_value("Be fair.")
    page.get_by_label("Guidelines").fill("Be kind.")
    page.get_by_label("Labelers per task").fill("3")
    page.get_by_label("open").uncheck()
    expect(page.get_by_label("skip tasks")).to_be_checked()
    page.get_by_label("skip tasks").uncheck()
    page.get_by_label("A comment is owed below").fill("9")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("#saved")).to_contain_text("comment_below is 1 to 7")
    page.get_by_label("A comment is owed below").fill("3")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("#saved")).to_contain_text("Saved.")
    found = batch_settings(either.database, batch)
    assert (found.guidelines, found.overlap, found.open) == ("Be kind.", 3, False)
    asked = found.asks
    assert (asked.may_skip, asked.show_progress, asked.comment_below, asked.ratings) == (False, True, 3, True)
    page.locator("#saved a").click()
    expect(batch_row(page, batch)).to_contain_text("closed")


def choose(page, place, name):
    page.locator(f"{place} input").fill(name)
    page.get_by_role("option", name=name).first.click()


def row_of(page, name):
    return page.locator("#people tr", has=page.get_by_role("cell", name=name, exact=True))


def test_a_lead_makes_an_account_keeps_it_out_and_gives_it_a_new_password(world, browse):
    name = world.person().replace("ann", "nia")
    page = browse(world, world.person("lea", "lead"))
    page.goto(world.url + "/lead/people")
    page.locator("#new-names textarea").fill(f"{name}\n\n")
    page.locator("#make-accounts").click()
    made = page.locator("#made tbody td")
    expect(made).to_have_count(2)
    password = made.nth(1).inner_text()
    expect(row_of(page, name)).to_contain_text("✓")
    theirs = browse(world)
    sign_in(theirs, world.url, name, password)
    theirs.locator(".part-tasks").wait_for(state="attached")  # else it is kept out while its scripts load
    page.locator("#make-accounts").click()
    expect(page.locator("#made").get_by_role("alert")).to_contain_text("is there already")
    choose(page, "#account", name)
    page.get_by_role("button", name="Keep out").click()
    expect(page.locator("#changed")).to_contain_text("Saved.")
    expect(row_of(page, name)).to_contain_text("–")
    theirs.goto(world.url + "/label/tasks")
    theirs.wait_for_selector("[name=password]")
    page.get_by_role("button", name="Let in").click()
    expect(row_of(page, name)).to_contain_text("✓")
    page.locator("#new-password").click()
    changed = page.locator("#changed tbody td")
    expect(changed.first).to_have_text(name)
    assert changed.nth(1).inner_text() != password
    sign_in(theirs, world.url, name, changed.nth(1).inner_text())


def test_a_token_is_made_and_ended(world, browse):
    page = browse(world, world.person("lea", "lead"))
    page.goto(world.url + "/lead/people")
    page.get_by_label("Name of a new token").fill("my script")
    page.get_by_role("button", name="Make a token").click()
    expect(page.locator("#token")).to_contain_text("rlhf_")
    token = page.locator("#token").inner_text().split()[-1]

    def status():
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.get(f"{world.url}/api/lead/batches", headers=headers, timeout=30).status_code

    assert status() == 200
    expect(page.locator("#tokens")).to_contain_text("my script")
    choose(page, "#own-token", "my script")
    page.get_by_role("button", name="End it").click()
    expect(page.locator("#tokens table")).to_have_count(0)
    assert status() == 401


def test_exports_come_by_button_with_what_the_form_chose(either, browse):
    lead, ann = either.person("lea", "lead"), either.person("ann")
    batch, other = either.batch(), either.batch()
    for name in (batch, other):
        answer(either, ann, name, (0, 1, 1, 2))
    page = browse(either, lead)
    page.goto(either.url + "/lead/export")
    page.locator("#export-batch input").fill(batch)
    page.get_by_role("option", name=batch, exact=True).click()
    page.get_by_label("agree at least").fill("much")
    page.click("#make-export")
    expect(page.get_by_role("alert")).to_contain_text("much is no share")
    page.get_by_label("agree at least").fill("")
    page.get_by_label("From day").fill("2026-01-31")
    page.click("#make-export")
    with page.expect_download() as download:
        page.click("a.download")
    assert download.value.suggested_filename == f"{batch}-rankings.jsonl"
    (line,) = map(json.loads, download.value.path().read_text().splitlines())
    assert line["labeler"] == ann and line["prompt"][0]["content"].startswith(batch + ":")


def test_figures_by_token_are_of_the_days_that_are_asked_for(world, rest):
    ann, batch = world.person("ann"), world.batch()
    answer(world, ann, batch, (0, 1, 2, 3))
    table = rest.get("/api/lead/tables/throughput.csv", params={"batch": batch})
    (day,) = (row["day"] for row in csv.DictReader(table.text.splitlines()))
    for days, there in (({"since": day, "until": day}, True), ({"until": "2001-01-01"}, False)):
        asked = {"batch": batch, **days}
        assert (ann in rest.get("/api/lead/tables/throughput.csv", params=asked).text) is there
        picture = rest.get("/api/lead/plots/throughput.svg", params=asked)
        assert picture.status_code == (200 if there else 404)


def test_exports_come_by_token_with_their_snapshot(world, rest):
    ann, batch = world.person("ann"), world.batch()
    answer(world, ann, batch, (0, 1, 1, 2), comment="=HYPERLINK(1)")
    reply = rest.get("/api/lead/export", params={"batch": batch, "format": "pairs", "file": "csv"})
    assert reply.headers["x-rows"] == "5" and reply.headers["x-snapshot"]
    table = rest.get("/api/lead/export", params={"batch": batch, "file": "csv"}).text
    assert "'=HYPERLINK(1)" in table
    assert rest.get("/api/lead/export", params={"batch": batch, "file": "zip"}).content[:2] == b"PK"
    none = rest.get("/api/lead/export", params={"batch": batch, "format": "demonstrations"})
    assert none.status_code == 409 and "no demonstrations" in none.json()["detail"]


def test_another_program_is_told_once_when_a_batch_is_complete(world):
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    told = []

    class Listener(BaseHTTPRequestHandler):
        def do_POST(self):
            told.append(
                (self.headers["X-RLHF-Signature"], self.rfile.read(int(self.headers["Content-Length"])))
            )
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    listener = HTTPServer(("127.0.0.1", 0), Listener)
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    batch, secret = world.batch(num_tasks=1), "sixteen characters"
    admin, lead = (add_token(world.database, world.person(role, role), "hook") for role in ("admin", "lead"))
    body = {"url": f"http://127.0.0.1:{listener.server_port}/", "secret": secret}
    for token, status in ((lead, 403), (admin, 200)):
        headers = {"Authorization": f"Bearer {token}"}
        reply = httpx.put(f"{world.url}/api/lead/webhook?batch={batch}", json=body, headers=headers)
        assert reply.status_code == status
    answer(world, world.person(), batch, (0, 1, 2, 3))
    for _ in range(300):
        if told:
            break
        time.sleep(0.1)
    listener.shutdown()
    ((signature, text),) = told
    assert json.loads(text)["batch"] == batch
    assert signature == "sha256=" + hmac.new(secret.encode(), text, "sha256").hexdigest()


def test_rest_makes_changes_and_refuses_batches(world, rest):
    name = world.batch() + "-rest"
    new = {"name": name, "overlap": 2, "tasks": [{"prompt": "p", "completions": ["a", "b"], "gold": None}]}
    assert rest.post("/api/lead/batches", json=new).status_code == 201
    assert "there already" in rest.post("/api/lead/batches", json=new).json()["detail"]
    changes = {
        "open": False,
        "may_skip": False,
        "show_progress": False,
        "ratings": True,
        "comment_below": 2,
        "flags": ["all"],
    }
    assert rest.patch(f"/api/lead/batches?batch={name}", json=changes).status_code == 200
    asks = batch_settings(world.database, name).asks
    assert (asks.may_skip, asks.show_progress, asks.comment_below, len(asks.flags)) == (False, False, 2, 11)
    for bad, status in (({"comment_below": 8}, 409), ({"shown_order": "fixed"}, 422), ({"scale": 5}, 422)):
        assert rest.patch(f"/api/lead/batches?batch={name}", json=bad).status_code == status
    ann = httpx.Client(
        base_url=world.url,
        headers={"Authorization": f"Bearer {add_token(world.database, world.person(), 't')}"},
    )
    assert ann.post("/api/next", params={"batch": name}).json() == {"task": None, "reason": "closed"}
    bad = {"name": "x", "tasks": [{"prompt": "p", "completions": ["only one"]}]}
    assert rest.post("/api/lead/batches", json=bad).status_code == 409
    upload = rest.post(
        "/api/lead/upload",
        data={"settings": json.dumps({"name": name + "2"})},
        files={"file": ("r.jsonl", b'{"x": 1}')},
    )
    assert upload.status_code == 409 and "r.jsonl:1" in upload.json()["detail"]


def test_where_nothing_is_to_be_done_a_lead_is_shown_where_to_begin(browse, tmp_path):
    with serving(Store(tmp_path / "store"), tmp_path / "labels.db", "label") as server:
        page = browse(server)
        page.goto(server.url)
        expect(page.get_by_text("There are no open tasks.")).to_be_visible()
        page.get_by_role("link", name="Make a batch").click()
        expect(page.locator("#new-name")).to_be_visible()
        page.close()  # it may still be fetching when the server ends


def test_a_quick_hand_goes_through_all_disagreements_and_back(world, browse):
    lead, batch = world.person("lea", "lead"), world.batch(overlap=2, num_tasks=4, completions=("a", "b"))
    for name, ranks in ((world.person("ann"), (0, 1)), (world.person("ben"), (1, 0))):
        for _ in range(4):
            answer(world, name, batch, ranks)
    page = browse(world, lead)
    page.goto(f"{world.url}/lead/review?batch={batch}")
    prompt = page.locator("main .turn, main .prompt").first
    expect(prompt).to_contain_text("question 0")
    page.evaluate("for (let i = 0; i < 2; i++) document.querySelectorAll('.foot button')[1].click()")
    expect(prompt).to_contain_text("question 2")
    page.evaluate("for (let i = 0; i < 2; i++) document.querySelectorAll('.foot button')[0].click()")
    expect(prompt).to_contain_text("question 0")
    for number in (1, 2, 3):
        page.get_by_role("button", name="Next").click()
        expect(prompt).to_contain_text(f"question {number}")
