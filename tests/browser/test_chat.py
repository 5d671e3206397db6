"""The chat page as people use it, in Chromium: every flow, by mouse and by keyboard."""

import json
import os
import re
import signal
import time

import pytest
from playwright.sync_api import expect
from sqlalchemy import select

from annotate.chat.conversations import add_message, conversations, messages, start_conversation
from annotate.labels import LabelStore
from annotate.store.schema import Annotation, Completion, TaskCompletion
from rlhf.data import read_demonstrations
from tests.browser.conftest import World, sign_in
from tests.chat.tiny import serving, tiny_store

SAID = "where is the dog"
UNENDING = 60_000  # tokens: no machine has written them all before the test is through


class ChatWorld(World):
    """A label store behind `rlhf chat --web`."""

    def __init__(self, labels, server):
        self.store = LabelStore(labels)
        self.database = self.store.database
        self.server, self.url = server, server.url

    def feedback(self, name):
        """(kind, verdict, demonstration, [(text, checkpoint, sampling)]) of an account's standing annotations."""
        with self.database.read() as connection:
            found = connection.execute(
                select(
                    Annotation.kind,
                    Annotation.verdict,
                    Annotation.demonstration,
                    Annotation.task_id,
                    Annotation.origin,
                )
                .where(Annotation.standing, Annotation.labeler_id == self._id(name))
                .order_by(Annotation.id)
            ).all()
            rows = []
            for kind, verdict, demonstration, task, origin in found:
                assert origin == "chat"
                answers = connection.execute(
                    select(Completion.text, Completion.checkpoint, Completion.sampling)
                    .join(TaskCompletion, TaskCompletion.completion_id == Completion.id)
                    .where(TaskCompletion.task_id == task)
                    .order_by(TaskCompletion.place)
                ).all()
                rows.append((kind, verdict, demonstration, [tuple(answer) for answer in answers]))
            return rows

    def _id(self, name):
        from annotate.store.accounts import account_named

        return account_named(self.database, name).id


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat-page")
    store = tiny_store(folder / "store", base_context=2 * UNENDING)
    with LabelStore(folder / "labels.db") as labels:
        from annotate.store.accounts import add_account

        add_account(labels.database, "somebody", "correct horse battery")
    with serving(store, folder / "labels.db", "chat", "--web") as server:
        world = ChatWorld(folder / "labels.db", server)
        yield world
        world.store.close()


@pytest.fixture
def page(chat, browse):
    """A fresh account's empty chat page; `.account` is its name."""
    name = chat.person("chatter")
    opened = browse(chat, name)
    opened.account = name
    opened.goto(f"{chat.url}/chat")
    opened.wait_for_selector(".tries, .welcome")
    return opened


def settle(page, count):
    """Wait until `count` answers are shown and none is being written."""
    expect(page.locator(".turn.assistant [data-act=up]")).to_have_count(count)
    expect(page.locator(".growing")).to_have_count(0)


def say(page, text, count=1):
    page.fill("#say", text)
    page.keyboard.press("Enter")
    settle(page, count)


def set_up(page, **fields):
    page.locator(".setup > summary").click()
    for name, value in fields.items():
        page.fill(f"#{name}", str(value))
        page.keyboard.press("Tab")
    page.locator(".setup > summary").click()


def test_an_answer_streams_in_and_is_there_after_a_reload(chat, page):
    page.select_option("#model_a", "base/0001-tiny")
    set_up(page, max_new_tokens=UNENDING, seed=1)
    page.fill("#say", SAID)
    page.keyboard.press("Enter")
    for length in (20, 40):
        expect(page.locator(".growing .text")).to_have_text(re.compile(rf"[\s\S]{{{length}}}"))
    page.keyboard.press("Escape")
    settle(page, 1)
    text = page.locator(".turn.assistant .text").inner_text()
    [head] = conversations(chat.database, page.account)
    question, answer = messages(chat.database, page.account, head.id)
    assert (question.content, head.title) == (SAID, SAID)
    assert answer.checkpoint == "base/0001-tiny" and answer.sampling["seed"] == 1 and answer.ended is False
    page.reload()
    settle(page, 1)
    assert page.locator(".turn.assistant .text").inner_text() == text
    assert page.url.endswith(f"/chat/{head.id}")


