"""Nothing is lost: the server is killed, the disk is full, the reply goes missing, and there are ten tabs."""

import json
import resource

import httpx
import pytest
from playwright.sync_api import expect

from annotate.store.accounts import set_password
from annotate.work.batches import change_batch
from annotate.work.history import history
from tests.annotate.conftest import draft_of
from tests.browser.conftest import World


def open_batch(page, world, batch):
    page.goto(f"{world.url}/label/?batch={batch}")
    page.wait_for_selector(".foot")


def rank_and_submit(page):
    for key in ("4", "3", "2", "1", "Enter"):
        page.keyboard.press(key)


def test_answers_given_while_the_disk_is_full_or_the_server_dead_are_stored_later_and_once(tmp_path, browse):
    world = World(str(tmp_path / "labels.db"))
    try:
        ann, ben, batch = world.person("ann"), world.person("ben"), world.batch(num_tasks=6)
        page, closing = browse(world, ann), browse(world, ben)
        open_batch(page, world, batch)
        open_batch(closing, world, batch)
        process = world.server.process.pid
        hard = resource.prlimit(process, resource.RLIMIT_FSIZE)[1]
        resource.prlimit(process, resource.RLIMIT_FSIZE, (0, hard))  # every write fails from now on
        rank_and_submit(page)
        expect(page.locator("#problem")).to_contain_text("cannot save right now")
        world.server.kill()  # and now nobody answers at all
        expect(page.locator("#problem")).to_contain_text("does not answer")
        rank_and_submit(closing)
        expect(closing.locator("#problem")).to_contain_text("does not answer")
        closing.close(run_before_unload=False)
        assert history(world.database, ann) == history(world.database, ben) == []

        world.server.start()  # the session is still good, and the page has been trying all the while
        expect(page.locator("#toast")).to_contain_text("Saved")
        expect(page.locator("#problem")).to_be_hidden()
        open_batch(browse.contexts[-1].new_page(), world, batch)  # the closed browser comes back
        for name in (ann, ben):
            (past,) = history(world.database, name)
            assert sorted(past.ranks) == [0, 1, 2, 3] and past.versions == 1

        cookie = next(c for c in page.context.cookies() if c["name"].startswith("rlhf_label"))
        set_password(world.database, ann, "another long one")
        reply = httpx.get(world.url + "/api/me", cookies={cookie["name"]: cookie["value"]})
        assert reply.status_code == 401  # a new password ends the old sessions
    finally:
        world.close()


def test_a_lost_reply_is_asked_for_again_and_stored_once(either, browse):
    name, batch = either.person(), either.batch()
    page = browse(either, name)
    open_batch(page, either, batch)
    sent = []

    def lose_the_first_reply(route):
        sent.append(json.loads(route.request.post_data)["client_id"])
        if len(sent) == 1:
            assert route.fetch().status == 200  # the server has it; the page never hears of it
            route.abort()
        else:
            route.continue_()

    page.route("**/answers", lose_the_first_reply)
    rank_and_submit(page)
    page.locator("#toast.shown").wait_for()
    page.wait_for_selector("#board:not(.sending)")
    assert len(sent) == 2 and len(set(sent)) == 1
    (past,) = history(either.database, name)
    assert past.versions == 1


def test_ten_tabs_of_one_browser_all_work(world, browse):
    name, batch = world.person(), world.batch()
    first = browse(world, name)
    tabs = [first, *(first.context.new_page() for _ in range(9))]
    for tab in tabs:
        open_batch(tab, world, batch)
    rank_and_submit(tabs[-1])
    expect(tabs[-1].locator("#toast")).to_contain_text("Saved")
    assert len(history(world.database, name)) == 1


@pytest.mark.slow
def test_ten_tabs_of_the_leads_forms_hold_no_connection_open(world, browse):
    context = browse(world, world.person("lea", "lead")).context
    for _ in range(10):
        tab = context.new_page()
        tab.goto(world.url + "/lead/people")
        expect(tab.locator("#people table")).to_contain_text("lea-")


def test_a_session_that_ends_in_the_middle_keeps_the_answer_until_the_next_one(world, browse):
    name, batch = world.person(), world.batch()
    page = browse(world, name)
    open_batch(page, world, batch)
    cookies = page.context.cookies()
    page.context.clear_cookies()
    rank_and_submit(page)
    expect(page.locator("#problem")).to_contain_text("signed out")
    assert history(world.database, name) == []
    page.context.add_cookies(cookies)
    open_batch(page, world, batch)
    (past,) = history(world.database, name)
    assert sorted(past.ranks) == [0, 1, 2, 3]


def kept_in(page):
    """The names under which this browser keeps answers that no server has."""
    return page.evaluate("Object.keys(localStorage).filter((name) => name.startsWith('rlhf-unsent'))")


def test_a_kept_answer_that_is_refused_is_opened_on_its_task_until_it_is_sent_or_thrown_away(world, browse):
    name, batch = world.person(), world.batch(num_tasks=1, kind="rate")
    page = browse(world, name)
    open_batch(page, world, batch)
    cookies = page.context.cookies()
    page.context.clear_cookies()
    rank_and_submit(page)
    expect(page.locator("#problem")).to_contain_text("signed out")
    (own,) = kept_in(page)
    for other in (
        own.replace(name, f"{name}:b"),
        own.replace('["",', '["/b",'),
        own.replace('","', '","x', 1),
    ):
        page.evaluate("([from, to]) => localStorage.setItem(to, localStorage.getItem(from))", [own, other])
    change_batch(world.database, batch, comment_below=3)  # what was sent owes a comment by now
    page.context.add_cookies(cookies)
    for _ in range(2):  # it is still there after another look
        open_batch(page, world, batch)
        expect(page.locator(".banner")).to_contain_text("needs a comment")
        assert len(kept_in(page)) == 4 and history(world.database, name) == []
    page.keyboard.press("c")
    page.keyboard.type("two are poor")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#toast")).to_contain_text("Saved")
    (past,) = history(world.database, name)
    assert sorted(past.ratings) == [1, 2, 3, 4] and past.comment == "two are poor"
    assert len(kept_in(page)) == 3 and own not in kept_in(page)  # those of other accounts, stores and paths
    page.reload()
    expect(page.locator(".nothing")).to_contain_text("All done here")


def test_of_two_devices_the_one_in_use_keeps_the_draft_and_says_so(world, browse):
    name, batch = world.person(), world.batch(num_tasks=1)
    laptop, phone = browse(world, name), browse(world, name)
    for page in (laptop, phone):
        page.clock.install()  # the phone's is ten minutes ahead
        open_batch(page, world, batch)
    phone.clock.fast_forward(600_000)
    task = world.store.lease(name, batch).id

    def types(page, text):
        page.locator("details.comment").evaluate("(comment) => { comment.open = true; }")
        page.locator(".foot textarea").fill(text)
        page.clock.run_for(1000)

    types(phone, "on the phone")
    expect(phone.locator(".saved")).to_have_text("Draft saved")
    types(laptop, "on the laptop")
    expect(laptop.locator("#problem")).to_contain_text("newer draft")
    assert draft_of(world.database, name, task)["comment"] == "on the phone"
    types(laptop, "on the laptop, and more")
    expect(laptop.locator(".saved")).to_have_text("Draft saved")
    expect(laptop.locator("#problem")).to_be_hidden()
    assert draft_of(world.database, name, task)["comment"] == "on the laptop, and more"
