"""What a lead looks at: how far batches are, figures with their pictures and CSV; nothing leaves undefined numbers."""

import csv
import re
import threading
from datetime import datetime, timedelta

import pytest
from fastapi.testclient import TestClient
from playwright.sync_api import expect

from annotate.app.lead import pages as lead_pages
from annotate.app.server import create_app
from annotate.app.settings import AppSettings
from annotate.labels import LabelStore, Submission
from annotate.store.accounts import add_account, open_session
from annotate.work.batches import NewTask
from tests.browser.conftest import answer, batch_row

LOOKS = "image => image.decode().then(() => image.naturalWidth)"


def downloaded(page, act):
    """Rows of the CSV file that `act` has the browser fetch."""
    with page.expect_download() as download:
        act()
    with download.value.path().open(newline="", encoding="utf-8") as file:
        return download.value.suggested_filename, list(csv.DictReader(file))


def test_figures_say_why_they_are_undefined_and_then_what_they_are(both, browse):
    lead, ann, ben = both.person("lea", "lead"), both.person("ann"), both.person("=ben()")
    batch = both.batch(overlap=2, num_tasks=2)
    page = browse(both, lead)
    answer(both, ann, batch, (0, 1, 2, 3), time_s=30.0)
    page.goto(both.url + "/lead")
    row = batch_row(page, batch)
    expect(row).to_contain_text("0 / 2")
    expect(row).to_contain_text("1 / 4")
    page.get_by_role("link", name="Dashboard").first.click()
    page.locator("select[name=batch]").select_option(batch)
    page.get_by_role("button", name="Show").click()
    figures = page.locator("#figures")
    expect(figures).to_contain_text("undefined because no two labelers ranked the same answers")
    assert "nan" not in figures.inner_text().lower()
    answer(both, ann, batch, (3, 2, 1, 0), time_s=30.0)
    answer(both, ben, batch, (0, 1, 2, 3), time_s=30.0)
    answer(both, ben, batch, (0, 1, 3, 2), time_s=30.0)
    page.reload()
    expect(figures).to_contain_text("of 12 pairs judged alike")
    labelers = page.locator(".figure.wide tbody tr")
    assert sorted(row.split()[:2] for row in labelers.all_inner_texts()) == sorted([[ann, "2"], [ben, "2"]])
    assert figures.locator("img").count() >= 3
    for picture in figures.locator("img").all():
        assert picture.evaluate(LOOKS) > 100
    name, rows = downloaded(page, page.locator("#csv-throughput").click)
    assert name == "throughput.csv"
    assert {row["labeler"]: row["answers"] for row in rows} == {ann: "2", "'" + ben: "2"}  # no formula


def test_the_dashboard_by_keyboard_alone(either, browse):
    lead, ann, ben = either.person("lea", "lead"), either.person("ann"), either.person("sim")
    either.store.add_labeler(bot := ben + "-bot", origin="simulated")
    batch = either.batch(overlap=3, num_tasks=1)
    for name in (ann, ben, bot):
        answer(either, name, batch, (0, 1, 2, 3), time_s=30.0)
    page = browse(either, lead)
    page.goto(either.url + "/lead")

    def tab_to(selector):
        for _ in range(400):
            page.keyboard.press("Tab")
            if page.evaluate("selector => document.activeElement.matches(selector)", selector):
                return
        raise AssertionError(f"{selector} is out of reach")

    tab_to(f"a[href='/lead/dashboard?batch={batch}']")
    page.keyboard.press("Enter")
    expect(page.locator(".figure.wide tbody tr")).to_have_count(3)
    assert "✓" in page.locator(".figure.wide tr", has_text=bot).inner_text()
    tab_to("[name=people_only]")
    page.keyboard.press("Space")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(rf"batch={batch}&since=&until=&people_only=true"))
    expect(page.locator(".figure.wide tbody tr")).to_have_count(2)
    tab_to("#csv-throughput")
    _, rows = downloaded(page, lambda: page.keyboard.press("Enter"))
    assert {row["labeler"] for row in rows} == {ann, ben}
    tab_to("#fold-throughput")
    page.keyboard.press("Enter")
    expect(page.locator("#rows-throughput")).to_contain_text(ann)
    page.keyboard.press("Tab")  # into the table, which may be wider or longer than its place
    assert page.evaluate("document.activeElement.matches('#rows-throughput .scroll')")


