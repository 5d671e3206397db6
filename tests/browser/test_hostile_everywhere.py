"""The set of texts that people, models and files can bring in: each is planted hostile, seen on a page, and does nothing."""

import json
from urllib.parse import quote

import pytest
from playwright.sync_api import expect
from sqlalchemy import JSON, String, Text, update

from annotate.answers.adjudicate import adjudicate
from annotate.store.accounts import add_token
from annotate.store.schema import Base, Labeler
from annotate.work.asks import FLAGS, Asks
from annotate.work.batches import NewTask
from annotate.work.drafts import save_draft
from annotate.work.submit import Submission
from tests.browser.conftest import World, upload

# Where each column that holds a text is planted and seen; `test_chat.py` has those of conversations.
PLANTED = {
    "labeler.name", "batch.name", "batch.guidelines", "prompt.content", "completion.text", "completion.checkpoint",
    "annotation.demonstration", "annotation.comment", "annotation.fields", "draft.content", "api_token.name",
    "conversation.title", "message.content",
}  # fmt: skip
# Made by the app, one of a few words, or on no page.
NOT_SHOWN = {
    "labeler.role", "labeler.origin", "labeler.password_hash", "batch.kind", "batch.asks", "batch.source", "batch.task_order",
    "batch.origin", "batch.live", "batch.webhook_url", "batch.webhook_secret", "prompt.sha256", "completion.sampling",
    "task.gold", "annotation.client_id", "annotation.kind", "annotation.shown_order", "annotation.verdict",
    "annotation.origin", "annotation.context", "ranking_item.flags", "snapshot.id", "snapshot_annotation.snapshot_id",
    "session.token_sha256", "login_failure.name", "login_failure.address", "api_token.token_sha256", "live_request.state",
    "live_request.error", "webhook_delivery.body", "webhook_delivery.error", "conversation.settings", "message.client_id",
    "message.role", "message.checkpoint", "message.sampling",
}  # fmt: skip


def test_every_column_that_holds_a_text_is_planted_or_is_on_no_page():
    texts = {
        f"{table.name}.{column.name}"
        for table in Base.metadata.sorted_tables
        for column in table.columns
        if isinstance(column.type, String | Text | JSON)
    }
    assert texts == PLANTED | NOT_SHOWN and not PLANTED & NOT_SHOWN


def hostile(name):
    """A text that does harm in HTML, in Gradio's templates, in Markdown, in an attribute, and where it is an address."""
    return (
        f"{name}: <img src=x onerror=\"window.hacked='{name}'\"><script>window.hacked=1</script>"
        "${window.hacked=2}{{window.hacked=3}}'\" onfocus=window.hacked=4 autofocus x='"
        "[a](javascript:window.hacked=5)[b](https://evil.example/)\u202egpj</textarea></title></template>"
    )


OF_TEXTS = """() => ({
    hacked: window.hacked ?? null,
    elements: document.querySelectorAll("img[src=x], [onerror], [onfocus]").length,
    links: [...document.querySelectorAll("a")].map((link) => link.getAttribute("href") ?? ""),
})"""


def quiet(page):
    found = page.wait_for_function(OF_TEXTS).json_value()  # a page of Gradio may load itself anew meanwhile
    assert found["hacked"] is None and found["elements"] == 0
    for link in found["links"]:
        assert not link.startswith(("javascript:", "https://evil"))


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """An app with a lead's own page, so that there are fields."""
    world = World(
        tmp_path_factory.mktemp("hostile") / "labels.db", "--page", "examples.labeling_page:my_page"
    )
    yield world
    world.close()


SIZES = {"rank": 3, "rate": 2, "compare": 2, "demonstrate": 1}


def person(world, role):
    name = world.person(role, role)
    renamed = hostile(f"labeler.name {name}")[:200]
    with world.database.write() as connection:
        connection.execute(update(Labeler).where(Labeler.name == name).values(name=renamed))
    return renamed


def make_batch(world, kind):
    tasks = [
        NewTask(
            prompt=[{"role": "user", "content": hostile(f"prompt.content {kind} {i}")}],
            completions=tuple(hostile(f"completion.text {kind} {place}") for place in range(SIZES[kind])),
            checkpoints=tuple(
                hostile(f"completion.checkpoint {place}")[:300] for place in range(SIZES[kind])
            ),
        )
        for i in range(3)
    ]
    asks = Asks(flags=FLAGS, ratings=kind == "rank")
    name = hostile(f"batch.name {kind}")[:200]
    world.store.add_batch(
        name, tasks, kind=kind, overlap=2, asks=asks, guidelines=hostile("batch.guidelines")
    )
    return name


def said(kind, turned):
    order = tuple(range(SIZES[kind]))[:: -1 if turned else 1]
    return {
        "rank": {"ranks": order},
        "rate": {"ratings": tuple(1 + place for place in order)},
        "compare": {"verdict": "b" if turned else "a"},
        "demonstrate": {"demonstration": hostile("annotation.demonstration")},
    }[kind]


def answer_twice(world, name, kind, batch, turned):
    """Two of the three tasks, so that any two people have one of them in common."""
    fields, found = {"domain": "code", "missing": hostile("annotation.fields")}, []
    for _ in range(2):
        task = world.store.lease(name, batch)
        answer = Submission(
            task_id=task.id, client_id=f"{turned}-{task.id}", kind=kind, shown_order=task.shown_order, fields=fields,
            comment=hostile("annotation.comment"), **said(kind, turned),
        )  # fmt: skip
        world.store.submit(name, answer)
        found.append(task.id)
    return found


