"""Hostile text on every page that shows any: it is seen, and it does nothing."""

import pytest
from playwright.sync_api import expect

from annotate.app.rendering import FOLD_AT, rendered, visible, visible_text
from annotate.work.batches import NewTask
from annotate.work.history import history

HOSTILE = (
    "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'><svg/onload=window.hacked=3>",
    "${window.hacked = 4} {{window.hacked = 5}} #{7*7} <%= 1 %> `${8}`",
    "[click](javascript:window.hacked=6) [out](https://evil.example/a) ![pixel](https://evil.example/p.png)"
    " <https://evil.example/b> <a href='https://evil.example'>c</a>",
    "safe \u202egnp.exe\u202c \u2066x\u2069 zero\u200bwidth \ufeff tag\U000e0041\U000e0042 bell\x07",
    "| a | b |\n|-|-|\n| `<b>` | **c** |\n\n```html\n</code></pre><script>window.hacked=9</script>\n```\n"
    + "> " * 300,
    "x" * 1_000_000,
)


def quiet(page):
    """No script ran, no element came out of a text, no link leads anywhere else."""
    assert page.evaluate("window.hacked === undefined")
    for place in (".shell #main", ".gradio #main .rlhf", "dialog"):
        assert page.locator(f"{place} :is(script, img, svg, iframe, form)").count() == 0
    for link in page.locator("a").all():
        assert "evil" not in (link.get_attribute("href") or "")


def test_hostile_prompts_answers_names_and_guidelines_are_only_text(either, browse):
    name = either.person("<img src=x onerror=window.hacked=10> ${1} ")
    lead = either.person("lea", "lead")
    batch = either.batch() + " <b>${7*7}</b>{{9}}'\"/../?#& \u202egpj"
    turns = [{"role": "user", "content": text} for text in HOSTILE[:5]]
    task = NewTask(prompt=turns, completions=HOSTILE)
    either.store.add_batch(batch, [task], guidelines="\n\n".join(HOSTILE[:4]))
    page = browse(either, name)
    page.goto(either.url)
    page.locator(".batch", has_text=batch).locator("a").click()
    page.wait_for_selector("dialog")
    quiet(page)
    page.keyboard.press("Escape")
    quiet(page)
    text = page.locator("#board").inner_text()
    for seen in (
        "<script>window.hacked = 1</script>",
        "${window.hacked = 4}",
        "{{window.hacked = 5}}",
        "U+202E",
        "U+E0041",
    ):
        assert seen in text
    page.keyboard.press("v")
    quiet(page)
    folded = page.get_by_role("button", name="Show all 1,000,000 characters")
    assert len(text) < 100_000
    folded.click()
    expect(page.locator(".whole")).to_have_text("x" * 1_000_000)
    for key in ("1", "2", "3", "4", "5", "6", "c"):
        page.keyboard.press(key)
    page.keyboard.insert_text(HOSTILE[0])
    page.keyboard.press("Control+Enter")
    expect(page.locator("#toast")).to_contain_text("Saved")
    stored = history(either.database, name)[0]
    assert set(stored.task.completions) <= set(HOSTILE) and stored.comment == HOSTILE[0]
    page.goto(either.url + "/label/history")
    page.wait_for_selector(".history li")
    quiet(page)
    page = browse(either, lead)
    page.goto(either.url + "/lead")
    row = page.locator("#batches tr", has_text=batch[: batch.index("\u202e")])
    expect(row).to_contain_text("U+202E")
    quiet(page)
    row.get_by_role("link", name="Dashboard").click()
    expect(page.locator("#figures")).to_contain_text(name.strip())
    expect(page.locator("#dashboard-batch input")).to_have_value(visible_text(batch))
    assert page.evaluate("window.hacked === undefined")
    assert page.locator("#batches b, #dashboard-batch b, #figures img[onerror]").count() == 0
    page.goto(either.url + "/lead/people")
    expect(page.locator("#people")).to_contain_text(name.strip())
    assert page.evaluate("window.hacked === undefined")
    assert page.locator("#people img").count() == 0


NESTED = ("*a " * 1500 + "b* " * 1500, "**a *" * 700 + "b* c**" * 700, "~~a *" * 750 + "b" + "*~~" * 750)


@pytest.mark.parametrize("text", NESTED)
def test_marks_in_marks_in_marks_are_shown_as_they_are(text):
    (shown,) = rendered(text)["nodes"]
    assert shown == ["pre", ["code", text[:FOLD_AT]]]


def test_an_answer_of_1500_nested_marks_stops_nobody(world, browse):
    name, batch = world.person(), world.batch(completions=(NESTED[0], "> " * 1500 + "x", "fine"), num_tasks=2)
    page = browse(world, name)
    page.goto(f"{world.url}/label/?batch={batch}")
    for number in (1, 2):
        page.wait_for_selector("#board:not(.sending) .card")
        expect(page.locator(".card pre").first).to_contain_text("*a *a")
        for key in ("1", "2", "3", "Enter"):
            page.keyboard.press(key)
        expect(page.locator("#progress")).to_contain_text(f"{number} by you")
    assert len(history(world.database, name)) == 2


@pytest.mark.parametrize(
    "text", ["", "\n", "a\r\nb", "\x00", "]](((", "[" * 3000, "*" * 5000, "`" * 999, "- " * 2000]
)
def test_odd_markdown_is_shown_in_no_time(text):
    shown = rendered(text)
    assert shown["chars"] == len(text)
    assert "\x00" not in str(shown["nodes"]) and "\x00" not in str(visible(text))
