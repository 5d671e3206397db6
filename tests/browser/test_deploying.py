"""The app as docs/deploying.md sets it up: nginx with TLS, two processes on one database, the service, copies."""

import configparser
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time

import httpx
import psycopg
import pytest
from sqlalchemy import select

from annotate.labels import LabelStore, NewTask, Submission
from annotate.store.accounts import FAILURES_PER_ADDRESS, add_account
from annotate.store.backup import check
from annotate.store.schema import LoginFailure
from stages.cli.main import parse
from tests.browser.conftest import PASSWORD, ROOT, Server, batch_row, upload
from tests.browser.nginx import Nginx, block
from tests.command_line import rlhf
from tests.conftest import binary

PEOPLE = [f"team {i}" for i in range(6)]


@pytest.fixture
def behind():
    """behind(labels, processes, edit): the app's processes with nginx in front of them."""
    running = []

    def started(labels, processes=1, edit=(), *options):
        servers = [Server(labels, "--behind-proxy", "127.0.0.1", *options) for _ in range(processes)]
        running.extend(servers)
        front = Nginx([server.port for server in servers], edit)
        running.append(front)
        return front, servers

    yield started
    for one in running:
        one.stop() if isinstance(one, Nginx) else one.process.poll() is None and one.kill()


@pytest.fixture
def labels(tmp_path):
    with LabelStore(tmp_path / "labels.db") as store:
        add_account(store.database, "ann", PASSWORD)
        store.add_batch("round", [NewTask(prompt="q", completions=("a", "b", "c", "d"))])
        yield store


def session(front, name, forwarded=None):
    """Who has signed in through the proxy, ready for the REST endpoints; None where log-in was refused."""
    headers = {"X-Forwarded-For": forwarded} if forwarded else {}
    client = httpx.Client(base_url=front.url, verify=False, headers=headers, timeout=60)
    csrf = re.search(r'name="csrf" value="(\w+)"', client.get("/login").text)[1]
    form = {"name": name, "password": PASSWORD if name in ("ann", *PEOPLE) else "wrong wrong", "csrf": csrf}
    reply = client.post("/login", data=form)
    client.status = reply.status_code
    return client