def test_newer_figures_come_by_themselves_and_leave_focus_and_folds(world, browse):
    batch, ann, bob = world.batch(), world.person("ann"), world.person("bob")
    answer(world, ann, batch, (0, 1, 2, 3))
    page = browse(world, world.person("lea", "lead"))
    page.clock.install()
    page.goto(address := f"{world.url}/lead/dashboard?batch={batch}")
    page.locator("#figures:not([data-coming]) .figure").first.wait_for()
    older = page.request.get(address).text()
    answer(world, bob, batch, (0, 1, 2, 3))
    # The page as it is while that answer is being counted.
    assert 'class="figure-grid"' in older
    older = older.replace('class="figure-grid"', 'class="figure-grid" data-coming')
    page.clock.pause_at(datetime.now() + timedelta(hours=1))
    page.route("**/lead/dashboard**", lambda route: route.fulfill(body=older), times=1)
    page.reload()
    page.locator("#fold-throughput").click()
    rows = page.locator("#rows-throughput tbody tr")
    expect(rows).to_have_count(1)
    page.clock.run_for(1100)
    expect(rows).to_have_count(2)
    assert page.locator("#rows-throughput").get_attribute("open") is not None
    assert bob in page.locator("#rows-throughput").inner_text()
    assert page.evaluate("document.activeElement.id") == "fold-throughput"


@pytest.fixture
def client(tmp_path, monkeypatch):
    """A lead's client of an app whose figures wait until they may be counted; with the batch "b"."""
    may_count = threading.Event()
    counted = lead_pages.tables

    def waiting(database, chosen):
        assert may_count.wait(60)
        return counted(database, chosen)

    monkeypatch.setattr(lead_pages, "tables", waiting)
    with LabelStore(tmp_path / "labels.db") as store:
        add_account(store.database, "lea", role="lead")
        store.add_labeler("ann")
        store.add_batch("b", [NewTask(prompt="q", completions=("x", "y", "z", "w"))])
        app = create_app(store, AppSettings())
        cookies = {app.state.settings.cookie: open_session(store.database, "lea")}
        with TestClient(app, base_url="http://127.0.0.1", cookies=cookies) as client:
            client.may_count, client.store = may_count, store
            yield client
        may_count.set()


def rank(client):
    task = client.store.lease("ann", "b")
    client.store.submit("ann", Submission(task_id=task.id, client_id="1", ranks=(0, 1, 2, 3)))


def test_a_page_never_waits_for_figures_that_take_long(client):
    page = client.get("/lead/dashboard")
    assert "are being counted" in page.text and "data-coming" in page.text and "csv-gold" not in page.text
    client.may_count.set()
    while "data-coming" in (page := client.get("/lead/dashboard")).text:
        pass
    assert "As of 20" in page.text and "csv-gold" in page.text
    client.may_count.clear()
    rank(client)
    page = client.get("/lead/dashboard")
    assert "Answers have come since" in page.text and "data-coming" in page.text and "csv-gold" in page.text


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("batch=c%3Cb%3E", "There is no batch c&lt;b&gt;."),
        ("since=31.1.2026", "31.1.2026 is no day"),
        ("until=2026-02-30", "2026-02-30 is no day"),
    ],
)
def test_a_filter_that_means_nothing_is_named(client, query, said):
    page = client.get(f"/lead/dashboard?{query}")
    assert page.status_code == 200 and said in page.text and "data-coming" not in page.text


def test_days_are_filters_of_figures_pictures_and_csv_alike(client):
    client.may_count.set()
    rank(client)
    (day,) = (
        row["day"] for row in csv.DictReader(client.get("/api/lead/tables/throughput.csv").text.splitlines())
    )
    for query, there in (
        (f"since={day}&until={day}", True),
        ("until=2001-01-01", False),
        ("since=9999-12-31&until=9999-12-31", False),
    ):
        while "data-coming" in (page := client.get(f"/lead/dashboard?batch=b&{query}")).text:
            pass
        assert ("plots/throughput.svg" in page.text) is there
        assert f"throughput.csv?batch=b&amp;{query.replace('&', '&amp;')}" in page.text
        assert ("ann" in client.get(f"/api/lead/tables/throughput.csv?batch=b&{query}").text) is there
        assert client.get(f"/api/lead/plots/throughput.svg?batch=b&{query}").status_code == (
            200 if there else 404
        )
