"""A lead's own page, the one of the docs: parts, fields and what Gradio has beside them, in Chromium over a real server."""

import json

import httpx
import pytest
from playwright.sync_api import expect

from annotate.app.launch import page_named
from annotate.store.accounts import add_token
from annotate.work.asks import Asks
from annotate.work.history import history
from tests.browser.conftest import World, answer


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    world = World(folder / "labels.db", "--page", "examples.labeling_page:my_page")
    yield world
    world.close()


def opened(browse, world, name, batch):
    page = browse(world, name)
    page.goto(f"{world.url}/label/?batch={batch}")
    page.wait_for_selector(".foot")
    page.get_by_label("prose").wait_for()
    return page


def rank(page):
    page.locator(".card").first.click()
    for key in ("2", "1", "3", "4"):
        page.keyboard.press(key)


def test_a_field_is_asked_for_stored_kept_in_drafts_and_set_back(world, browse, tmp_path):
    name, other, batch = world.person(), world.person("ben"), world.batch(overlap=2, num_tasks=2)
    page = opened(browse, world, name, batch)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    rank(page)
    page.keyboard.press("Enter")
    expect(page.locator("#toast")).to_contain_text("Fill in first: Domain")
    assert history(world.database, name) == []
    page.get_by_label("prose").check()
    page.get_by_label("needed to know").fill("<img src=x onerror=alert(1)> ${7*7}")
    expect(page.locator(".saved")).to_have_text("Draft saved")
    assert not [url for url in asked if "gradio_api" in url]  # filling in needs no server but for the draft
    page.context.close()

    page = opened(browse, world, name, batch)  # a new browser, and the draft
    expect(page.get_by_label("prose")).to_be_checked()
    expect(page.get_by_label("needed to know")).to_have_value("<img src=x onerror=alert(1)> ${7*7}")
    page.get_by_label("needed to know").press("Control+Enter")
    expect(page.locator("#toast")).to_contain_text("Saved")
    (past,) = history(world.database, name)
    fields = {"domain": "prose", "missing": "<img src=x onerror=alert(1)> ${7*7}"}
    assert past.fields == fields and sorted(past.ranks) == [0, 1, 2, 3]
    expect(page.get_by_label("prose")).not_to_be_checked()  # the next task begins anew
    expect(page.get_by_label("needed to know")).to_have_value("")
    shown = page.locator(".part-history .fields").first  # beside the board at once, as text
    expect(shown).to_have_text("domain: prose · missing: <img src=x onerror=alert(1)> ${7*7}")

    page.locator(".part-history li a").first.click()  # changing the answer shows what it said
    page.wait_for_selector(".banner")
    expect(page.get_by_label("prose")).to_be_checked()
    page.get_by_label("code").check()
    page.locator(".submit").click()
    page.wait_for_url("**/history")
    assert history(world.database, name)[0].fields == fields | {"domain": "code"}

    answer(world, other, batch, (3, 2, 1, 0), fields={"domain": "prose"})
    lead = world.person("lea", "lead")
    page = browse(world, lead)
    page.goto(f"{world.url}/lead/review?batch={batch}")
    expect(page.locator(".given")).to_contain_text("domain: code · missing: <img")
    token = add_token(world.database, lead, "tests")
    reply = httpx.get(
        f"{world.url}/api/lead/export?batch={batch}", headers={"Authorization": f"Bearer {token}"}, timeout=60
    )
    rows = [json.loads(line) for line in reply.text.splitlines()]
    assert [json.loads(row["fields"])["domain"] for row in rows] == ["code", "prose"]


def test_the_server_takes_no_value_that_the_field_does_not_have(world):
    name, batch = world.person(), world.batch()
    client = httpx.Client(
        base_url=world.url,
        headers={"Authorization": f"Bearer {add_token(world.database, name, 'x')}"},
        timeout=60,
    )
    while client.get("/label/", headers={"Accept": "*/*"}).status_code == 503:
        pass
    task = client.post("/api/next", params={"batch": batch}).json()["task"]

    def send(**fields):
        body = {"client_id": "1", "kind": "rank", "ranks": [0, 1, 2, 3], "fields": fields}
        return client.post(f"/api/tasks/{task['id']}/answers", json=body)

    for fields in ({}, {"domain": "verse"}, {"domain": "code", "more": 1}):
        reply = send(**fields)
        assert reply.status_code == 409, reply.text
    assert send(domain="code").status_code == 200
    assert history(world.database, name)[0].fields == {"domain": "code"}


def test_a_skip_needs_no_field_and_settings_of_the_batch_show_on_the_page(world, browse):
    name = world.person()
    strict = world.batch(
        asks=Asks(may_skip=False, show_progress=False, ratings=True, comment_below=4, shown_order="fixed")
    )
    page = opened(browse, world, name, strict)
    assert page.locator(".card .formatted").all_inner_texts() == ["one", "two", "three", "four"]
    expect(page.get_by_role("button", name="Skip")).to_have_count(0)
    expect(page.locator("#progress")).to_be_hidden()
    page.get_by_label("code").check()
    rank(page)
    page.locator(".card").first.click()
    page.keyboard.press("Shift+Digit2")
    page.keyboard.press("Enter")
    expect(page.locator("#toast")).to_contain_text("rated below 4")
    page.keyboard.type("it is rude")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#toast")).to_contain_text("Saved")
    assert history(world.database, name)[0].comment == "it is rude"
    page = opened(browse, world, name, world.batch())
    page.get_by_role("button", name="Skip").click()
    expect(page.locator("#toast")).to_contain_text("Skipped")


def test_the_example_is_a_page_by_name():
    assert page_named("examples.labeling_page:my_page").__module__ == "examples.labeling_page"
