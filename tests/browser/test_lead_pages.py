"""What a lead looks at: how far batches are, figures with their pictures and CSV; nothing leaves undefined numbers."""

import csv
import re
import threading
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import expect

from annotate.app.lead import dashboard_page
from annotate.app.lead.dashboard_page import DashboardPage
from annotate.app.lead.desk import Desk
from annotate.app.server import create_app
from annotate.app.settings import AppSettings
from annotate.labels import LabelStore, Submission
from annotate.store.accounts import add_account
from annotate.work.batches import NewTask
from tests.browser.conftest import answer, batch_row

LOOKS = "image => image.decode().then(() => image.naturalWidth)"


def downloaded(page, act):
    """Rows of the CSV file that `act` has the browser fetch."""
    with page.expect_download() as download:
        act()
    with download.value.path().open(newline="", encoding="utf-8") as file:
        return download.value.suggested_filename, list(csv.DictReader(file))


def choose_batch(page, place, name):
    page.locator(f"{place} input").fill(name)
    page.get_by_role("option", name=name, exact=True).click()
    page.wait_for_url(lambda url: parse_qs(urlsplit(url).query).get("batch") == [name])


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
    choose_batch(page, "#dashboard-batch", batch)
    figures = page.locator("#figures")
    expect(figures).to_contain_text("undefined because no two labelers ranked the same answers")
    assert "nan" not in figures.inner_text().lower()
    answer(both, ann, batch, (3, 2, 1, 0), time_s=30.0)
    answer(both, ben, batch, (0, 1, 2, 3), time_s=30.0)
    answer(both, ben, batch, (0, 1, 3, 2), time_s=30.0)
    page.reload()  # the address says what was chosen
    expect(figures).to_contain_text("of 12 pairs judged alike")
    expect(figures).to_contain_text("of the 12 where both have a preference")
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
    batch_row(page, batch).wait_for()

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
    tab_to("#dashboard-people input")
    page.keyboard.press("Space")
    expect(page.locator(".figure.wide tbody tr")).to_have_count(2)
    expect(page).to_have_url(re.compile(rf"batch={batch}&people_only=true"))
    tab_to("#csv-throughput")
    _, rows = downloaded(page, lambda: page.keyboard.press("Enter"))
    assert {row["labeler"] for row in rows} == {ann, ben}
    tab_to("#fold-throughput")
    page.keyboard.press("Enter")
    expect(page.locator("#rows-throughput")).to_contain_text(ann)
    page.keyboard.press("Tab")  # into the table, which may be wider or longer than its place
    assert page.evaluate("document.activeElement.matches('#rows-throughput .scroll')")


@pytest.mark.parametrize("address", ["/lead/dashboard", "/lead/export"])
def test_days_are_picked_from_a_calendar_that_fits_a_dark_phone(world, browse, address):
    page = browse(
        world, world.person("lea", "lead"), viewport={"width": 390, "height": 844}, color_scheme="dark"
    )
    page.goto(world.url + address)
    days = page.locator(".day input")
    expect(days).to_have_count(2)
    for day in (days.first, days.last):
        expect(day).to_have_attribute("type", "date")
        fits = (
            "(day) => day.getBoundingClientRect().right < day.closest('.form').getBoundingClientRect().right"
        )
        assert day.evaluate(fits)
        light = "(day) => getComputedStyle(day).backgroundColor.match(/\\d+/g).slice(0, 3).every((part) => part > 128)"
        assert not day.evaluate(light)


def test_newer_figures_come_by_themselves_and_leave_focus_and_folds(world, browse):
    batch, ann, bob = world.batch(), world.person("ann"), world.person("bob")
    answer(world, ann, batch, (0, 1, 2, 3))
    page = browse(world, world.person("lea", "lead"))
    held = []
    page.route("**/gradio_api/run/predict*", lambda route: held.append(route) or older(route))

    def older(route):
        """Say of the first figures that newer ones are on their way."""
        reply = route.fetch()
        body = reply.json()
        if len(body.get("data", [])) == 8 and "timer" not in held:
            held.append("timer")
            body["data"][7] = {"active": True, "__type__": "update"}
            answer(world, bob, batch, (0, 1, 2, 3))
        route.fulfill(response=reply, json=body)

    page.goto(f"{world.url}/lead/dashboard?batch={batch}")
    page.locator("#fold-throughput").click()
    rows = page.locator("#rows-throughput tbody tr")
    expect(rows).to_have_count(2)
    assert page.locator("#rows-throughput").get_attribute("open") is not None
    assert bob in page.locator("#rows-throughput").inner_text()
    assert page.evaluate("document.activeElement.id") == "fold-throughput"
    page.wait_for_timeout(2500)
    asked = len(held)
    page.wait_for_timeout(2500)
    assert len(held) == asked  # what is current is not asked for again


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """opened(query): what a lead's dashboard shows, whose figures wait until they may be counted; with the batch "b"."""
    may_count = threading.Event()
    counted = dashboard_page.tables

    def waiting(database, chosen):
        assert may_count.wait(60)
        return counted(database, chosen)

    monkeypatch.setattr(dashboard_page, "tables", waiting)
    with LabelStore(tmp_path / "labels.db") as store:
        add_account(store.database, "lea", role="lead")
        store.add_labeler("ann")
        store.add_batch("b", [NewTask(prompt="q", completions=("x", "y", "z", "w"))])
        page = DashboardPage(Desk(create_app(store, AppSettings()).state, "en"))

        def opened(query=""):
            given = dict(part.split("=") for part in query.split("&") if part)
            lead = SimpleNamespace(username="lea", query_params=given)
            *_, as_of, figures, address, again = page.opened(lead)
            return SimpleNamespace(said=str(as_of), figures=str(figures), address=address, again=again.active)

        opened.may_count, opened.store = may_count, store
        yield opened
        may_count.set()


def rank(store):
    task = store.lease("ann", "b")
    store.submit("ann", Submission(task_id=task.id, client_id="1", ranks=(0, 1, 2, 3)))


def test_a_page_never_waits_for_figures_that_take_long(opened):
    page = opened()
    assert "are being counted" in page.said and page.again and "csv-gold" not in page.figures
    opened.may_count.set()
    while (page := opened()).again:
        pass
    assert "As of 20" in page.said and "csv-gold" in page.figures
    opened.may_count.clear()
    rank(opened.store)
    page = opened()
    assert "Answers have come since" in page.said and page.again and "csv-gold" in page.figures


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("batch=c<b>", "There is no batch c<b>."),
        ("since=31.1.2026", "31.1.2026 is no day"),
        ("until=2026-02-30", "2026-02-30 is no day"),
    ],
)
def test_a_filter_that_means_nothing_is_named(opened, query, said):
    page = opened(query)
    assert said in page.said and "alert" in page.said and not page.again and page.figures == "[]"


def test_days_are_filters_of_figures_pictures_and_csv_alike(opened):
    opened.may_count.set()
    rank(opened.store)
    while (page := opened()).again:
        pass
    day = re.search(r"20\d\d-\d\d-\d\d", page.figures)[0]
    for query, there in (
        (f"since={day}&until={day}", True),
        ("until=2001-01-01", False),
        ("since=9999-12-31&until=9999-12-31", False),
    ):
        while (page := opened(f"batch=b&{query}")).again:
            pass
        assert (f"plots/throughput.svg?batch=b&{query}" in page.figures) is there
        assert f"throughput.csv?batch=b&{query}" in page.figures and page.address == f"batch=b&{query}"
        assert ("'ann'" in page.figures) is there
