"""A chat page that goes away and comes back, and a server that is told to end: no answer is lost, nobody hangs."""

import json
import os
import signal
import threading
import time

import httpx
import openai
import pytest

from annotate.store.database import storable
from tests.chat.test_feedback_trains import chat_session
from tests.chat.tiny import serving, tiny_store

HELLO = [{"role": "user", "content": "where is the dog"}]
UNENDING = 60_000  # tokens: no machine has written them all before the test is through
PATIENCE_S = 120  # for a machine that does other work as well


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unending")
    store = tiny_store(folder / "store", base_context=2 * UNENDING)
    with serving(store, folder / "labels.db", "chat", "--web") as found:
        yield found


@pytest.fixture
def web(server):
    return chat_session(server.url)


def begin(web, **sampling):
    conversation = web.post("/api/chat/conversations", json={"settings": {}}).json()["id"]
    sides = [{"model": "base", "sampling": {"temperature": 1.0, "seed": 1} | sampling}]
    asked = {"client_id": f"question-{conversation}", "content": "where is the dog", "sides": sides}
    return f"/api/chat/conversations/{conversation}", asked


def events(response):
    for line in response.iter_lines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


def leave_after(web, path, asked, num_pieces):
    """Ask, hear some of the answer, and go away as a page does that is closed."""
    heard = []
    with web.stream("POST", f"{path}/ask", json=asked) as response:
        for event in events(response):
            heard.append(event)
            if sum(event["type"] == "piece" for event in heard) == num_pieces:
                return heard
    raise AssertionError("the answer ended too early")


def kept_answer(web, path):
    """The answer once it is in the conversation."""
    deadline = time.monotonic() + PATIENCE_S
    while len(turns := web.get(path).json()["messages"]) < 2:
        assert time.monotonic() < deadline
    return turns[1]


def test_a_page_that_is_loaded_anew_hears_the_whole_answer(web):
    path, asked = begin(web, max_new_tokens=UNENDING)
    first, again = leave_after(web, path, asked, 5), []
    with web.stream("GET", f"{path}/answer") as response:
        for event in events(response):
            again.append(event)
            if len(again) == len(first) + 20:  # what had been said, and more than that: enough
                web.post(f"{path}/stop")
    assert again[: len(first)] == first
    assert again[0]["type"] == "question" and again[0]["models"] == ["base/0001-tiny"]
    [answer] = [event["message"] for event in again if event["type"] == "answer"]
    text = "".join(event["text"] for event in again if event["type"] == "piece")
    assert answer["content"] == storable(text.strip())
    assert answer["sampling"]["reason"] == "cancelled"
    assert web.get(f"{path}/answer").status_code == 204
    assert [turn["role"] for turn in web.get(path).json()["messages"]] == ["user", "assistant"]


def test_an_answer_nobody_watches_is_kept_whole(web):
    path, asked = begin(web, max_new_tokens=200)
    leave_after(web, path, asked, 3)
    answer = kept_answer(web, path)
    assert answer["sampling"]["reason"] == "length" and len(answer["content"]) > 100


def test_stop_ends_it_and_keeps_what_there_is(web):
    path, asked = begin(web, max_new_tokens=UNENDING)
    first = leave_after(web, path, asked, 5)
    assert web.post(f"{path}/stop").json() == {}
    with web.stream("GET", f"{path}/answer") as response:
        rest = list(events(response)) if response.status_code == 200 else []
    answer = kept_answer(web, path)
    begun = storable("".join(event["text"] for event in first if event["type"] == "piece").lstrip())
    assert answer["sampling"]["reason"] == "cancelled" and answer["content"].startswith(begun)
    assert not rest or rest[-1]["type"] == "answer"
    assert web.get("/health").json() == {"state": "ready", "running": 0, "waiting": 0}


def test_an_answer_ends_where_the_context_does_by_default(chat_store, tmp_path):
    with serving(chat_store, tmp_path / "labels.db", "chat", "--web") as server:
        web = chat_session(server.url)
        path, asked = begin(web)
        with web.stream("POST", f"{path}/ask", json=asked) as response:
            last = list(events(response))[-1]
    assert last["message"]["sampling"]["reason"] == "length"
    assert last["message"]["sampling"]["max_new_tokens"] is None
    assert len(last["message"]["content"]) > 4000


def test_an_engine_that_gives_up_is_told_and_the_stream_ends(server, web):
    path, asked = begin(web, max_new_tokens=UNENDING)
    pids = set()
    with web.stream("POST", f"{path}/ask", json=asked) as response:
        for event in events(response):
            [pid] = server.engine_pids() or [None]
            if event["type"] == "piece" and pid and pid not in pids:
                pids.add(pid)
                os.kill(pid, signal.SIGKILL)
    assert event["type"] == "failed" and "given up" in event["error"]
    path, asked = begin(web, max_new_tokens=5)
    with web.stream("POST", f"{path}/ask", json=asked) as response:
        assert list(events(response))[-1]["type"] == "answer"


def test_an_error_inside_the_engine_is_a_500_for_who_asked(chat_store, tmp_path):
    """Damaged weights: behind place 100 the model gives no numbers."""
    import torch
    from transformers import GPT2Config

    from rlhf.models.gpt import GPT
    from tests.chat.tiny import TOKENIZER

    torch.manual_seed(0)
    damaged = GPT(GPT2Config(vocab_size=TOKENIZER.vocab_size, n_layer=1, n_head=2, n_embd=16))
    damaged.transformer.wpe.weight.data[100] = float("nan")
    damaged.save_pretrained(tmp_path / "small")
    TOKENIZER.save(tmp_path / "small")
    arguments = ("serve", "--policy", str(tmp_path / "small"))
    with serving(chat_store, tmp_path / "labels.db", *arguments) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        asked = {"model": str(tmp_path / "small"), "max_tokens": 3}
        asked["logit_bias"] = {str(token): -100 for token in TOKENIZER.stop_ids}
        long = [7] * 200
        with pytest.raises(openai.InternalServerError, match="logits are no numbers") as refused:
            client.completions.create(prompt=long, **asked)
        assert refused.value.status_code == 500
        with pytest.raises(openai.APIError, match="logits are no numbers"):
            list(client.completions.create(prompt=long, stream=True, **asked))
        assert client.completions.create(prompt=[1, 2], **asked).usage.completion_tokens == 3


def two_answers(client, asked):
    """A stream that has begun, and a thread that waits for the same answer whole, into a list."""
    answers = []
    thread = threading.Thread(target=lambda: answers.append(client.chat.completions.create(**asked)))
    stream = client.chat.completions.create(**asked, stream=True)
    next(stream)
    thread.start()
    return stream, thread, answers


def test_sigterm_lets_answers_end_and_turns_others_away(chat_store, tmp_path):
    with serving(chat_store, tmp_path / "labels.db", "serve") as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        client.chat.completions.create(model="base", messages=HELLO, max_tokens=2)  # loads the model
        asked = {"model": "base", "messages": HELLO, "seed": 1}
        for max_tokens in (
            700,
            1400,
            2800,
        ):  # until they take this machine long enough to be under way together
            stream, thread, answers = two_answers(client, asked | {"max_tokens": max_tokens})
            running = 0
            while thread.is_alive() and (running := httpx.get(f"{server.url}/health").json()["running"]) < 2:
                pass
            if running == 2:
                break
        server.process.terminate()
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        thread.join()
        assert (
            text == answers[0].choices[0].message.content and answers[0].usage.completion_tokens == max_tokens
        )
        server.process.wait(PATIENCE_S)
        with pytest.raises(openai.APIConnectionError):
            client.models.list()
