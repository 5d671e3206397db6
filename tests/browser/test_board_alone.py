"""The ranking board in somebody's own Gradio page, without the labeling app: examples/ranking_board.py in Chromium."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import ROOT


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """The address of a page that a script of Gradio's serves."""
    started = []

    def serve(script):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        environment = os.environ | {
            "GRADIO_SERVER_PORT": str(port), "GRADIO_ANALYTICS_ENABLED": "False", "PYTHONPATH": str(ROOT),
            "GRADIO_TEMP_DIR": str(tmp_path_factory.mktemp("uploads")),
        }  # fmt: skip
        started.append(
            subprocess.Popen([sys.executable, script], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
        )
        for _ in range(1200):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=20)
                return f"http://127.0.0.1:{port}"
            except OSError:
                assert started[-1].poll() is None
                time.sleep(0.1)
        raise AssertionError("the example did not start")

    yield serve
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def opened(chromium):
    contexts = []

    def page(url, **options):
        contexts.append(chromium.new_context(**options))
        page = contexts[-1].new_page()
        page.goto(url)
        page.wait_for_selector(".ranking-board .card")
        return page

    yield page
    for context in contexts:
        context.close()


HEAD = """import json
import gradio as gr
from annotate.app.components.ranking_board import RankingBoard
from annotate.work.asks import Asks

def told(answer, event=None):
    return json.dumps(answer)
"""
PAGE = """
with gr.Blocks() as page:
    gr.Textbox(label="Somebody's own field")
    board = RankingBoard({"prompt": "q", "completions": ["<b>one</b>", "two", "x" * 9000]},
                         asks=Asks(ratings=True, none_acceptable=True))
    sent, seen = gr.Textbox(label="sent"), gr.Textbox(label="seen")
    board.submit(told, board, sent)
    board.select(told, board, seen)
    gr.Button("Another").click(lambda: {"prompt": "p", "completions": ["a", "b"]}, None, board)
page.launch()
"""


def test_the_example_of_the_docs_ranks_four_answers(example, opened):
    page = opened(example("examples/ranking_board.py"))
    page.locator(".card").first.click()
    for key in ("2", "1", "3", "3", "Enter"):
        page.keyboard.press(key)
    expect(page.locator(".gradio-container")).to_contain_text("ranks")
    expect(page.locator(".gradio-container")).to_contain_text("Name a planet.")


def test_values_go_in_and_answers_come_out_and_keys_stay_with_the_board(example, opened, tmp_path):
    (tmp_path / "page.py").write_text(HEAD + PAGE)
    page = opened(example(tmp_path / "page.py"))
    sent, seen = page.get_by_label("sent"), page.get_by_label("seen")
    assert page.locator(".card b").count() == 0
    assert page.locator(".card .formatted").first.inner_text() == "<b>one</b>"
    page.get_by_label("Somebody's own field").fill("1")
    page.locator("body").click(position={"x": 2, "y": 2})
    page.keyboard.press("1")  # nobody is at the board
    expect(page.locator(".ranking-board .tray .chip")).to_have_count(3)
    page.get_by_role("button", name="Show all 9,000 characters").click()
    expect(page.locator(".whole")).to_have_text("x" * 9000)
    page.locator(".card").first.click()
    page.keyboard.press("2")
    expect(seen).to_have_value(re.compile(r'"ranks": \[1, null, null\]'))
    for key in ("u", "2", "1", "3", "ArrowRight", "Shift+Digit6", "n", "c"):
        page.keyboard.press(key)
    page.keyboard.type("why 1?")
    page.keyboard.press("Control+Enter")
    expect(sent).to_have_value(re.compile("why 1"))
    answer = json.loads(sent.input_value())
    assert (answer["prompt"], answer["completions"][0], answer["kind"]) == ("q", "<b>one</b>", "rank")
    assert (answer["ranks"], answer["ratings"]) == ([2, 1, 0], [None, 6, None])
    assert answer["none_acceptable"] is True and answer["comment"] == "why 1?"
    page.get_by_role("button", name="Another").click()
    expect(page.locator(".card")).to_have_count(2)


RATING = """
with gr.Blocks() as page:
    value = {"prompt": "q", "completions": ["<b>one</b>", "two"], "ratings": [None, 2]}
    board = RankingBoard(value, kind="rate", asks=Asks(scale=5, comment_below=3))
    sent, seen = gr.Textbox(label="sent"), gr.Textbox(label="seen")
    board.submit(told, board, sent)
    board.select(told, board, seen)
page.launch()
"""


