"""The labeling app as people meet it: `rlhf label` in a process of its own, and Chromium in front of it."""

import itertools
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from annotate.labels import LabelStore
from annotate.store.accounts import add_account, open_session
from annotate.work.batches import NewTask
from annotate.work.submit import Submission
from tests import forked
from tests.conftest import missing

ROOT = Path(__file__).parent.parent.parent
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
PATIENCE_MS = 120_000  # for a machine that does other work as well
PASSWORD = "correct horse battery"
numbers = itertools.count(1)


class Server:
    """`rlhf label` over a database; `kill` is kill -9."""

    def __init__(self, labels, *options):
        self.labels, self.options = str(labels), options
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self):
        command = [
            sys.executable,
            "-m",
            "stages.cli",
            "label",
            "--labels",
            self.labels,
            "--port",
            str(self.port),
        ]
        self.process = forked.Popen([*command, *self.options], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        deadline = time.time() + 300
        while time.time() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(self.process.stderr.read())
            try:
                urllib.request.urlopen(self.url + "/login", timeout=20)
                return
            except urllib.error.HTTPError:
                return
            except OSError:
                time.sleep(0.05)
        self.kill()
        raise AssertionError("the app did not start within five minutes")

    def wait_for_gradio(self, token):
        """Until Gradio's pages are there, for a program with this token."""
        asked = urllib.request.Request(
            self.url + "/label/config", headers={"Authorization": f"Bearer {token}"}
        )
        for _ in range(600):
            try:
                return urllib.request.urlopen(asked, timeout=120).close()
            except urllib.error.HTTPError as error:
                assert error.code == 503, error
                time.sleep(0.5)
        raise AssertionError("Gradio's pages did not come")

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=20)


class World:
    """A store behind a running server, with fresh accounts and batches for each test."""

    def __init__(self, labels, *options):
        self.store = LabelStore(labels)
        self.database = self.store.database
        self.person("somebody")  # with an account there is a log-in page from the start
        self.server = Server(labels, *options)
        self.url = self.server.url

    def person(self, prefix="ann", role="labeler"):
        name = f"{prefix}-{next(numbers)}"
        add_account(self.database, name, PASSWORD, role)
        return name

    def batch(self, completions=("one", "two", "three", "four"), num_tasks=3, **settings):
        name = f"batch-{next(numbers)}"
        tasks = [
            NewTask(prompt=f"{name}: question {i}", completions=tuple(completions)) for i in range(num_tasks)
        ]
        self.store.add_batch(name, tasks, **settings)
        return name

    def close(self):
        if self.server.process.poll() is None:
            self.server.kill()
        self.store.close()


@pytest.fixture(scope="session")
def worlds(request, tmp_path_factory):
    """Worlds by kind of database, each started once, when first needed."""
    started = {}

    def world(kind):
        if kind not in started:
            if kind == "sqlite":
                labels = str(tmp_path_factory.mktemp("labels") / "labels.db")
            else:
                labels = request.getfixturevalue("postgres").create()
            started[kind] = World(labels)
        return started[kind]

    yield world
    for one in started.values():
        one.close()


@pytest.fixture
def world(worlds):
    return worlds("sqlite")


@pytest.fixture(params=["sqlite", "postgresql"])
def both(request, worlds):
    """The world on SQLite, and again on PostgreSQL."""
    return worlds(request.param)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def either(request, worlds):
    """Likewise, for tests whose second half waits for `make test-slow`."""
    return worlds(request.param)


@pytest.fixture(scope="session")
def chromium():
    """A real browser; skipped where there is none, except on CI."""
    found = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if found is None:
        missing("Chromium")
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=list(QUIET))
        yield browser
        browser.close()


@pytest.fixture
def browse(chromium):
    """browse(world, name): a page signed in as `name`, in a browser profile of its own.

    At the end of the test: no script failed, and nothing was asked of any other machine.
    """
    contexts, problems = [], []

    def opened(world, name=None, **options):
        context = chromium.new_context(**({"viewport": {"width": 1280, "height": 800}} | options))
        contexts.append(context)
        context.set_default_timeout(PATIENCE_MS)
        context.on("request", lambda request: note_foreign(world, request.url))
        context.on("weberror", lambda error: problems.append(str(error.error)))
        page = context.new_page()
        if name is not None:  # as after the log-in page, which tests/browser/test_security.py goes through
            token = open_session(world.database, name)
            context.add_cookies(
                [{"name": f"rlhf_label_{world.server.port}", "value": token, "url": world.url}]
            )
        return page

    def note_foreign(world, url):
        if not url.startswith((world.url + "/", "data:", "blob:" + world.url)):
            problems.append(f"foreign request: {url}")

    opened.contexts = contexts
    yield opened
    found = list(problems)  # of the test itself: what a page was still fetching fails when it is closed
    for context in contexts:
        context.close()
    assert found == []


def sign_in(page, url, name, password=PASSWORD):
    page.goto(url + "/login")
    page.fill("[name=name]", name)
    page.fill("[name=password]", password)
    page.keyboard.press("Enter")
    page.wait_for_selector("header.bar")


def answer(world, name, batch, ranks, **more):
    """A labeler's answer to the next task, ranks by stored place."""
    task = world.store.lease(name, batch)
    return task, world.store.submit(
        name,
        Submission(
            task_id=task.id, client_id=f"{name}-{task.id}", ranks=ranks, shown_order=task.shown_order, **more
        ),
    )


def upload(page, place, file):
    """Choose a file in a form, again where the form was not listening yet, as a person would."""
    from playwright.sync_api import TimeoutError as TooLate

    shown = page.locator(f"{place} .file-preview")
    for patience in (10_000, 30_000, PATIENCE_MS):
        if not shown.is_visible():
            page.locator(f"{place} input[type=file]").set_input_files(file)
        try:
            return shown.wait_for(timeout=patience)
        except TooLate:
            continue
    raise AssertionError(f"{file} never showed up in the form")


def batch_row(page, batch):
    """The line of one batch in a lead's list."""
    name = page.locator("th bdi", has_text=re.compile(f"^{re.escape(batch)}$"))
    return page.locator("#batches tr", has=name)