@pytest.mark.slow
def test_stop_ends_the_answer_and_keeps_what_there_is(chat, page):
    page.select_option("#model_a", "base/0001-tiny")
    set_up(page, max_new_tokens=UNENDING)
    page.fill("#say", SAID)
    page.keyboard.press("Enter")
    expect(page.locator(".growing .text")).to_have_text(re.compile(r"[\s\S]{30}"))
    page.keyboard.press("Escape")
    settle(page, 1)
    expect(page.locator(".ending")).to_have_text("Stopped")
    [head] = conversations(chat.database, page.account)
    answer = messages(chat.database, page.account, head.id)[-1]
    assert len(answer.content) > 20 and answer.sampling["reason"] == "cancelled"
    expect(page.locator("#send")).to_have_text("Send")


def test_a_page_loaded_anew_in_the_middle_joins_its_answer_again(chat, page):
    page.select_option("#model_a", "base/0001-tiny")
    set_up(page, max_new_tokens=UNENDING, seed=1)
    page.fill("#say", SAID)
    page.keyboard.press("Enter")
    expect(page.locator(".growing .text")).to_have_text(re.compile(r"[\s\S]{30}"))
    page.reload()
    expect(page.locator(".growing .text")).to_have_text(re.compile(r"[\s\S]{60}"))
    expect(page.locator(".growing .role")).to_have_text("base/0001-tiny")
    expect(page.locator("#send")).to_have_text("Stop")
    page.get_by_role("button", name="New conversation").first.click()
    expect(page.locator("#send")).to_have_text("Send")
    page.go_back()
    expect(page.locator(".growing .text")).to_have_text(re.compile(r"[\s\S]{60}"))
    expect(page.locator("#send")).to_have_text("Stop")
    page.locator("#send").click()
    settle(page, 1)
    expect(page.locator(".turn.user")).to_have_count(1)
    expect(page.locator(".ending")).to_have_text("Stopped")
    [head] = conversations(chat.database, page.account)
    [_, answer] = messages(chat.database, page.account, head.id)
    assert answer.sampling["reason"] == "cancelled" and len(answer.content) > 60


def held(page, pattern, count):
    """Requests to `pattern` wait; gives a function that waits until `count` of them do and returns them."""
    waiting = []
    page.route(pattern, lambda route: waiting.append(route))

    def requests():
        deadline = time.monotonic() + 60
        while len(waiting) < count:
            assert time.monotonic() < deadline, f"{len(waiting)} requests of {count} came"
            page.wait_for_timeout(20)
        return waiting

    return requests


def test_of_two_conversations_that_are_opened_the_later_stays_whichever_comes_first(chat, page):
    say(page, SAID)
    address = page.url
    lists = held(page, "**/api/chat/conversations?search=*", 2)
    page.get_by_role("button", name="New conversation").first.click()
    page.go_back()
    earlier, later = lists()
    with page.expect_response("**/answer"):
        later.continue_()
    expect(page.locator(".turn.assistant")).to_have_count(1)
    with page.expect_response("**/api/chat/conversations?search=*"):
        earlier.continue_()
    page.unroute("**/api/chat/conversations?search=*")
    say(page, "and the kite", 2)
    assert page.url == address
    [head] = conversations(chat.database, page.account)
    assert len(messages(chat.database, page.account, head.id)) == 4


