"""response_format: answers of models that babble are JSON, and follow the schema."""

import json
import os
import subprocess

import openai
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from tests.chat.tiny import TOKENIZER, serving

HELLO = [{"role": "user", "content": "where is the dog"}]
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "kind": {"enum": ["dog", "cat"]},
        "seen": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
    },
    "required": ["name", "age", "kind", "seen"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A model with a tokenizer of transformers' kind."""
    folder = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(
        **small, num_key_value_heads=2, vocab_size=TOKENIZER.vocab_size, initializer_range=0.3
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    TOKENIZER.fast().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def client(chat_store, llama, tmp_path_factory):
    labels = tmp_path_factory.mktemp("labels") / "labels.db"
    with serving(chat_store, labels, "serve", "--policy", llama) as found:
        yield openai.OpenAI(base_url=f"{found.url}/v1", api_key="anything", max_retries=0)


def strict(schema):
    return {"type": "json_schema", "json_schema": {"name": "animal", "schema": schema, "strict": True}}


def assert_follows(found):
    assert set(found) == set(SCHEMA["required"])
    assert isinstance(found["name"], str) and len(found["name"]) <= 8
    assert type(found["age"]) is int and 0 <= found["age"] <= 120 and found["kind"] in ("dog", "cat")
    assert 1 <= len(found["seen"]) <= 3 and all(type(one) is bool for one in found["seen"])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("which", ["ppo", "llama"])
def test_a_schema_is_followed_to_its_end(client, llama, which, temperature, stream):
    asked = {"model": llama if which == "llama" else which, "messages": HELLO, "temperature": temperature}
    answer = client.chat.completions.create(**asked, seed=3, response_format=strict(SCHEMA), stream=stream)
    if stream:
        text = "".join(chunk.choices[0].delta.content or "" for chunk in answer)
    else:
        text = answer.choices[0].message.content
        assert answer.choices[0].finish_reason == "stop"
    assert_follows(json.loads(text))


def test_any_object_is_an_object_and_others_in_the_batch_are_left_alone(client):
    plain = {"model": "ppo", "messages": HELLO, "seed": 7, "max_tokens": 20}
    alone = client.chat.completions.create(**plain).choices[0].message.content
    bias = {"logit_bias": {str(TOKENIZER.encode("}")[0]): 30}}  # babble would fill the context
    stream = client.chat.completions.create(
        **plain | bias, stream=True, response_format={"type": "json_object"}
    )
    text = next(stream).choices[0].delta.content
    assert client.chat.completions.create(**plain).choices[0].message.content == alone
    text += "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert isinstance(json.loads(text), dict)


def test_the_official_clients_parser_reads_it(client):
    from pydantic import BaseModel

    class Animal(BaseModel):
        kind: str
        legs: int

    bias = {str(TOKENIZER.encode(mark)[0]): 20 for mark in '",}'}
    parsed = client.chat.completions.parse(
        model="ppo", messages=HELLO, response_format=Animal, seed=1, logit_bias=bias
    )
    assert isinstance(parsed.choices[0].message.parsed, Animal)


def test_without_the_library_it_is_refused_with_what_to_install(chat_store, tmp_path, monkeypatch):
    (tmp_path / "llguidance.py").write_text("raise ImportError('none here')\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    with serving(chat_store, tmp_path / "labels.db", "serve", start=subprocess.Popen) as found:
        bare = openai.OpenAI(base_url=f"{found.url}/v1", api_key="anything", max_retries=0)
        asked = {"model": "ppo", "messages": HELLO, "max_tokens": 3}
        with pytest.raises(openai.BadRequestError, match=r"rlhf-loop\[json\]") as refused:
            bare.chat.completions.create(**asked, response_format={"type": "json_object"})
        assert refused.value.param == "response_format"
        assert bare.chat.completions.create(**asked).choices
