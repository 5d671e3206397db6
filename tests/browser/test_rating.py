"""Rating each answer on the batch's scale: by keyboard, mouse and touch, with drafts, undo, edits and a lead's verdict."""

import pytest
from playwright.sync_api import expect

from annotate.work.asks import FLAGS, Asks
from annotate.work.history import history, past_answer
from annotate.work.submit import Submission
from tests.browser.conftest import answer
from tests.browser.test_ranking import letters, open_batch, press, wait_for_answers


def stored_ratings(world, name):
    """The newest answer as {text: rating}."""
    past = history(world.database, name)[0]
    return dict(zip(past.task.completions, past.ratings, strict=True))


def test_three_answers_are_rated_with_four_keys(both, browse):
    name, batch = both.person(), both.batch(("x", "y", "z"), kind="rate")
    page = browse(both, name)
    open_batch(page, both, batch)
    said = letters(page)
    press(page, "7", "3", "8", "3", "Enter")  # there is no 8
    wait_for_answers(both, page, name, 1)
    assert stored_ratings(both, name) == {said["A"]: 7, said["B"]: 3, said["C"]: 3}
    (past,) = history(both.database, name)
    assert [past.task.completions[place] for place in past.shown_order] == list(said.values())


def test_arrows_undo_flags_and_a_comment_owed_below_a_rating(either, browse):
    asks = Asks(scale=5, comment_below=3, flags=("made_up", "violent"))
    name, batch = either.person(), either.batch(("x", "y"), kind="rate", asks=asks)
    page = browse(either, name)
    open_batch(page, either, batch)
    said = letters(page)
    press(page, "Enter")
    expect(page.locator("#toast")).to_contain_text("Not rated yet: A, B")
    press(page, "4", "5", "ArrowUp", "ArrowDown", "u")  # B: 5, no higher, 4, and back
    expect(page.locator(".card").nth(1)).to_contain_text("Rated 5")
    press(page, "ArrowLeft", "2", "f", "ArrowDown", "Space", "Escape", "Enter")
    expect(page.locator("#toast")).to_contain_text("rated below 3")
    page.keyboard.type("cruel")
    press(page, "Control+Enter")
    (past,) = wait_for_answers(either, page, name, 1)
    assert stored_ratings(either, name) == {said["A"]: 2, said["B"]: 5}
    assert past.comment == "cruel" and past.flags[past.shown_order[0]] == ("violent",)


def test_ratings_by_mouse_are_kept_in_the_draft_and_changed_in_history(either, browse):
    name, batch = either.person(), either.batch(("x", "y"), kind="rate", asks=Asks(scale=10))
    page = browse(either, name)
    open_batch(page, either, batch)
    said = letters(page)
    page.locator("[data-answer='1'] .rating input[value='10']").click()
    expect(page.locator(".saved")).to_have_text("Draft saved")
    page.context.close()
    page = browse(either, name)
    open_batch(page, either, batch)
    assert letters(page) == said
    expect(page.locator("[data-answer='1']")).to_contain_text("Rated 10")
    press(page, "6", "Enter")  # the one without a rating has the focus
    (first,) = wait_for_answers(either, page, name, 1)
    assert stored_ratings(either, name) == {said["A"]: 6, said["B"]: 10}
    page.goto(either.url + "/label/history")
    expect(page.locator(".history li").first).to_contain_text("A 6 · B 10")
    page.click(".history a")
    page.wait_for_selector(".banner")
    press(page, "0")  # 10
    page.locator(".submit").click()
    page.wait_for_url("**/history")
    (past,) = history(either.database, name)
    assert past.versions == 2 and stored_ratings(either, name) == {said["A"]: 10, said["B"]: 10}
    assert past_answer(either.database, name, first.id).ratings == first.ratings


@pytest.mark.parametrize("scale", [7, 10])
def test_touch_on_a_phone_rates_and_nothing_is_wider_than_the_screen(world, browse, scale):
    asks = Asks(scale=scale, flags=FLAGS)
    name, batch = world.person(), world.batch(("x", "y", "z"), kind="rate", asks=asks)
    page = browse(world, name, viewport={"width": 375, "height": 720}, has_touch=True, is_mobile=True)
    open_batch(page, world, batch)
    said = letters(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    for place, rating in enumerate((2, scale, 5)):
        page.locator(f"[data-answer='{place}'] .rating input[value='{rating}']").tap()
    page.locator(".submit").tap()
    wait_for_answers(world, page, name, 1)
    assert stored_ratings(world, name) == {said["A"]: 2, said["B"]: scale, said["C"]: 5}


def test_a_lead_sees_whose_ratings_are_apart_and_rates_over_them(world, browse):
    batch = world.batch(("x",), kind="rate", num_tasks=1, overlap=2)
    people = [world.person("ann"), world.person("ben")]
    for name, rating in zip(people, (7, 1), strict=True):
        task = world.store.lease(name, batch)
        said = {"task_id": task.id, "client_id": name, "kind": "rate", "ratings": (rating,)}
        world.store.submit(name, Submission(**said, shown_order=task.shown_order))
    page = browse(world, world.person("lea", "lead"))
    page.goto(f"{world.url}/adjudicate?batch={batch}")
    expect(page.locator(".given caption")).to_have_text("What labelers said (ratings)")
    assert page.locator(".given td").all_inner_texts() == ["7", "", "1", ""]
    page.locator("#submit").click()
    expect(page.locator("#toast")).to_contain_text("Not rated yet: A")
    page.locator(".card").click()
    press(page, "6")
    page.fill("#comment", "right but rude")
    page.locator("#submit").click()
    page.get_by_text("adjudicated before").or_(page.get_by_text("No more disagreements")).first.wait_for()
    page = browse(world, people[1])
    page.goto(world.url + "/label/history")
    expect(page.locator(".overruled")).to_contain_text("A 6")


def test_more_of_the_history_comes_once_however_often_it_is_asked_for(either, browse):
    name, batch = either.person(), either.batch(num_tasks=35, completions=("a", "b"))
    for _ in range(35):
        answer(either, name, batch, (0, 1))
    page = browse(either, name)
    page.goto(f"{either.url}/label/history")
    rows = page.locator(".history li")
    expect(rows).to_have_count(30)
    page.evaluate(
        "const more = [...document.querySelectorAll('button')].find((b) => b.textContent === 'Show more'); more.click(); more.click()"
    )
    expect(rows).to_have_count(35)
    page.wait_for_load_state("networkidle")
    assert (
        rows.count() == 35
        and len(set(page.locator(".history a").evaluate_all("links => links.map((a) => a.href)"))) == 35
    )
    page.reload()
    expect(rows).to_have_count(30)
    page.route("**/api/history?*", lambda route: route.abort())
    page.get_by_role("button", name="Show more").click()
    expect(page.locator("#problem")).to_be_visible()