def test_what_is_sent_while_a_conversation_opens_is_said_in_it(chat, page):
    say(page, SAID)
    page.get_by_role("button", name="New conversation").first.click()
    expect(page.locator(".welcome")).to_be_visible()
    say(page, "and the boat")
    latest, first = conversations(chat.database, page.account)
    opened = held(page, f"**/api/chat/conversations/{first.id}", 1)
    page.locator(f"#list [data-id='{first.id}']").click()
    [request] = opened()
    page.fill("#say", "and the kite")
    page.keyboard.press("Enter")
    request.continue_()
    settle(page, 2)
    said = [turn.content for turn in messages(chat.database, page.account, first.id) if turn.role == "user"]
    assert said == [SAID, "and the kite"]
    assert len(messages(chat.database, page.account, latest.id)) == 2


def test_a_search_that_gets_no_reply_says_so(chat, page):
    page.route("**/api/chat/conversations?search=dog", lambda route: route.abort())
    page.fill("#search", "dog")
    expect(page.locator("#problem")).to_be_visible()
    page.fill("#search", "")
    page.get_by_role("button", name="New conversation").first.click()
    expect(page.locator("#problem")).to_be_hidden()


def test_a_conversation_that_cannot_be_opened_or_deleted_says_so_and_takes_nothing(chat, page):
    say(page, SAID)
    [head] = conversations(chat.database, page.account)
    page.on("dialog", lambda dialog: dialog.accept())
    page.route(f"**/api/chat/conversations/{head.id}", lambda route: route.abort())
    page.locator("#own").click()
    page.locator("#delete").click()
    expect(page.locator("#problem")).to_be_visible()
    expect(page.locator(".turn.assistant")).to_have_count(1)
    page.get_by_role("button", name="New conversation").first.click()
    expect(page.locator(".welcome")).to_be_visible()
    page.go_back()
    page.wait_for_url(f"**/chat/{head.id}")
    expect(page.locator("#problem")).to_be_visible()
    expect(page.locator("#thread")).to_have_css("opacity", "0.4")
    page.fill("#say", "and the kite")
    page.keyboard.press("Enter")
    expect(page.locator("#say")).to_have_value("and the kite")
    page.unroute(f"**/api/chat/conversations/{head.id}")
    page.locator(f"#list [data-id='{head.id}']").click()
    page.wait_for_selector(".turn.assistant")
    expect(page.locator("#thread")).to_have_css("opacity", "1")
    page.keyboard.press("Enter")
    settle(page, 2)
    assert len(conversations(chat.database, page.account)) == 1


def test_again_edit_and_branches_by_keyboard(chat, page):
    say(page, SAID)
    first = page.locator(".turn.assistant .text").inner_text()
    page.keyboard.press("Escape")
    page.keyboard.press("r")
    expect(page.locator(".turn.assistant .versions")).to_contain_text("2 of 2")
    settle(page, 1)
    page.keyboard.press("[")
    expect(page.locator(".turn.assistant .versions")).to_contain_text("1 of 2")
    assert page.locator(".turn.assistant .text").inner_text() == first
    page.keyboard.press("i")
    say(page, "and the kite", 2)
    page.keyboard.press("Escape")
    page.keyboard.press("e")
    page.keyboard.press("Control+A")
    page.keyboard.type("and the boat")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".turn.user").last).to_contain_text("2 of 2")
    settle(page, 2)
    expect(page.locator(".turn.user .text").last).to_have_text("and the boat")
    page.locator(".turn.user").last.get_by_role("button", name="Previous version").click()
    expect(page.locator(".turn.user .text").last).to_have_text("and the kite")
    [head] = conversations(chat.database, page.account)
    turns = messages(chat.database, page.account, head.id)
    assert [turn.role for turn in turns].count("assistant") == 4
    questions = [turn for turn in turns if turn.content.startswith("and the")]
    assert questions[0].parent == questions[1].parent == turns[1].id


