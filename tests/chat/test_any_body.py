"""Whatever is sent to the API: an answer, or a clean refusal in the protocol's form; and the server goes on."""

import json
import time

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.chat.tiny import serving
from tests.fuzz.examples import examples

ANSWERS = {
    "/v1/chat/completions": "choices",
    "/v1/completions": "choices",
    "/tokenize": "tokens",
    "/detokenize": "prompt",
}


@pytest.fixture(scope="module")
def web(chat_store, tmp_path_factory):
    with (
        serving(chat_store, tmp_path_factory.mktemp("labels") / "labels.db", "serve") as server,
        httpx.Client(base_url=server.url, timeout=120) as web,
    ):
        yield web


small = st.integers(-3, 40)
numbers = st.one_of(
    small, st.floats(-3, 3), st.sampled_from([1e308, -0.0, 2**64, 10**30, float("nan"), float("inf")])
)
texts = st.one_of(st.text(max_size=20), st.sampled_from(["ppo", "<|end|>", "\0", "a" * 5000, "\ud800"]))
anything = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=6,
)
turns = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["user", "assistant", "system", "developer", "tool"]),
        "content": st.one_of(texts, anything),
    },
    optional={"name": anything, "tool_calls": anything},
)
prompts = st.one_of(
    texts,
    st.lists(small, max_size=5),
    st.lists(texts, max_size=3),
    st.lists(st.lists(small, max_size=4), max_size=3),
)
schemas = st.one_of(
    anything,
    st.fixed_dictionaries(
        {"type": st.sampled_from(["object", "array", "integer", "odd"])},
        optional={"properties": anything, "items": anything, "maxItems": small},
    ),
)
formats = st.one_of(
    anything,
    st.fixed_dictionaries(
        {"type": st.sampled_from(["text", "json_object", "json_schema", "xml"])},
        optional={
            "schema": schemas,
            "json_schema": st.fixed_dictionaries({"name": texts, "schema": schemas}),
        },
    ),
)
FIELDS = {
    "temperature": numbers, "top_p": numbers, "top_k": numbers, "min_p": numbers, "repetition_penalty": numbers,
    "presence_penalty": numbers, "frequency_penalty": numbers, "seed": numbers, "n": small, "stream": st.booleans(),
    "logit_bias": st.one_of(anything, st.dictionaries(st.sampled_from(["1", "5", "299", "300", "-1", "x"]), numbers, max_size=3)),
    "stop": st.one_of(texts, st.lists(texts, max_size=5), anything), "stream_options": anything, "user": anything,
    "logprobs": st.one_of(small, st.booleans()), "top_logprobs": numbers, "echo": st.booleans(), "best_of": anything,
    "suffix": anything, "tools": anything, "tool_choice": anything, "response_format": formats,
    "continue_final_message": st.booleans(), "add_generation_prompt": st.booleans(), "tokens": st.lists(small, max_size=5),
    "return_token_strs": anything,
}  # fmt: skip


@st.composite
def bodies(draw):
    """Bodies that are nearly right: the needed fields, a few others, now and then one that is nonsense."""
    path = draw(st.sampled_from(list(ANSWERS)))
    body = {"model": draw(st.sampled_from(["ppo", "ppo", "ppo", "sft", "none", "../x", "reward"]))}
    if path != "/detokenize":
        body["max_tokens" if "v1" in path else "return_token_strs"] = draw(st.integers(0, 8))
    body |= {"messages": draw(st.lists(turns, max_size=3))} if "chat" in path else {"prompt": draw(prompts)}
    names = draw(st.lists(st.sampled_from(list(FIELDS)), max_size=3))
    body |= {name: draw(FIELDS[name]) for name in names}
    if draw(st.booleans()) and draw(st.booleans()):
        body |= draw(st.dictionaries(texts, anything, max_size=2))
    return path, body


def check(web, path, content):
    answer = web.post(path, content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code in (200, 400, 404), (answer.status_code, answer.text)
    if answer.status_code != 200:
        error = answer.json()["error"]
        assert error["message"] and error["type"] == "invalid_request_error"
        assert "Traceback" not in error["message"] and "\n" not in error["message"]
    elif answer.headers["content-type"].startswith("text/event-stream"):
        assert '"error"' not in answer.text and answer.text.endswith("data: [DONE]\n\n")
    else:
        assert ANSWERS[path] in answer.json()


@examples(120)
@given(bodies())
def test_any_body_is_answered_or_refused_cleanly(web, asked):
    path, body = asked
    check(web, path, json.dumps(body).encode())


@examples(40)
@given(
    st.sampled_from(list(ANSWERS)),
    st.one_of(st.binary(max_size=60), anything.map(lambda value: json.dumps(value).encode())),
)
def test_what_is_no_body_at_all_is_refused_cleanly(web, path, content):
    check(web, path, content)


def test_nothing_is_left_under_way(web):
    while (health := web.get("/health").json())["state"] == "starting":  # where no other test came first
        time.sleep(0.1)
    assert health == {"state": "ready", "running": 0, "waiting": 0}
    assert "rlhf_engine_starts 1.0" in web.get("/metrics").text
