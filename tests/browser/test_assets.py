"""Scripts and styles: asked for at once, kept by the browser, and fetched anew when they change."""

import shutil

import pytest

from annotate.app import assets

SCRIPTS = """() => performance.getEntriesByType("resource").filter(entry => entry.name.includes("/static/"))
    .map(entry => [entry.name, entry.transferSize])"""


def test_a_page_asks_for_all_its_scripts_at_once_and_never_again(world, browse):
    page = browse(world, world.person())
    page.goto(world.url + "/label/history")
    page.wait_for_selector(".history")
    asked = {
        page.url.replace("/label/history", "") + assets.static_address() + f"/{name}"
        for name in assets.script_modules("site.js")
    }
    ours = "link[rel=modulepreload][href*='/static/']"  # Gradio asks for its own
    head = set(page.eval_on_selector_all(ours, "links => links.map(link => link.href)"))
    loaded = page.evaluate(SCRIPTS)
    assert (
        head
        == asked
        == {name for name, _ in loaded if name.endswith(".js")}
        - {f"{world.url}{assets.static_address()}/theme.js"}
    )
    assert all(size > 0 for _, size in loaded)
    page.goto(world.url + "/label/tasks")
    page.wait_for_selector("#main h1")
    assert all(size == 0 for _, size in page.evaluate(SCRIPTS))  # from the browser's own store


@pytest.fixture
def rooms(tmp_path, monkeypatch):
    """A copy of the rooms' files that may change."""
    for room in ("app", "chat"):
        shutil.copytree(assets.ROOMS / room / "static", tmp_path / room / "static")
    shutil.copytree(assets.ROOMS / assets.BOARD, tmp_path / assets.BOARD)
    monkeypatch.setattr(assets, "ROOMS", tmp_path)
    yield tmp_path
    assets.static_address.cache_clear()


def test_the_address_changes_with_any_file_of_any_room(rooms):
    def address():
        assets.static_address.cache_clear()
        return assets.static_address()

    seen = [address(), address()]
    assert seen[0] == seen[1]
    for file in ("app/static/work.js", f"{assets.BOARD}/strip.js", "chat/static/chat.css"):
        with (rooms / file).open("a") as text:
            text.write("\n")
        seen.append(address())
    (rooms / "chat/static/tree.js").rename(rooms / "chat/static/trees.js")
    seen.append(address())
    assert len(set(seen)) == 5