def test_thumbs_rewrites_and_preferences_are_annotations(chat, page):
    set_up(page, seed=11, temperature=1)
    say(page, SAID)
    text = messages(chat.database, page.account, conversations(chat.database, page.account)[0].id)[1].content
    page.click("[data-act=up]")
    expect(page.locator("[data-act=up]")).to_have_attribute("aria-pressed", "true")
    page.click("[data-act=down]")
    expect(page.locator("[data-act=down]")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("w")
    page.keyboard.press("Control+A")
    page.keyboard.type("The dog is in the park.")
    page.get_by_role("button", name="Save").click()
    expect(page.locator(".rewritten")).to_contain_text("The dog is in the park.")
    page.click("[data-act=again]")
    expect(page.locator(".turn.assistant .versions")).to_contain_text("2 of 2")
    settle(page, 1)
    page.get_by_role("button", name="Better", exact=True).click()
    expect(page.get_by_role("button", name="Better", exact=True)).to_have_attribute("aria-pressed", "true")
    rated, written, compared = chat.feedback(page.account)
    assert rated[:2] == ("rate", "down") and rated[3][0][:2] == (text, "ppo/0001-tiny")
    assert rated[3][0][2]["seed"] == 11 and rated[3][0][2]["temperature"] == 1
    assert written[0] == "demonstrate" and written[2] == "The dog is in the park."
    assert compared[:2] == ("compare", "a") and compared[3][1][0] == text and compared[3][0][2]["seed"] == 12
    page.reload()
    settle(page, 1)
    expect(page.get_by_role("button", name="Better", exact=True)).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="Previous version").click()
    expect(page.locator("[data-act=down]")).to_have_attribute("aria-pressed", "true")


def test_two_side_by_side_blind_until_the_choice(chat, page):
    page.keyboard.press("Escape")
    page.keyboard.press("d")
    expect(page.locator("#blind")).to_be_checked()
    say(page, SAID, 2)
    expect(page.locator(".pair .role").nth(0)).to_have_text("hidden until you choose")
    [head] = conversations(chat.database, page.account)
    shown = page.evaluate(f"fetch('/api/chat/conversations/{head.id}').then((answer) => answer.text())")
    answers = [turn for turn in json.loads(shown)["messages"] if turn["role"] == "assistant"]
    assert [turn["checkpoint"] for turn in answers] == ["", ""] and "seed" not in json.dumps(answers)
    hood = page.evaluate(
        f"fetch('/api/chat/conversations/{head.id}/hood/{answers[0]['id']}').then((answer) => answer.status)"
    )
    assert hood == 409
    page.reload()
    settle(page, 2)
    page.locator("#thread").focus()
    page.keyboard.press("2")
    expect(page.locator(".pair .turn").nth(1)).to_contain_text("your choice")
    names = {page.locator(".pair .role").nth(i).inner_text() for i in (0, 1)}
    assert names == {"ppo/0001-tiny", "sft/0001-tiny"}
    [(kind, verdict, _, both)] = chat.feedback(page.account)
    assert (kind, verdict) == ("compare", "b") and {answer[1] for answer in both} == names
    page.locator("#thread").focus()
    page.keyboard.press("x")
    expect(page.locator("#problem")).to_be_hidden()
    expect(page.locator("[data-verdict=both_bad]")).to_have_attribute("aria-pressed", "true")
    assert [row[1] for row in chat.feedback(page.account)] == ["both_bad"]
    page.keyboard.press("2")
    expect(page.locator(".pair .turn").nth(1)).to_contain_text("your choice")
    page.uncheck("#side_by_side")
    say(page, "and the kite", 2)
    turns = messages(chat.database, page.account, head.id)
    assert turns[3].parent == next(
        turn.id for turn in turns if turn.content == both[1][0] and turn.checkpoint == both[1][1]
    )


