"""The OpenAI-compatible API, asked by the official client."""

import asyncio
import json
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial, reduce

import httpx
import openai
import pytest
from starlette.testclient import TestClient

from annotate.app.settings import AppSettings
from annotate.chat.checkpoints import Checkpoints
from annotate.chat.page_api import Defaults
from annotate.chat.server import api_app, chat_app
from annotate.labels import LabelStore
from annotate.store.accounts import add_account, add_token
from rlhf.models.checkpoints import load_policy
from rlhf.sampling.generate import SamplingSettings, generate
from rlhf.serving import engine_process
from rlhf.serving.engine_process import EngineProcess
from rlhf.store import Store
from tests import forked
from tests.chat.tiny import TOKENIZER, serving

HELLO = [{"role": "user", "content": "where is the dog"}]


def alone(chat_store, seed, max_new_tokens, messages=HELLO, stage="ppo"):
    model = load_policy(chat_store.resolve(stage).path)
    settings = SamplingSettings(max_new_tokens=max_new_tokens)
    prompt = TOKENIZER.encode_prompt(messages)
    [sample] = generate(model, [prompt], settings, stop_ids=TOKENIZER.stop_ids, seed=seed)
    return TOKENIZER.decode(sample.tokens), len(prompt), sample


def test_models_are_the_stores_policies(client):
    assert [model.id for model in client.models.list()] == [
        "ppo/0001-tiny",
        "sft/0001-tiny",
        "base/0001-tiny",
    ]
    model = client.models.retrieve("sft")
    assert model.id == "sft/0001-tiny" and model.created > 1_700_000_000
    with pytest.raises(openai.NotFoundError, match="no such model"):
        client.models.retrieve("gpt-4")


def test_an_answer_is_the_models_own_for_its_seed(client, chat_store):
    answer = client.chat.completions.create(model="ppo", messages=HELLO, seed=7, max_tokens=20)
    text, prompt_tokens, sample = alone(chat_store, 7, 20)
    [choice] = answer.choices
    assert choice.message.content == text
    assert choice.finish_reason == ("stop" if sample.ended else "length")
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (prompt_tokens, len(sample.tokens))


def test_a_streamed_answer_is_the_same_in_pieces(client):
    asked = {"model": "sft", "messages": HELLO, "seed": 5, "max_completion_tokens": 40}
    whole = client.chat.completions.create(**asked)
    chunks = list(
        client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    )
    assert (
        "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
        == whole.choices[0].message.content
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].usage == whole.usage and len({chunk.id for chunk in chunks}) == 1
    assert sum(bool(chunk.choices[0].delta.content) for chunk in chunks[:-1]) > 1


def test_fields_that_change_nothing_are_listed_in_the_answers_header(client):
    asked = {
        "model": "ppo",
        "messages": [HELLO[0] | {"name": "ann"}],
        "user": "u-1",
        "metadata": {"run": "7"},
    }
    answer = client.chat.completions.with_raw_response.create(**asked, max_tokens=2)
    assert answer.headers["X-Ignored-Fields"] == "messages.name, metadata, user"
    plain = client.chat.completions.with_raw_response.create(model="ppo", messages=HELLO, max_tokens=2)
    assert "X-Ignored-Fields" not in plain.headers


