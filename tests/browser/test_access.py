"""The pages for who cannot see them or uses no mouse: every control has a name, every focus can be seen, axe-core is content."""

import sys
from pathlib import Path

import pytest

from annotate.work.asks import FLAGS, Asks
from tests.browser.conftest import answer
from tests.conftest import missing

AXE = Path(sys.prefix) / "axe/node_modules/axe-core/axe.min.js"  # tests/prepare puts it there
WIDTHS = (1280, 390)

CONTROLS = frozenset({"button", "link", "textbox", "radio", "checkbox", "combobox", "article", "dialog"})
# The focus shows as an outline (a ring for the current answer) of the element or, for boxes that a label draws, of what
# stands beside it.
OUTLINED = """() => [document.activeElement, document.activeElement.nextElementSibling].filter(Boolean).some((element) => {
    const { outlineStyle, outlineWidth, boxShadow } = getComputedStyle(element);
    const ring = element.matches(".card.current:focus") && boxShadow !== "none";
    return ring || (outlineStyle !== "none" && parseFloat(outlineWidth) > 0);
})"""


def nameless(page):
    """Roles of controls that a screen reader has no name for."""
    tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    shown = [
        (node["role"]["value"], node.get("name", {}).get("value", "")) for node in tree if not node["ignored"]
    ]
    assert any(role in CONTROLS for role, _ in shown)
    return [role for role, name in shown if role in CONTROLS and not name.strip()]


@pytest.fixture
def pages(world, browse):
    """(page, what it is) of each kind that a labeler or a lead meets, Gradio's aside."""

    def each():
        asks = Asks(ratings=True, flags=FLAGS, none_acceptable=True, strength=True)
        name = world.person()
        page = browse(world)
        page.goto(world.url + "/login")
        yield page, "login"
        page = browse(world, name)
        for settings in (
            {"completions": ("a", "b", "c"), "guidelines": "Be fair."},
            {"completions": ("a", "b"), "kind": "compare"},
            {"completions": ("a", "b", "c"), "kind": "rate"},
            {"completions": ("draft",), "kind": "demonstrate"},
        ):
            rated = Asks(scale=10, flags=FLAGS)
            batch = world.batch(asks=rated if settings.get("kind") == "rate" else asks, **settings)
            page.goto(f"{world.url}/label/?batch={batch}")
            page.wait_for_selector(".foot")
            if "guidelines" in settings:
                yield page, "guidelines"
                page.keyboard.press("Enter")
            yield page, settings.get("kind", "rank")
            page.keyboard.press("s")
            page.wait_for_selector("#board:not(.sending) > *")
        page.goto(world.url + "/label/tasks")
        page.wait_for_selector(".batch")
        yield page, "tasks"
        page.goto(world.url + "/label/history")
        page.wait_for_selector(".history")
        yield page, "history"
        answer(world, name, batch := world.batch(), (0, 1, 2, 3))
        page = browse(world, world.person("lea", "lead"))
        page.goto(world.url + "/lead")
        page.wait_for_selector("#batches")
        yield page, "batches"
        page.goto(f"{world.url}/lead/dashboard?batch={batch}")
        page.wait_for_selector(".figure")
        yield page, "dashboard"
        answer(world, world.person("ben"), batch, (3, 2, 1, 0))
        page.goto(f"{world.url}/lead/review?batch={batch}")
        page.wait_for_selector(".given, .nothing")
        yield page, "review"
        for form in ("new", "settings", "export", "people"):
            page.goto(f"{world.url}/lead/{form}")
            page.wait_for_selector(".gradio-container h1")
            page.locator(".loading").wait_for(state="hidden")
            page.wait_for_load_state("networkidle")
            page.wait_for_function(
                "!document.querySelector('.pending')"
            )  # faded while its content is on the way
            yield page, f"form {form}"

    return each


def test_every_control_has_a_name_and_every_focus_is_seen(pages):
    for page, kind in pages():
        if kind.startswith("form"):
            break  # Gradio's fields show their focus in ways of their own
        assert nameless(page) == [], kind
        for stop in range(8):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement !== document.body"):
                assert page.evaluate(OUTLINED), (
                    kind,
                    stop,
                    page.evaluate("document.activeElement.outerHTML"),
                )


@pytest.fixture(scope="module")
def axe():
    """axe-core's script, without the network."""
    if not AXE.exists():
        missing("axe-core")
    return AXE.read_text()


def violations(page, axe):
    """What axe-core finds wrong with a page, a line each: the rule, and where."""
    if not page.evaluate("typeof axe !== 'undefined'"):
        page.evaluate(f"() => {{ {axe} }}")
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    return [
        f"{one['id']}: {node['target']} {node['html'][:150]}"
        for one in found
        for node in one["nodes"]
        if not (
            one["id"] == "label-content-name-mismatch" and "upload-container" in node["html"]
        )  # Gradio's own
    ]


def test_axe_finds_nothing_at_desk_and_phone_width(pages, axe):
    problems = [
        f"{kind} at {width}: {problem}"
        for page, kind in pages()
        for width in WIDTHS
        for problem in (page.set_viewport_size({"width": width, "height": 800}), *violations(page, axe))[1:]
    ]
    assert not problems, "\n".join(problems)