@pytest.mark.slow
def test_under_the_hood_shows_probabilities_alternatives_reward_and_kl(chat, page):
    set_up(page, max_new_tokens=60)  # the babble's broken characters are three tokens each when read again
    say(page, SAID)
    page.keyboard.press("Escape")
    page.keyboard.press("u")
    tokens = page.locator(".tokens .token")
    expect(tokens.first).to_be_visible()
    expect(page.locator(".facts")).to_contain_text("Reward")
    expect(page.locator(".facts")).to_contain_text("KL to sft/0001-tiny")
    tokens.nth(0).hover()
    expect(page.locator(".alternatives tr")).to_have_count(5)
    first = page.locator(".detail").inner_text()
    tokens.nth(0).focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".tokens .token.current")).to_have_count(1)
    assert page.locator(".detail").inner_text() != first
    page.get_by_label("change against the reference").click()
    assert re.search("(less|more)[0-3]", page.locator(".tokens .token").first.get_attribute("class"))
    page.keyboard.press("u")


@pytest.mark.slow
def test_conversations_are_searched_renamed_exported_and_deleted(chat, page, tmp_path):
    for text in ("the red kite", "the blue boat"):
        page.locator("#new").click()
        say(page, text)
        expect(page.locator("#list nav a").first).to_contain_text(text)
    page.fill("#search", "KITE")
    expect(page.locator("#list nav a")).to_have_count(1)
    page.locator("#list nav a").click()
    expect(page.locator(".turn.user .text")).to_have_text("the red kite")
    page.once("dialog", lambda dialog: dialog.accept("A kite"))
    page.locator("#own").click()
    page.locator("#rename").click()
    page.fill("#search", "a kite")
    expect(page.locator("#list nav a")).to_have_text(re.compile("A kite"))
    with page.expect_download() as download:
        page.locator("#own").click() if not page.locator("#export").is_visible() else None
        page.locator("#export").click()
    download.value.save_as(tmp_path / "kite.jsonl")
    [row] = read_demonstrations(str(tmp_path / "kite.jsonl"))
    assert row.prompt == [{"role": "user", "content": "the red kite"}]
    page.once("dialog", lambda dialog: dialog.accept())
    page.locator("#delete").click()
    expect(page.locator(".welcome")).to_be_visible()
    assert [head.title for head in conversations(chat.database, page.account)] == ["the blue boat"]


def test_hostile_text_is_inert(chat, page):
    bad = '<img src=x onerror="window.hit=1"> ${window.hit=2} {{window.hit=3}} [x](javascript:window.hit=4) \u202eevil <script>window.hit=5</script>\n\n```\n<b>x</b>\n```'
    number = start_conversation(chat.database, page.account, {}, title=bad)
    parent = None
    for i, role in enumerate(("user", "assistant")):
        parent = add_message(
            chat.database,
            page.account,
            number,
            client_id=f"hostile-{number}-{i}",
            role=role,
            content=bad,
            parent=parent,
            checkpoint="ppo/0001-tiny" if role == "assistant" else "",
        )
    page.goto(f"{chat.url}/chat/{number}")
    settle(page, 1)
    page.locator("[data-act=hood]").click()
    page.wait_for_selector(".tokens")
    say(page, bad, 2)
    assert page.evaluate("window.hit") is None
    assert page.locator("#thread img, #thread script, #thread a, #list img").count() == 0
    assert "U+202E" in page.locator(".turn.assistant .text").first.inner_text()


@pytest.mark.slow
def test_a_full_context_is_announced(chat, page):
    number = start_conversation(chat.database, page.account, {})
    parent = None
    for i in range(30):
        role = "assistant" if i % 2 else "user"
        parent = add_message(
            chat.database,
            page.account,
            number,
            client_id=f"long-{number}-{i}",
            role=role,
            content=f"the dog barks {i} " * 4,
            parent=parent,
        )
    page.goto(f"{chat.url}/chat/{number}")
    settle(page, 15)
    say(page, "where is the kite", 16)
    expect(page.locator(".notice")).to_contain_text("oldest messages were left out")
    page.reload()
    expect(page.locator(".notice")).to_contain_text("oldest messages were left out")