def test_a_rating_board_gives_ratings(example, opened, tmp_path):
    (tmp_path / "page.py").write_text(HEAD + RATING)
    page = opened(example(tmp_path / "page.py"))
    sent, seen = page.get_by_label("sent"), page.get_by_label("seen")
    assert page.locator(".card b").count() == 0
    expect(page.locator(".card").nth(1)).to_contain_text("Rated 2")
    page.locator(".card").first.click()
    page.keyboard.press("6")  # the scale ends at 5
    page.keyboard.press("4")
    expect(seen).to_have_value(re.compile(r'"ratings": \[4, 2\]'))
    page.keyboard.press("Enter")
    expect(page.locator(".ranking-board [role=status]").last).to_contain_text("rated below 3")
    page.keyboard.type("two is wrong")
    page.keyboard.press("Control+Enter")
    expect(sent).to_have_value(re.compile("two is wrong"))
    answer = json.loads(sent.input_value())
    assert (answer["kind"], answer["ratings"], answer["ranks"]) == ("rate", [4, 2], [])


PAIRS = """
value = {"prompt": "q", "completions": ["one", "two"]}
with gr.Blocks() as page:
    seen = gr.Textbox(label="seen")
    for kind, known in (("rank", {"ranks": [1, 0]}), ("compare", {"verdict": "a", "strength": 2})):
        board = RankingBoard({**value, **known}, kind=kind, asks=Asks(strength=kind == "compare"))
        board.select(told, board, seen)
page.launch()
"""


def test_of_two_answers_the_known_choice_is_shown_and_a_new_one_told(example, opened, tmp_path):
    (tmp_path / "page.py").write_text(HEAD + PAIRS)
    page = opened(example(tmp_path / "page.py"))
    seen, boards = page.get_by_label("seen"), page.locator(".ranking-board")
    expect(boards.locator("[data-choice][aria-pressed=true]")).to_have_count(2)
    expect(boards.nth(0).locator("[data-choice='1']")).to_have_attribute("aria-pressed", "true")
    expect(boards.nth(1).locator("[data-choice='-2']")).to_have_attribute("aria-pressed", "true")
    boards.nth(0).locator("[data-choice='-1']").click()
    expect(seen).to_have_value(re.compile(r'"ranks": \[0, 1\]'))
    boards.nth(1).locator("[data-choice='3']").click()
    expect(seen).to_have_value(re.compile(r'"verdict": "b", "strength": 3'))


KNOWN = [
    ("rank", {"ranks": [0, 1]}, -1),
    ("rank", {"ranks": [1, 0], "strength": 2}, 2),
    ("rank", {"ranks": [0, 0]}, 0),
    ("rank", {}, None),
    ("compare", {"verdict": "a", "strength": 3}, -3),
    ("compare", {"verdict": "tie"}, 0),
    ("compare", {"verdict": "both_bad"}, "both_bad"),
]


@pytest.mark.parametrize(("kind", "known", "choice"), KNOWN)
def test_a_choice_between_two_is_what_was_known_there_and_back(kind, known, choice):
    from annotate.app.components.ranking_board import RankingBoard
    from annotate.work.asks import Asks

    value = {"prompt": "q", "completions": ["one", "two"]}
    board = RankingBoard(kind=kind, asks=Asks(strength=True), render=False)
    payload = board.postprocess({**value, **known})
    assert payload["answer"] == {"choice": choice}
    said = board.preprocess(payload)
    strength = abs(choice) if choice and choice != "both_bad" else None
    wanted = {"ranks": [], "verdict": None, **known, "strength": strength}
    assert {name: said[name] for name in wanted} == wanted
    plain = RankingBoard(kind=kind, render=False).preprocess(payload)
    assert plain["strength"] is None


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"task": {"answers": [{"text": "a"}]}, "prompt": "q", "submitted": {"ranks": [0, 1]}},
        {
            "task": {"answers": [{"text": "a"}] * 2},
            "prompt": "q",
            "submitted": None,
            "answer": {"choice": "c"},
        },
    ],
)
def test_what_no_board_sends_is_refused(payload):
    import gradio as gr

    from annotate.app.components.ranking_board import RankingBoard

    with pytest.raises(gr.Error):
        RankingBoard().preprocess(payload)
