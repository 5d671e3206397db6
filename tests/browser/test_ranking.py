"""Ranking in a real browser: by keyboard, by mouse, by touch; with ties, drafts and edits."""

import time

import pytest
from playwright.sync_api import expect

from annotate.work.asks import FLAGS, Asks
from annotate.work.history import history, past_answer
from tests.browser.conftest import PASSWORD, PATIENCE_MS


def open_batch(page, world, batch):
    page.goto(f"{world.url}/label/?batch={batch}")
    page.wait_for_selector(".foot")


def letters(page):
    """What each card says, by letter."""
    return dict(zip("ABCDEFGHI", page.locator(".card .formatted").all_inner_texts(), strict=False))


def press(page, *keys):
    for key in keys:
        page.keyboard.press(key)


def stored_ranks(world, name):
    """The newest answer as {text: rank}."""
    past = history(world.database, name)[0]
    return dict(zip(past.task.completions, past.ranks, strict=True))


def wait_for_answers(world, page, name, count):
    deadline = time.monotonic() + PATIENCE_MS / 1000
    while len(found := history(world.database, name)) != count:
        assert time.monotonic() < deadline, f"{len(found)} answers, not {count}"
        page.wait_for_timeout(25)
    return found


def test_four_answers_are_ranked_with_five_keys(both, browse):
    name, batch = both.person(), both.batch()
    page = browse(both, name)
    open_batch(page, both, batch)
    said = letters(page)
    press(page, "3", "1", "4", "2", "Enter")
    (past,) = wait_for_answers(both, page, name, 1)
    ranks = dict(zip(past.task.completions, past.ranks, strict=True))
    assert ranks == {said["A"]: 2, said["B"]: 0, said["C"]: 3, said["D"]: 1}
    assert [past.task.completions[place] for place in past.shown_order] == list(said.values())
    assert 0 < past.time_s < 60


def test_from_the_log_in_page_to_the_first_submitted_task_by_keyboard_alone(world, browse):
    name, batch = world.person(), world.batch(guidelines="Be fair.")
    page = browse(world)
    page.goto(world.url)
    page.wait_for_selector("[name=name]:focus")
    page.keyboard.type(name)
    page.keyboard.press("Tab")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    start = page.get_by_role("link", name=f"Start: {batch}")
    start.wait_for()  # on an app with one batch it has the focus already
    start.focus()
    page.keyboard.press("Enter")
    page.locator("dialog").wait_for()
    press(page, "Enter", "1", "2", "3", "4", "Enter")
    wait_for_answers(world, page, name, 1)


def test_ties_by_digit_and_by_equals_sign_and_moves_by_arrow(world, browse):
    name, batch = world.person(), world.batch()
    page = browse(world, name)
    open_batch(page, world, batch)
    said = letters(page)
    press(page, "1", "2", "=", "2")  # A 1, B 2, C tied with B, D 2 as well
    press(page, "ArrowUp")  # D leaves the tie, upwards
    press(page, "ArrowLeft", "ArrowDown")  # C leaves it downwards
    press(page, "u", "Enter")  # … and is put back
    wait_for_answers(world, page, name, 1)
    assert stored_ranks(world, name) == {said["A"]: 0, said["D"]: 1, said["B"]: 2, said["C"]: 2}


def test_mouse_drag_orders_and_ties(world, browse):
    name, batch = world.person(), world.batch()
    page = browse(world, name)
    open_batch(page, world, batch)
    said = letters(page)

    def drag(source, target):
        page.locator(f"[data-chip='{'ABCD'.index(source)}']").hover()
        page.mouse.down()
        box = page.locator(target).bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=4)
        page.mouse.up()

    drag("C", ".gap.last")
    drag("A", ".gap.last")
    drag("B", "[data-gap='0']")
    drag("D", "[data-join='2']")
    page.click(".submit")
    wait_for_answers(world, page, name, 1)
    assert stored_ranks(world, name) == {said["B"]: 0, said["C"]: 1, said["D"]: 1, said["A"]: 2}