@pytest.mark.slow
def test_a_bad_setting_and_an_overlong_message_are_said(chat, page):
    page.locator(".setup > summary").click()
    page.fill("#temperature", "7")
    page.keyboard.press("Tab")
    assert page.evaluate("document.querySelector('#temperature').validity.rangeOverflow")
    page.fill("#temperature", "1")
    page.keyboard.press("Tab")
    page.fill("#say", "the dog " * 400)
    page.keyboard.press("Enter")
    expect(page.locator(".growing .wrong, #problem:visible").first).to_contain_text("context is 512")
    expect(page.locator("#send")).to_have_text("Send")
    say(page, SAID)


@pytest.mark.slow
def test_the_engine_dies_and_the_conversation_goes_on(chat, page):
    page.select_option("#model_a", "base/0001-tiny")
    set_up(page, max_new_tokens=700, seed=5)
    page.fill("#say", SAID)
    page.keyboard.press("Enter")
    expect(page.locator(".growing .text")).to_have_text(re.compile(r"[\s\S]{30}"))
    [engine] = chat.server.engine_pids()
    os.kill(engine, signal.SIGKILL)
    expect(page.locator(".turn.assistant [data-act=up]")).to_have_count(1, timeout=90_000)
    [head] = conversations(chat.database, page.account)
    answer = messages(chat.database, page.account, head.id)[-1]
    assert answer.sampling["reason"] == "length" and len(answer.content) > 300


def test_accounts_see_their_own_only(chat, page, browse):
    say(page, SAID)
    number = conversations(chat.database, page.account)[0].id
    other = browse(chat, chat.person("nosy"))
    other.goto(f"{chat.url}/chat/{number}")
    expect(other.locator("#problem")).to_contain_text("no such conversation")
    stranger = browse(chat)
    stranger.goto(f"{chat.url}/chat/{number}")
    assert "/login?next=/chat/" in stranger.url
    for method, path in (
        ("GET", ""),
        ("GET", "/export"),
        ("DELETE", ""),
        ("POST", "/ask"),
        ("POST", "/thumb"),
    ):
        status = stranger.request.fetch(
            f"{chat.url}/api/chat/conversations/{number}{path}", method=method, data="{}"
        ).status
        assert status in (401, 403), (method, path)
        status = other.request.fetch(
            f"{chat.url}/api/chat/conversations/{number}{path}", method=method, data="{}"
        ).status
        assert status in (403, 409, 422), (method, path)  # cookie without the page's token; not theirs
    assert len(messages(chat.database, page.account, number)) == 2


@pytest.mark.parametrize("width", [320, 390, 800])
def test_what_one_does_with_a_conversation_opens_within_the_page(chat, browse, width):
    page = browse(chat, chat.person(f"menu{width}"), viewport={"width": width, "height": 700})
    page.goto(f"{chat.url}/chat")
    page.fill("#say", SAID)
    page.keyboard.press("Enter")
    settle(page, 1)
    page.click("#own")
    expect(page.locator("#rename")).to_be_in_viewport(ratio=1)


@pytest.mark.slow
def test_on_a_phone_and_in_the_dark(chat, browse):
    name = chat.person("phone")
    page = browse(
        chat,
        name,
        viewport={"width": 390, "height": 844},
        has_touch=True,
        is_mobile=True,
        color_scheme="dark",
    )
    page.goto(f"{chat.url}/chat")
    page.wait_for_selector(".welcome")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 21, 25)"
    page.tap("#side_by_side")
    page.fill("#say", SAID)
    page.tap("#send")
    settle(page, 2)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.tap("[data-verdict=a]")
    expect(page.locator(".state")).to_be_visible()
    page.tap("#drawer")
    expect(page.locator("#list nav a")).to_be_visible()
    page.tap("#new")
    expect(page.locator(".welcome")).to_be_visible()
    expect(page.locator("#list")).not_to_be_in_viewport()