def test_several_choices_stream_side_by_side(client):
    asked = {"model": "ppo", "messages": HELLO, "seed": 3, "max_tokens": 12, "n": 3}
    texts = dict.fromkeys(range(3), "")
    for chunk in client.chat.completions.create(**asked, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    whole = client.chat.completions.create(**asked)
    assert list(texts.values()) == [choice.message.content for choice in whole.choices]


def test_several_choices_have_seeds_in_a_row(client, chat_store):
    answer = client.chat.completions.create(model="ppo", messages=HELLO, seed=3, max_tokens=12, n=3)
    expected = [alone(chat_store, seed, 12)[0] for seed in (3, 4, 5)]
    assert [choice.message.content for choice in answer.choices] == expected


def test_log_probabilities_come_with_their_alternatives(client, chat_store):
    asked = {
        "model": "ppo",
        "messages": HELLO,
        "seed": 7,
        "max_tokens": 8,
        "logprobs": True,
        "top_logprobs": 4,
    }
    whole = client.chat.completions.create(**asked)
    _, _, sample = alone(chat_store, 7, 8)
    content = whole.choices[0].logprobs.content
    assert [token.logprob for token in content] == pytest.approx(sample.logprobs[: len(content)], abs=1e-4)
    assert all(len(token.top_logprobs) == 4 for token in content)
    streamed = [chunk.choices[0].logprobs for chunk in client.chat.completions.create(**asked, stream=True)]
    assert [token.token for found in streamed if found for token in found.content] == [
        token.token for token in content
    ]


def test_stop_greedy_top_k_and_parts_are_understood(client):
    parts = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "where is the dog"}]},
    ]
    asked = {"model": "ppo", "messages": parts, "temperature": 0, "max_tokens": 30}
    plain = client.chat.completions.create(**asked).choices[0].message.content
    assert (
        client.chat.completions.create(**asked | {"temperature": 1}, extra_body={"top_k": 1})
        .choices[0]
        .message.content
        == plain
    )
    stop = plain[len(plain) // 2 :][:2]
    stopped = client.chat.completions.create(**asked, stop=[stop]).choices[0]
    assert stopped.message.content == plain[: plain.index(stop)] and stopped.finish_reason == "stop"


ENDLESS = {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}
DEEP = reduce(lambda inner, _: {"type": "object", "properties": {"a": inner}}, range(90), {"type": "string"})


@pytest.mark.parametrize(
    ("more", "param", "words"),
    [
        ({"temperature": 3}, "temperature", "between 0"), ({"top_p": 0}, "top_p", "above 0"),
        ({"max_tokens": 0}, "max_tokens", "at least 1"), ({"top_logprobs": 50, "logprobs": True}, "top_logprobs", "20"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "up to 4"), ({"n": 99}, "n", "8"),
        ({"messages": []}, "messages", "at least 1"), ({"messages": [{"role": "judge", "content": "x"}]}, "messages", "role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages", "text only"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", "not offered"),
        ({"presence_penalty": 3}, "presence_penalty", "between -2"), ({"logit_bias": {"5": 101}}, "logit_bias", "-100"),
        ({"logit_bias": {"9000": 1}}, "logit_bias", "has token 9000; the model has tokens 0 to "),
        ({"extra_body": {"min_p": 2}}, "min_p", "between 0"), ({"extra_body": {"temprature": 0}}, "temprature", "not known"),
        ({"tool_choice": "required"}, "tool_choice", "not offered"),
        ({"top_logprobs": 2}, "top_logprobs", "needs logprobs"),
        ({"extra_body": {"stream_options": {"usage": True}}}, "stream_options.usage", "not known"),
        ({"messages": [{"role": "user", "content": "x", "audio": {"id": "1"}}]}, "messages.audio", "not known"),
        ({"extra_body": {"continue_final_message": True}}, "continue_final_message", "not the assistant"),
        ({"extra_body": {"add_generation_prompt": False}}, "add_generation_prompt", "opposite"),
        ({"response_format": {"type": "xml"}}, "response_format", "json_object"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, "response_format", "json_schema"),
        ({"response_format": {"type": "json_object", "schema": {"type": "objet"}}}, "response_format", "Invalid type: objet"),
        ({"response_format": {"type": "json_object", "schema": ENDLESS}}, "response_format", "^[^\n]*cannot be followed[^\n]*$"),
        ({"response_format": {"type": "json_object", "schema": DEEP}}, "response_format", "recursion limit"),
        ({"messages": [{"role": "user", "content": " " * 1_000_001 + "a"}]}, "messages", "context is 512"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_out_of_range_or_not_offered_is_named(client, more, param, words, stream):
    with pytest.raises(openai.BadRequestError, match=words) as refused:
        client.chat.completions.create(**{"model": "ppo", "messages": HELLO, "stream": stream} | more)
    assert refused.value.param == param and refused.value.type == "invalid_request_error"


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_over_the_context_is_refused(client, stream):
    long = [{"role": "user", "content": "where is the dog " * 300}]
    with pytest.raises(openai.BadRequestError, match="context is 512") as refused:
        client.chat.completions.create(model="ppo", messages=long, stream=stream)
    assert refused.value.code == "context_length_exceeded"


def test_what_is_no_json_is_refused_in_the_protocols_way(address):
    answer = httpx.post(
        f"{address}/v1/chat/completions", content="{", headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 400 and "JSON" in answer.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_hanging_up_frees_the_slots(address, stream):
    endless = {"model": "base", "messages": HELLO, "stream": stream}

    def hang_up(seed):
        with httpx.Client(timeout=0.4) as web:
            try:
                with web.stream(
                    "POST", f"{address}/v1/chat/completions", json=endless | {"seed": seed}
                ) as answer:
                    next(answer.iter_lines())
            except httpx.TimeoutException:
                return

    threads = [threading.Thread(target=hang_up, args=(seed,)) for seed in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    deadline = time.monotonic() + 120
    while (health := httpx.get(f"{address}/health").json()) != {"state": "ready", "running": 0, "waiting": 0}:
        assert time.monotonic() < deadline, health


def numbers(address):
    """Prometheus' lines by name and labels."""
    lines = httpx.get(f"{address}/metrics", timeout=20).text.splitlines()
    return {
        line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if not line.startswith("#")
    }


def test_metrics_count_what_was_answered(client, address):
    before = numbers(address)
    asked = {"model": "ppo", "messages": HELLO, "seed": 7, "max_tokens": 20}
    answers = [client.chat.completions.create(**asked) for _ in range(3)]
    after = numbers(address)

    def grown(name, labels='{model="ppo/0001-tiny"}'):
        return after[name + labels] - before.get(name + labels, 0)

    assert grown("rlhf_prompt_tokens_total") == 3 * answers[0].usage.prompt_tokens
    assert grown("rlhf_completion_tokens_total") == 3 * answers[0].usage.completion_tokens
    assert grown("rlhf_first_token_seconds_count") == grown("rlhf_answer_seconds_count") == 3
    assert grown("rlhf_answers_total", '{model="ppo/0001-tiny",reason="length"}') == 3
    assert after["rlhf_engine_starts"] == 1 and after['rlhf_requests_running{model="ppo/0001-tiny"}'] == 0


def test_metrics_count_first_tokens_without_text_once_and_answers_that_were_left(client, address):
    before, half = numbers(address), TOKENIZER.encode("é")[0]
    asked = {"messages": HELLO, "max_tokens": 6, "logprobs": True, "logit_bias": {half: 100}}
    list(client.chat.completions.create(model="ppo", **asked, stream=True))
    first = 'rlhf_first_token_seconds_count{model="ppo/0001-tiny"}'
    assert numbers(address)[first] == before.get(first, 0) + 1
    with client.chat.completions.create(model="base", messages=HELLO, stream=True) as stream:
        next(iter(stream))
    left = 'rlhf_answers_total{model="base/0001-tiny",reason="cancelled"}'
    deadline = time.monotonic() + 60
    while numbers(address).get(left, 0) <= before.get(left, 0):
        assert time.monotonic() < deadline


def test_with_accounts_a_token_is_needed(chat_store, tmp_path):
    path = tmp_path / "labels.db"
    with LabelStore(path) as labels:
        add_account(labels.database, "ada", "a long password")
        token = add_token(labels.database, "ada", "laptop")
    with serving(chat_store, path, "serve") as server:
        address = server.url
        stranger = openai.OpenAI(base_url=f"{address}/v1", api_key="sk-guess", max_retries=0)
        with pytest.raises(openai.AuthenticationError, match="API key"):
            stranger.models.list()
        with pytest.raises(openai.AuthenticationError):
            stranger.chat.completions.create(model="ppo", messages=HELLO, stream=True)
        ada = openai.OpenAI(base_url=f"{address}/v1", api_key=token, max_retries=0)
        assert ada.chat.completions.create(model="ppo", messages=HELLO, max_tokens=2).choices


@pytest.fixture
def engine(monkeypatch):
    monkeypatch.setattr(engine_process, "multiprocessing", forked.CONTEXTS)
    with EngineProcess() as running:
        yield running


@pytest.mark.parametrize("make", [api_app, partial(chat_app, defaults=Defaults())], ids=["api", "chat"])
def test_what_is_refused_outside_the_engine_is_told_in_the_protocol_too(make, engine, chat_store, tmp_path):
    """One checkpoint is damaged, and the engine has been closed."""
    engine.close()
    shutil.copytree(chat_store.root, tmp_path / "store")
    (tmp_path / "store/sft/0001-tiny/manifest.json").write_text('{"stage":')
    asked = {"model": "ppo", "messages": HELLO}
    long = [b"x" * 2**16] * 80
    with LabelStore(tmp_path / "labels.db") as labels:
        app = make(labels, AppSettings(), engine, Checkpoints(Store(tmp_path / "store")))
        web = TestClient(app, base_url="http://localhost", raise_server_exceptions=False)
        listed = web.get("/v1/models").json()["data"]
        answers = {
            503: [web.get("/health"), web.get("/metrics"), web.post("/v1/chat/completions", json=asked)],
            500: [web.get("/v1/models/sft"), web.post("/v1/completions", json={"model": "sft"})],
            413: [web.post("/v1/completions", content=each) for each in (iter(long), b"".join(long))],
            404: [web.get("/v1/no%0Athing"), web.post("/v1/embeddings")],
            405: [web.get("/v1/chat/completions")],
            421: [web.get("/v1/models", headers={"Host": "rebound.example"})],
        }
    assert [model["id"] for model in listed] == ["ppo/0001-tiny", "base/0001-tiny"]
    for status, some in answers.items():
        for answer in some:
            error = answer.json()["error"]
            assert answer.status_code == status and error["message"] and "\n" not in error["message"]
            assert error["type"] == ("server_error" if status >= 500 else "invalid_request_error")


def test_a_client_that_hangs_up_ends_the_scoring_of_its_prompts(engine, chat_store, tmp_path, monkeypatch):
    asked, call = [], engine.call
    monkeypatch.setattr(engine, "call", lambda *arguments: asked.append(arguments) or call(*arguments))
    body = {"model": "ppo", "prompt": ["a", "b", "c"] * 9, "max_tokens": 0, "echo": True, "logprobs": 1}
    heard = iter([{"type": "http.request", "body": json.dumps(body).encode()}])
    sent = []

    async def receive():
        return next(heard, {"type": "http.disconnect"})

    async def send(message):
        sent.append(message.get("status"))

    headers = [(b"host", b"localhost")]
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/completions",
        "query_string": b"",
        "headers": headers,
    }
    with LabelStore(tmp_path / "labels.db") as labels:
        app = api_app(labels, AppSettings(), engine, Checkpoints(chat_store))
        with ThreadPoolExecutor() as aside:  # in this thread a browser's loop may run
            aside.submit(asyncio.run, app(scope, receive, send)).result()
    assert sent[0] == 499 and len(asked) <= 1


def test_a_page_elsewhere_cannot_ask(address):
    headers = {"Origin": "https://elsewhere.example", "Sec-Fetch-Site": "cross-site"}
    asked = {"model": "ppo", "messages": HELLO}
    assert httpx.post(f"{address}/v1/chat/completions", json=asked, headers=headers).status_code == 403
    assert httpx.get(f"{address}/v1/models", headers={"Host": "rebound.example"}).status_code == 421