def test_touch_on_a_phone_ranks_and_nothing_is_wider_than_the_screen(world, browse):
    name, batch = world.person(), world.batch(asks=Asks(ratings=True, flags=FLAGS, none_acceptable=True))
    page = browse(world, name, viewport={"width": 375, "height": 720}, has_touch=True, is_mobile=True)
    open_batch(page, world, batch)
    said = letters(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    for letter, rank in zip("ABCD", (2, 2, 1, 3), strict=True):
        page.locator(f"[data-answer='{'ABCD'.index(letter)}'] [data-rank='{rank}']").tap()
    page.locator(".submit").tap()
    wait_for_answers(world, page, name, 1)
    assert stored_ranks(world, name) == {said["A"]: 1, said["B"]: 1, said["C"]: 0, said["D"]: 2}


def test_the_order_and_the_foot_stay_in_sight_of_long_answers(world, browse):
    name, batch = world.person(), world.batch(completions=[f"{i} " + "word " * 3000 for i in range(4)])
    page = browse(world, name)
    open_batch(page, world, batch)
    for end in ("0", "document.documentElement.scrollHeight"):
        page.evaluate(f"window.scrollTo(0, {end})")
        expect(page.locator(".submit")).to_be_in_viewport()
    page.evaluate("window.scrollTo(0, document.documentElement.scrollHeight / 2)")
    expect(page.locator(".strip")).to_be_in_viewport()
    expect(page.locator(".submit")).to_be_in_viewport()


def test_untouched_order_is_asked_about_once(world, browse):
    name, batch = world.person(), world.batch()
    page = browse(world, name)
    open_batch(page, world, batch)
    said = letters(page)
    press(page, "Enter")
    expect(page.locator("#toast")).to_contain_text("not ranked anything")
    assert history(world.database, name) == []
    press(page, "Enter")
    wait_for_answers(world, page, name, 1)
    assert stored_ranks(world, name) == {said[letter]: i for i, letter in enumerate("ABCD")}


def test_ratings_flags_none_acceptable_and_comment_by_keyboard(either, browse):
    asks = Asks(ratings=True, flags=("made_up", "violent"), none_acceptable=True)
    name, batch = either.person(), either.batch(asks=asks)
    page = browse(either, name)
    open_batch(page, either, batch)
    press(page, "Shift+Digit6", "f", "ArrowDown", "Space", "Escape", "1", "2", "3", "4", "n", "c")
    page.keyboard.type("what a 1?")
    press(page, "Control+Enter")
    (past,) = wait_for_answers(either, page, name, 1)
    first = past.shown_order[0]
    assert (past.ratings[first], past.flags[first]) == (6, ("violent",))
    assert past.none_acceptable and past.comment == "what a 1?" and past.ranks[first] == 0


@pytest.mark.parametrize(
    ("size", "kind", "verdict"), [(3, "rank", None), (2, "rank", None), (2, "compare", "both_bad")]
)
def test_what_is_said_of_answers_is_kept_where_none_is_acceptable(world, browse, size, kind, verdict):
    asks = Asks(ratings=True, flags=("made_up", "violent"), none_acceptable=True)
    name = world.person()
    batch = world.batch(asks=asks, completions=[f"answer {i}" for i in range(size)], kind=kind)
    page = browse(world, name)
    open_batch(page, world, batch)
    press(page, "Shift+Digit2", "f", "ArrowDown", "Space", "Escape", "n", "Enter")
    (past,) = wait_for_answers(world, page, name, 1)
    first = past.shown_order[0]
    assert (past.ratings[first], past.flags[first], past.none_acceptable) == (2, ("violent",), True)
    assert (past.ranks, past.verdict) == ((0, 0) if verdict else (), verdict)


def test_a_closed_browser_goes_on_where_it_was(either, browse):
    name, batch = either.person(), either.batch()
    page = browse(either, name)
    open_batch(page, either, batch)
    said = letters(page)
    press(page, "2", "1", "c")
    page.keyboard.type("half a thou")
    expect(page.locator(".saved")).to_have_text("Draft saved")
    page.context.close()
    page = browse(either, name)
    open_batch(page, either, batch)
    assert letters(page) == said and page.input_value(".comment textarea") == "half a thou"
    press(page, "3", "4", "Enter")
    wait_for_answers(either, page, name, 1)
    assert stored_ranks(either, name) == {said["B"]: 0, said["A"]: 1, said["C"]: 2, said["D"]: 3}


def test_a_past_answer_is_changed_and_the_earlier_one_stays(either, browse):
    name, batch = either.person(), either.batch()
    page = browse(either, name)
    open_batch(page, either, batch)
    press(page, "1", "2", "3", "4", "Enter")
    (first,) = wait_for_answers(either, page, name, 1)
    with either.database.write() as connection:  # a minute went into it
        connection.exec_driver_sql(f"UPDATE annotation SET time_s = 60 WHERE id = {first.id}")
    page.goto(either.url + "/label/history")
    page.click(".history a")
    page.wait_for_selector(".banner")
    said = letters(page)
    press(page, "4", "Enter")
    page.wait_for_url("**/history")
    (past,) = history(either.database, name)
    assert past.id != first.id and past.versions == 2 and past.time_s > 60
    assert dict(zip(past.task.completions, past.ranks, strict=True))[said["A"]] == max(past.ranks)
    assert past_answer(either.database, name, first.id).ranks == first.ranks


def test_undo_on_a_fresh_task_reopens_the_last_answer_and_skip_is_kept(world, browse):
    name, batch = world.person(), world.batch()
    page = browse(world, name)
    open_batch(page, world, batch)
    press(page, "s")
    (past,) = wait_for_answers(world, page, name, 1)
    assert past.kind == "skip"
    expect(page.locator("#toast")).to_contain_text("Skipped")
    page.wait_for_selector("#board:not(.sending)")
    press(page, "u")
    page.wait_for_selector(".banner")
    press(page, "1", "2", "3", "4", "Enter")
    page.wait_for_url("**/history")
    (past,) = history(world.database, name)
    assert past.kind == "rank" and past.versions == 2


def test_keys_that_come_before_the_last_answer_is_open_again_change_no_other(world, browse):
    name, batch = world.person(), world.batch(num_tasks=3)
    page = browse(world, name)
    open_batch(page, world, batch)
    press(page, "1", "2", "3", "4", "Enter")
    wait_for_answers(world, page, name, 1)
    page.wait_for_selector("#board:not(.sending)")

    def slowly(route):
        press(page, "4", "3", "2", "1", "Enter", "s")  # a quick hand
        route.continue_()

    page.route("**/api/history/*", slowly)
    press(page, "u")
    page.wait_for_selector(".banner")
    page.wait_for_selector("#board:not(.sending)")
    (past,) = history(world.database, name)
    assert past.versions == 1
    press(page, "4", "3", "2", "1", "Enter")
    page.wait_for_url("**/history")
    (past,) = history(world.database, name)
    assert past.versions == 2


def test_two_tabs_double_click_and_back_button_make_one_annotation(both, browse):
    name, batch = both.person(), both.batch(num_tasks=1)
    first = browse(both, name)
    open_batch(first, both, batch)
    second = first.context.new_page()
    open_batch(second, both, batch)
    press(first, "1", "2", "3", "4")
    press(second, "4", "3", "2", "1")
    first.dblclick(".submit")
    (kept,) = wait_for_answers(both, first, name, 1)
    press(second, "Enter")
    expect(second.locator("#problem")).to_contain_text("in another window meanwhile")
    first.goto(both.url + "/")
    first.go_back()
    first.wait_for_selector("#board > *")
    assert [past.id for past in history(both.database, name)] == [kept.id]
    assert kept.versions == 1
    press(second, "Enter")  # the other order was not dropped: sent once more it is a version of its own
    expect(second.locator("#toast")).to_contain_text("Saved")
    (changed,) = history(both.database, name)
    assert changed.versions == 2 and changed.ranks == tuple(3 - rank for rank in kept.ranks)


@pytest.mark.parametrize("size", [3, 9])
def test_all_sizes_are_ranked_by_digits(world, browse, size):
    name, batch = world.person(), world.batch(completions=[f"answer {i}" for i in range(size)])
    page = browse(world, name)
    open_batch(page, world, batch)
    said = letters(page)
    press(page, *(str(size - i) for i in range(size)), "Enter")
    wait_for_answers(world, page, name, 1)
    assert stored_ranks(world, name) == {text: size - 1 - i for i, text in enumerate(said.values())}


def test_keys_meant_for_the_next_task_change_nothing_while_an_answer_is_on_its_way(world, browse):
    name, batch = world.person(), world.batch(num_tasks=2)
    page = browse(world, name)
    open_batch(page, world, batch)
    arrived = []

    def slowly(route):
        press(page, "4", "4", "u", "Enter", "s")  # a quick hand
        arrived.append(route.request.post_data_json["ranks"])
        route.continue_()

    page.route("**/answers", slowly)
    press(page, "1", "2", "3", "4", "Enter")
    page.wait_for_selector("#board:not(.sending)")
    wait_for_answers(world, page, name, 1)
    assert arrived == [[0, 1, 2, 3]]
    page.wait_for_selector("#board:not(.sending) .foot")
    expect(page.locator(".card", has_text="Rank")).to_have_count(0)


def test_progress_follows_every_answer_and_is_right_when_nothing_is_left(world, browse):
    name, batch = world.person(), world.batch(num_tasks=3)
    page = browse(world, name)
    asked = []
    page.on("request", lambda request: asked.append(request.url) if "/api/progress" in request.url else None)
    # The page asks anew only every 15 seconds: here, where that is a lifetime, what shows is the page's own counting.
    page.add_init_script(
        "const now = performance.now; performance.now = function () { return now.call(this) / 1000; };"
    )
    open_batch(page, world, batch)
    progress = page.locator("#progress")
    expect(progress).to_contain_text("0 by you, 0 today")
    for number in (1, 2):
        press(page, "3", "1", "4", "2", "Enter")
        expect(progress).to_contain_text(f"{number} by you, {number} today")
        expect(page.locator(".sending")).to_have_count(
            0
        )  # keys before the next task is there count for nothing
    assert len(asked) == 1
    press(page, "s")
    wait_for_answers(world, page, name, 3)
    expect(page.locator(".nothing")).to_be_visible()
    expect(progress).to_contain_text("2 by you, 2 today")  # a skipped task is no answer
    expect(progress).to_contain_text("batch 2 of 3")
    assert len(asked) == 2