@pytest.mark.slow
def test_signing_in_leads_to_the_chat_in_japanese_too(chat, browse):
    page = browse(chat, locale="ja-JP")
    name = chat.person("ja")
    sign_in(page, chat.url, name)
    expect(page.locator("#new")).to_contain_text("新しい会話")
    missing = page.evaluate(
        """() => [...document.body.innerText.matchAll(/\\b(chat|hood|chat_help)\\.\\w+/g)].map(String)"""
    )
    assert missing == []


def test_a_conversation_beyond_the_list_opens_with_its_own_settings(chat, page):
    kept = {
        "model_a": "sft/0001-tiny",
        "system": "Be brief",
        "sampling": {"temperature": 0.1, "max_new_tokens": 9},
    }
    old = start_conversation(chat.database, page.account, kept, "old")
    for i in range(50):
        start_conversation(chat.database, page.account, {}, f"newer {i}")
    page.goto(f"{chat.url}/chat/{old}")
    expect(page.locator("#model_a")).to_have_value("sft/0001-tiny")
    page.locator(".setup > summary").click()
    expect(page.locator("#temperature")).to_have_value("0.1")
    expect(page.locator("#system")).to_have_value("Be brief")


def test_a_new_conversation_begins_with_what_the_server_was_started_with(browse, tmp_path):
    options = [
        "--policy",
        "sft",
        "--system",
        "Be brief",
        "--temperature",
        "0.1",
        "--max-new-tokens",
        "7",
        "--set",
        "min_p=0.2",
    ]
    store = tiny_store(tmp_path / "store")
    with serving(store, tmp_path / "labels.db", "chat", "--web", *options) as server:
        page = browse(server)
        page.goto(f"{server.url}/chat")
        expect(page.locator("#model_a")).to_have_value("sft/0001-tiny")
        say(page, SAID)
        with LabelStore(tmp_path / "labels.db") as labels:
            [head] = conversations(labels.database, "local")
            _, answer = messages(labels.database, "local", head.id)
        assert answer.checkpoint == "sft/0001-tiny"
        assert answer.sampling["system"] == "Be brief"
        drawn = {"temperature": 0.1, "max_new_tokens": 7, "min_p": 0.2, "top_p": 0.95}
        assert {name: answer.sampling[name] for name in drawn} == drawn
        page.click("#new")
        page.locator(".setup > summary").click()
        expect(page.locator("#system")).to_have_value("Be brief")


def test_a_question_that_no_server_took_stands_in_the_field_again(browse, tmp_path):
    with serving(tiny_store(tmp_path / "store"), tmp_path / "labels.db", "chat", "--web") as server:
        page = browse(server)
        page.goto(f"{server.url}/chat")
        say(page, SAID)
        server.process.kill()
        server.process.wait()
        page.fill("#say", "and then?\nand then?")
        page.locator("#send").click()
        expect(page.locator("#problem")).to_contain_text("The connection was lost")
        expect(page.locator(".growing .state-line")).to_have_text("Broken off")
        expect(page.locator("#say")).to_have_value("and then?\nand then?")
        page.locator("#new").click()  # nor is the first one of a conversation that could not begin
        page.fill("#say", SAID)
        page.locator("#send").click()
        expect(page.locator("#problem")).to_contain_text("The connection was lost")
        expect(page.locator("#say")).to_have_value(SAID)


def test_what_a_server_that_is_gone_was_asked_for_is_not_said_to_have_arrived(browse, tmp_path):
    with serving(tiny_store(tmp_path / "store"), tmp_path / "labels.db", "chat", "--web") as server:
        page = browse(server)
        page.goto(f"{server.url}/chat")
        say(page, SAID)
        hood = page.locator(".assistant [data-act=hood]")
        server.process.kill()
        server.process.wait()
        hood.click()
        expect(page.locator(".hood")).to_have_text("The server does not answer. Try again in a moment.")
        page.locator("nav a[data-id]").first.click()
        expect(page.locator("#problem")).to_have_text("The server does not answer. Try again in a moment.")