@pytest.fixture(scope="module")
def planted(own):
    """(world, labeler, lead, batches by kind): every text of the store is hostile."""
    ann, ben, lead = person(own, "labeler"), person(own, "labeler"), person(own, "lead")
    batches = {kind: make_batch(own, kind) for kind in SIZES}
    for kind, batch in batches.items():
        tasks = [answer_twice(own, name, kind, batch, name == ben) for name in (ann, ben)]
        if kind != "demonstrate":
            both = (set(tasks[0]) & set(tasks[1])).pop()
            verdict = {
                "client_id": f"verdict-{both}",
                "kind": kind,
                "comment": hostile("annotation.comment lead"),
            }
            adjudicate(own.database, lead, Submission(task_id=both, **verdict, **said(kind, True)))
        task = own.store.lease(ann, batch)
        draft = {"comment": hostile("draft.content"), "demonstration": hostile("draft.content written")}
        save_draft(
            own.database, ann, task.id, draft | {"fields": {"missing": hostile("draft.content field")}}, 1
        )
    add_token(own.database, lead, hostile("api_token.name")[:200])
    return own, ann, lead, batches


SHOWN = "document.body.innerText + [...document.querySelectorAll('textarea, input')].map((one) => one.value).join('\\n')"


class Walk:
    """Pages one after another; what was seen of the planted texts, by column."""

    def __init__(self, page, url):
        self.page, self.url, self.seen = page, url, set()

    def to(self, path, *ready):
        self.page.goto(self.url + path)
        for selector in ready:
            self.page.wait_for_selector(selector)
        self.look()

    def look(self):
        quiet(self.page)
        text = self.page.evaluate(SHOWN)
        self.seen |= {name for name in PLANTED if f"{name} " in text or f"{name}:" in text}


def test_a_labelers_pages_show_every_text_and_none_does_anything(planted, browse):
    world, ann, _, batches = planted
    walk = Walk(browse(world, ann), world.url)
    walk.to("/label/tasks", ".batch")
    for kind, batch in batches.items():
        walk.to(f"/label/?batch={quote(batch)}", ".foot")
        if walk.page.locator("dialog").count():
            walk.look()
            walk.page.keyboard.press("Escape")
        walk.look()
        walk.page.keyboard.press("v")
        walk.look()
        assert walk.page.locator(".foot").count() == 1, kind
    walk.to("/label/history", ".history li .overruled")
    walk.page.locator(".history a").first.click()
    walk.page.wait_for_selector(".banner")
    walk.look()
    lead_only = {"api_token.name", "completion.checkpoint", "conversation.title", "message.content"}
    assert walk.seen == PLANTED - lead_only


def test_a_leads_pages_show_every_text_and_none_does_anything(planted, browse):
    world, _, lead, batches = planted
    walk = Walk(browse(world, lead), world.url)
    walk.to("/lead", "#batches")
    walk.to("/lead/dashboard", "#figures .figure")
    for fold in walk.page.locator("#figures details > summary").all():
        fold.click()
    walk.look()
    for kind in ("rank", "rate", "compare"):
        walk.to(f"/lead/dashboard?batch={quote(batches[kind])}", "#figures .figure")
        walk.to(f"/lead/review?batch={quote(batches[kind])}", ".given")
    for form in ("new", f"settings?batch={quote(batches['rate'])}", "export", "people"):
        walk.to(f"/lead/{form}", ".gradio-container h1")
        walk.page.wait_for_load_state("networkidle")
        walk.look()
    expected = {
        "labeler.name", "batch.name", "batch.guidelines", "prompt.content", "completion.text", "completion.checkpoint",
        "annotation.comment", "annotation.fields", "api_token.name",
    }  # fmt: skip
    assert walk.seen >= expected, expected - walk.seen


@pytest.mark.parametrize("path", ["/label/?batch={}", "/label/?answer={}", "/adjudicate?batch={}", "/lead/dashboard?batch={}&since={}", "/lead/settings?batch={}", "/{}", "/lead/{}", "/label/{}"])  # fmt: skip
def test_an_address_is_a_text_too(planted, browse, path):
    world, _, lead, _ = planted
    page = browse(world, lead)
    page.goto(world.url + path.replace("{}", quote(hostile("address"), safe="")))
    page.wait_for_load_state("networkidle")
    quiet(page)


def test_a_file_with_a_hostile_name_is_named_and_does_nothing(planted, browse, tmp_path):
    world, _, lead, _ = planted
    file = tmp_path / "<img src=x onerror=window.hacked=7>${window.hacked=8}{{9}}.jsonl"
    file.write_text(json.dumps({"prompt": hostile("prompt"), "ask": 1}))
    page = browse(world, lead)
    page.goto(f"{world.url}/lead/new")
    page.locator("#new-name textarea, #new-name input").fill(hostile("batch.name new")[:150])
    upload(page, "#new-file", file)
    page.click("#create button, button#create")
    expect(page.locator("#created")).to_contain_text("onerror=window.hacked=7")
    quiet(page)