def test_a_person_works_over_tls_with_a_secure_cookie(labels, behind, browse):
    front, _ = behind(labels.database.engine.url.database)
    front.server = front
    page = browse(front, ignore_https_errors=True)
    page.goto(front.url + "/login")
    page.fill("[name=name]", "ann")
    page.fill("[name=password]", PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_selector("header.bar")
    cookies = page.context.cookies()
    assert {cookie["name"] for cookie in cookies} == {"rlhf_label"}
    assert all(cookie["secure"] and cookie["httpOnly"] for cookie in cookies)
    page.goto(front.url + "/label?batch=round")
    page.wait_for_selector(".foot")
    page.keyboard.type("1234")
    page.keyboard.press("Enter")
    page.get_by_text("Saved").wait_for()
    assert len(labels.rankings("round")) == 1


BELOW = ("location / {", "location /labels/ {")
WAYS = {
    "left": [BELOW],
    "taken away": [BELOW, ("proxy_pass http://rlhf_label;", "proxy_pass http://rlhf_label/;")],
}


@pytest.mark.parametrize("way", WAYS)
def test_below_a_path_every_page_and_whatever_it_asks_for_is_there(labels, behind, browse, way, tmp_path):
    add_account(labels.database, "lea", PASSWORD, "lead")
    labels.add_batch("two", [NewTask(prompt="q", completions=("a", "b"))], kind="compare")
    front, _ = behind(labels.database.engine.url.database, 1, WAYS[way], "--root-path", "/labels/")
    front.url += "/labels"  # whatever is asked for elsewhere, `browse` counts as foreign
    missing = []
    page = browse(front, ignore_https_errors=True)
    page.on("response", lambda reply: reply.status >= 400 and missing.append((reply.url, reply.status)))
    page.goto(f"{front.url}/lead")
    page.fill("[name=name]", "lea")
    page.fill("[name=password]", PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_selector("#batches")
    assert page.url == f"{front.url}/lead/"
    walk_as_labeler(page, front.url)
    walk_as_lead(page, front.url, tmp_path)
    assert {cookie["path"] for cookie in page.context.cookies()} == {"/labels"}
    page.locator(".menu summary").click()
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_selector("[name=password]")
    assert page.url == f"{front.url}/login" and missing == []


def walk_as_labeler(page, url):
    """From the list of batches through a task to one's own answers and back, by links alone."""
    page.locator(".brand").click()
    page.locator("a.brand[href='/labels/']").click()
    page.locator("a.button.primary", has_text="Start").first.click()
    page.wait_for_selector(".foot")
    page.keyboard.type("1234")
    page.keyboard.press("Enter")
    page.get_by_text("Saved").wait_for()
    page.get_by_role("link", name="My answers").last.click()
    page.locator(".history a").first.click()
    page.wait_for_selector(".foot")
    assert "/labels/label/?answer=" in page.url


def walk_as_lead(page, url, folder):
    """Every page of a lead, and a batch made in Gradio's form."""
    page.goto(f"{url}/lead")
    page.get_by_role("link", name="Dashboard").first.click()
    page.wait_for_selector("#csv-labelers")
    for address in page.locator("a.csv, .figure img").evaluate_all(
        "all => all.map(one => one.href ?? one.src)"
    ):
        assert address.startswith(url) and page.request.get(address).ok
    page.goto(f"{url}/lead/review?batch=round")
    page.wait_for_selector("main section")
    page.goto(f"{url}/lead")
    page.locator(".tabs a", has_text="New batch").click()
    rows = folder / "rows.jsonl"
    rows.write_text('{"prompt": "p", "completions": ["x", "y"], "ranks": [0, 1]}\n')
    page.locator("#new-name input, #new-name textarea").fill("made")
    upload(page, "#new-file", rows)
    page.locator("#create").click()
    page.locator("#created a").click()
    batch_row(page, "made").wait_for()
    page.locator(".tabs a", has_text="Export").click()
    page.locator("#make-export").click()
    address = page.locator("#export-link a").get_attribute("href")
    assert (
        address.startswith("/labels/api/lead/export?")
        and page.request.get(url[: -len("/labels")] + address).ok
    )
    page.goto(f"{url}/lead")


def test_the_throttle_and_the_journal_know_peoples_own_addresses(labels, behind):
    front, (server,) = behind(labels.database.engine.url.database)
    for number in range(FAILURES_PER_ADDRESS):
        assert session(front, f"nobody {number}", "203.0.113.5").status == 401
    for address in ("203.0.113.6", "203.0.113.5"):  # slowed down, not shut out: test_doors.py has by how much
        assert session(front, "ann", address).status == 303
    with labels.database.read() as connection:
        counted = connection.execute(select(LoginFailure.address)).scalars().all()
    assert counted == ["203.0.113.5"] * FAILURES_PER_ADDRESS
    server.stop()
    assert (
        server.process.stderr.read().count("log-in from 203.0.113.5 refused: name or password is wrong") == 20
    )


class Labeler(threading.Thread):
    """Works through a batch, asking again whenever nobody answered; keeps what was acknowledged."""

    def __init__(self, client):
        super().__init__()
        self.client, self.acknowledged, self.refused = client, [], []

    def ask(self, method, path, **body):
        for _ in range(200):
            try:
                reply = self.client.request(method, path, headers=self.headers, **body)
            except httpx.HTTPError:
                reply = None
            if reply is not None and reply.status_code < 500:
                if reply.status_code != 200:
                    self.refused.append((path, reply.status_code, reply.text[:200]))
                return reply.json()
            time.sleep(0.1)
        raise AssertionError("nobody answers")

    def run(self):
        boot = self.client.get("/", follow_redirects=True).text
        self.headers = {"X-CSRF-Token": re.search(r'"csrf": "(\w+)"', boot)[1]}
        while task := self.ask("POST", "/api/next?batch=team").get("task"):
            draft = {"content": {"comment": f"of {task['id']}"}, "revision": int(1000 * time.time())}
            self.ask("PUT", f"/api/tasks/{task['id']}/draft", json=draft)
            again = self.ask("POST", "/api/next?batch=team")["task"]  # the other process knows the draft
            assert (again["id"], again["draft"]) == (task["id"], draft["content"])
            said = {"client_id": task["client_id"], "kind": "rank", "ranks": [0, 1]}
            stored = self.ask("POST", f"/api/tasks/{task['id']}/answers", json=said)
            self.acknowledged.append(stored["id"])


def test_two_processes_serve_one_team_and_one_may_be_killed(postgres, behind):
    url = postgres.create()
    with LabelStore(url) as store:
        for name in PEOPLE:
            add_account(store.database, name, PASSWORD)
        store.add_batch(
            "team", [NewTask(prompt=f"q{i}", completions=("a", "b")) for i in range(20)], overlap=3
        )
        # Every request to the other process than the one before.
        front, (first, second) = behind(url, 2, [("    hash $cookie_rlhf_label consistent;", "   ")])
        team = [Labeler(session(front, name)) for name in PEOPLE]
        for labeler in team:
            labeler.start()
        while store.progress("team").answers < 15:
            time.sleep(0.05)
        first.kill()
        for labeler in team:
            labeler.join(300)
        acknowledged = [number for labeler in team for number in labeler.acknowledged]
        assert [labeler.refused for labeler in team] == [[]] * len(PEOPLE)
        assert len(set(acknowledged)) == len(acknowledged) == store.progress("team").answers == 60
        assert check(store.database) == [] and second.process.poll() is None


def test_the_block_of_the_page_keeps_a_session_at_one_process(postgres, behind):
    url = postgres.create()
    with LabelStore(url) as store:
        add_account(store.database, "ann", PASSWORD)
    front, servers = behind(url, 2)
    client = session(front, "ann")
    servers[0].kill()
    assert [client.get("/api/me").status_code for _ in range(4)] == [200] * 4
    servers[0].start()
    servers[1].kill()
    assert [client.get("/api/me").status_code for _ in range(4)] == [200] * 4


def unit():
    """The service of the page, by section."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str
    parser.read_string(block("ini", "[Unit]"))
    return parser


def test_the_service_starts_what_it_says(labels, tmp_path):
    service = unit()["Service"]
    command = shlex.split(service["ExecStart"].replace("%i", "7861"))
    parse(command[1:])
    assert command[0].endswith("/bin/rlhf") and service["Restart"] == "always"
    (line,) = block("ini", "RLHF_LABELS").splitlines()
    name, _, _ = line.partition("=")
    environment = os.environ | {name: str(labels.database.engine.url.database)}
    done = subprocess.run(
        [sys.executable, "-m", "stages.cli", "labels", "user", "ls"],
        env=environment, cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "ann (labeler)" in done.stdout
    if shutil.which("systemd-analyze"):
        path = tmp_path / "rlhf-label@.service"
        path.write_text(block("ini", "[Unit]").replace("/opt/rlhf/bin/rlhf", sys.executable))
        checked = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True)
        assert "Unknown" not in checked.stderr, checked.stderr


def test_a_copy_of_postgresql_is_restored_whole(postgres, tmp_path):
    names = ["labels_old", "labels_new"]
    with psycopg.connect(postgres.server(), autocommit=True) as connection:
        for name in names:
            connection.execute(f"CREATE DATABASE {name}")
    old, new = map(postgres.server, names)
    with LabelStore(old) as store:
        store.add_labeler("ann")
        store.add_batch("round", [NewTask(prompt="q", completions=("a", "b"))])
        task = store.lease("ann", "round")
        assert task is not None
    for line in block("sh", "pg_dump").splitlines():
        program, *rest = shlex.split(line.replace("$RLHF_LABELS", old).replace("$NEW_LABELS", new))
        if program == "rlhf":
            done = rlhf(*rest, folder=tmp_path)
        else:
            done = subprocess.run([binary(program), *rest], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, (line, done.stderr)
    with LabelStore(new) as store:
        assert store.batches() == ["round"] and store.lease("ann", "round").id == task.id


def test_a_copy_of_a_file_is_restored_whole(labels, tmp_path):
    task = labels.lease("ann", "round")
    labels.submit("ann", Submission(task_id=task.id, client_id="1", ranks=(0, 1, 2, 3)))
    here = {"RLHF_LABELS": str(tmp_path / "labels.db")}
    for line in block("sh", "rlhf labels backup").splitlines():
        done = rlhf(*shlex.split(line)[1:], folder=tmp_path, environment=here)
        assert done.returncode == 0, done.stderr
    with LabelStore(tmp_path / "labels-copy.db") as copy:
        assert copy.rankings("round") == labels.rankings("round") and check(copy.database) == []
