"""Two answers, blind comparison, demonstrations, languages, guidelines: each by keyboard and by mouse."""

from playwright.sync_api import expect

from annotate.app.texts import languages, texts
from annotate.work.asks import Asks
from annotate.work.batches import NewTask
from annotate.work.history import history


def open_batch(page, world, batch):
    page.goto(f"{world.url}/label/?batch={batch}")
    page.wait_for_selector(".foot")


def only_answer(world, page, name):
    page.locator("#toast", has_text="Saved").wait_for()
    (past,) = history(world.database, name)
    return past


def test_two_answers_get_a_strength_by_keyboard(either, browse):
    name, batch = either.person(), either.batch(("x", "y"), asks=Asks(strength=True))
    page = browse(either, name)
    open_batch(page, either, batch)
    first = page.locator(".card .formatted").first.inner_text()
    page.keyboard.press("Enter")  # nothing is chosen yet
    expect(page.locator("#toast")).to_contain_text("Say first")
    for key in ("ArrowRight", "ArrowLeft", "ArrowLeft", "ArrowLeft", "u", "Enter"):
        page.keyboard.press(key)
    past = only_answer(either, page, name)
    assert past.strength == 2 and past.task.completions[past.ranks.index(0)] == first


def test_a_blind_comparison_keeps_which_checkpoint_won(either, browse):
    name = either.person()
    batch = either.batch()
    tasks = [NewTask(prompt="which?", completions=("from sft", "from ppo"), checkpoints=("sft/1", "ppo/1"))]
    either.store.add_batch(batch + "-ab", tasks, kind="compare")
    page = browse(either, name)
    open_batch(page, either, batch + "-ab")
    assert "ppo/1" not in page.content()
    better = "1" if page.locator(".card .formatted").first.inner_text() == "from ppo" else "2"
    page.keyboard.press(better)
    page.keyboard.press("Enter")
    assert only_answer(either, page, name).verdict == "b"  # the answer stored second


def test_a_tie_and_both_bad_by_mouse(world, browse):
    for words, verdict in (("Equally good", "tie"), ("Both bad", "both_bad")):
        name, batch = world.person(), world.batch(("x", "y"), kind="compare")
        page = browse(world, name)
        open_batch(page, world, batch)
        page.get_by_role("button", name=words).click()
        page.click(".submit")
        assert only_answer(world, page, name).verdict == verdict


def test_a_model_answer_is_edited_into_a_demonstration(either, browse):
    name, batch = either.person(), either.batch(("**draft** ${1}",), kind="demonstrate", num_tasks=1)
    page = browse(either, name)
    open_batch(page, either, batch)
    page.get_by_role("button", name="Start from this answer").click()
    expect(page.locator(".demonstration")).to_have_value("**draft** ${1}")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#toast")).to_contain_text("not changed")
    page.locator(".demonstration").press("End")
    page.keyboard.type(" better")
    page.keyboard.press("Enter")  # a line of the text, not a submission
    page.keyboard.type("two")
    asked = []
    page.once("dialog", lambda dialog: (asked.append(dialog.message), dialog.dismiss()))
    page.get_by_role("button", name="Start from this answer").click()  # would replace what is written
    assert len(asked) == 1 and "Replace" in asked[0]
    page.locator(".demonstration").press("Control+Enter")
    assert only_answer(either, page, name).demonstration == "**draft** ${1} better\ntwo"
    expect(page.locator(".nothing h1")).to_have_text("All done here. Thank you!")


def test_guidelines_open_once_by_themselves_and_then_by_one_key(world, browse):
    name, batch = (
        world.person(),
        world.batch(guidelines="# Rules\n\nBe **fair** <img src=x onerror=alert(1)>"),
    )
    page = browse(world, name)
    open_batch(page, world, batch)
    expect(page.locator("dialog h3")).to_have_text("Rules")
    assert page.locator("dialog img").count() == 0
    page.keyboard.press("Enter")
    page.keyboard.press("1")
    expect(page.locator(".card").first).to_contain_text("Rank 1")
    page.keyboard.press("g")
    expect(page.locator("dialog")).to_contain_text("Be fair")
    page.keyboard.press("g")
    expect(page.locator("dialog")).to_have_count(0)
    page.keyboard.press("?")
    expect(page.locator("dialog kbd").first).to_be_visible()
    page.keyboard.press("Escape")
    page.reload()
    page.wait_for_selector(".foot")
    assert page.locator("dialog").count() == 0


def test_the_pages_speak_japanese_where_the_browser_does_or_where_it_is_chosen(world, browse):
    name, batch = world.person(), world.batch()
    page = browse(world, name, locale="ja-JP")
    open_batch(page, world, batch)
    assert page.locator("html").get_attribute("lang") == "ja"
    expect(page.locator(".submit")).to_contain_text("送信")
    page.locator(".menu summary").click()
    with page.expect_navigation():
        page.select_option("#language", "en")
    expect(page.locator(".submit")).to_contain_text("Submit")


def test_every_language_has_the_same_texts_with_the_same_blanks():
    def blanks(text):
        return sorted(part.split("}")[0] for part in text.split("{")[1:])

    english = texts("en")
    assert len(languages()) >= 2
    for code in languages():
        other = texts(code)
        assert {section: set(names) for section, names in other.items()} == {
            section: set(names) for section, names in english.items()
        }
        for section, names in english.items():
            for key, text in names.items():
                assert other[section][key].strip() and blanks(other[section][key]) == blanks(text), (
                    code,
                    section,
                    key,
                )
