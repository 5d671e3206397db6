"""/v1/completions, /tokenize and /detokenize: texts and tokens as they are, scored and continued."""

import httpx
import openai
import pytest
import torch

from rlhf.models.checkpoints import load_policy
from rlhf.sampling.generate import SamplingSettings, generate
from tests.chat.tiny import TOKENIZER

TEXT = "The red kite is in the park."


@pytest.fixture(scope="module")
def model(chat_store):
    return load_policy(chat_store.resolve("ppo").path).eval()


def logprobs_of(model, tokens):
    """Of every token but the first, by one forward pass over all of them."""
    with torch.no_grad():
        rows = model(torch.tensor([tokens])).logits[0].log_softmax(-1)
    return [float(row[token]) for row, token in zip(rows, tokens[1:], strict=False)]


def alone(model, tokens, **settings):
    sampling = SamplingSettings(**settings)
    ends = {"stop_ids": TOKENIZER.stop_ids}
    [sample] = generate(model, [tokens], sampling, seed=4, **ends)
    return sample


def test_texts_and_tokens_are_continued_without_a_chat_around_them(client, model):
    tokens = [TOKENIZER.encode(text) for text in (TEXT, "Where is")]
    expected = [TOKENIZER.decode(alone(model, each, max_new_tokens=9).tokens) for each in tokens]
    for prompt in ([TEXT, "Where is"], tokens):
        answer = client.completions.create(model="ppo", prompt=prompt, seed=4, max_tokens=9)
        assert [choice.text for choice in answer.choices] == expected
        assert answer.usage.prompt_tokens == sum(map(len, tokens))
    pieces = ["", ""]
    for chunk in client.completions.create(model="ppo", prompt=tokens, seed=4, max_tokens=9, stream=True):
        pieces[chunk.choices[0].index] += chunk.choices[0].text
    assert pieces == expected


@pytest.mark.parametrize("max_tokens", [0, 1])
def test_an_echo_has_the_probability_of_every_token_as_lm_eval_reads_it(client, model, max_tokens):
    tokens = TOKENIZER.encode(TEXT * 40)[:300]  # longer than what is read at once
    asked = {"model": "ppo", "max_tokens": max_tokens, "temperature": 0, "echo": True, "logprobs": 2}
    answer = client.completions.create(prompt=[tokens, tokens[:5]], **asked)
    for choice, row in zip(answer.choices, (tokens, tokens[:5]), strict=True):
        told = choice.logprobs
        expected = logprobs_of(model, row)
        assert told.token_logprobs[0] is None and told.top_logprobs[0] is None
        assert len(told.tokens) == len(row) + max_tokens
        assert told.token_logprobs[1 : len(row)] == pytest.approx(expected, abs=1e-4)
        for own, likely in zip(told.token_logprobs[1:], told.top_logprobs[1:], strict=True):
            assert max(likely.values()) >= own - 1e-6 and len(likely) <= 2
        assert choice.text.startswith(TOKENIZER.decode(row))
    if not max_tokens:
        assert answer.usage.completion_tokens == 0 and answer.usage.prompt_tokens == 305
        assert answer.choices[1].text == TOKENIZER.decode(tokens[:5])
        text = "".join(told.tokens)
        assert [text[at:] for at in told.text_offset][1].startswith(told.tokens[1])


@pytest.mark.parametrize("stream", [False, True])
def test_a_list_longer_than_the_line_is_answered_as_slots_become_free(client, stream):
    prompts = [f"The red kite {i}" for i in range(100)]
    asked = {"model": "sft", "seed": 4, "max_tokens": 2, "stream": stream}
    answer, texts = client.completions.create(prompt=prompts, **asked), [""] * 100
    for choice in (choice for part in (answer if stream else [answer]) for choice in part.choices):
        texts[choice.index] += choice.text
    for place in (0, 17, 99):
        asked["stream"] = False
        assert texts[place] == client.completions.create(prompt=prompts[place], **asked).choices[0].text


def test_every_prompt_is_counted_once_whatever_is_asked_of_it(client):
    def counted(num_prompts, **more):
        asked = {"model": "sft", "prompt": [TEXT] * num_prompts, "max_tokens": 1} | more
        return client.completions.create(**asked).usage.prompt_tokens

    once = len(TOKENIZER.encode(TEXT))
    echo = {"echo": True, "max_tokens": 0}
    for more in ({}, {"n": 2}, echo, echo | {"n": 2}, echo | {"logprobs": 1, "n": 2}):
        assert [counted(number, **more) for number in (1, 2)] == [once, 2 * once], more


def test_parts_of_characters_are_told_as_bytes_and_begin_where_the_character_does(client, address):
    text = "é日🙂 kite"
    tokens = httpx.post(f"{address}/tokenize", json={"model": "ppo", "prompt": text}).json()["tokens"]
    said = [TOKENIZER.encoding.decode_single_token_bytes(token) for token in tokens]
    asked = {"model": "ppo", "logprobs": 1, "max_tokens": 2, "logit_bias": {tokens[0]: 100}}
    for stream in (False, True):
        answer = client.completions.create(**asked, prompt=text, echo=True, stream=stream)
        told = [each.choices[0].logprobs for each in (answer if stream else [answer])]
        offsets = [at for part in told if part for at in part.text_offset]
        before = [len(b"".join(said[:i]).decode(errors="ignore")) for i in range(len(said) + 1)]
        assert offsets == [*before, len(text) + 1]
    asked |= {"logprobs": True, "top_logprobs": 1, "messages": [{"role": "user", "content": "?"}]}
    [choice] = client.chat.completions.create(**asked).choices
    assert [token.bytes for token in choice.logprobs.content] == [list(said[0])] * 2
    likely = choice.logprobs.content[0].top_logprobs[0]
    assert bytes(likely.bytes).decode(errors="replace") == likely.token


def test_the_end_token_is_scored_too(client, model):
    """lm-eval cuts the last token off as the one that was generated: an answer that ends at once must have one."""
    bias = {TOKENIZER.eos_id: 100}
    asked = {"model": "ppo", "prompt": TEXT, "max_tokens": 1, "echo": True, "logprobs": 1, "logit_bias": bias}
    [choice] = client.completions.create(**asked).choices
    assert choice.logprobs.tokens[-1] == "<|end|>" and choice.text == TEXT
    assert choice.finish_reason == "stop"


def test_no_prompt_starts_a_document(client, model):
    sample = alone(model, [TOKENIZER.document_end_id], max_new_tokens=8)
    answer = client.completions.create(model="ppo", prompt=openai.NOT_GIVEN, seed=4, max_tokens=8)
    assert answer.choices[0].text == TOKENIZER.decode(sample.tokens)


@pytest.mark.parametrize(
    ("more", "param", "words"),
    [
        ({"suffix": "x"}, "suffix", "not offered"), ({"best_of": 3}, "best_of", "not offered"),
        ({"prompt": []}, "prompt", "give 1 to"), ({"prompt": [[]]}, "prompt", "empty"),
        ({"prompt": [70_000]}, "prompt", "token 70000"), ({"prompt": "a " * 4000}, "prompt", "context is 512"),
        ({"max_tokens": 0}, "max_tokens", "echo"), ({"logprobs": 21}, "logprobs", "20"),
        ({"prompt": "a " * 4000, "echo": True, "logprobs": 1}, "prompt", "context is 512"),
        ({"extra_body": {"best": 3}}, "best", "not known"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_named(client, more, param, words):
    with pytest.raises(openai.BadRequestError, match=words) as refused:
        client.completions.create(**{"model": "ppo", "prompt": TEXT} | more)
    assert refused.value.param == param


def test_tokens_and_text_are_each_others(address):
    def post(path, **body):
        return httpx.post(f"{address}{path}", json={"model": "ppo"} | body, timeout=60)

    told = post("/tokenize", prompt=TEXT, return_token_strs=True).json()
    assert told["tokens"] == TOKENIZER.encode(TEXT) and told["count"] == len(told["tokens"])
    assert "".join(told["token_strs"]) == TEXT and told["max_model_len"] == 512
    messages = [{"role": "user", "content": "hi"}]
    assert post("/tokenize", messages=messages).json()["tokens"] == TOKENIZER.encode_prompt(messages)
    whole = "<|user|>hi<|end|><|assistant|>"  # the template by hand: a program writes the whole prompt
    assert post("/tokenize", prompt=whole).json()["tokens"] == TOKENIZER.encode_prompt(messages)
    assert post("/tokenize", messages=[{"role": "user", "content": whole}]).json()["count"] > 20
    assert post("/detokenize", tokens=TOKENIZER.encode_prompt(messages)).json() == {"prompt": whole}
    assert post("/detokenize", tokens=told["tokens"]).json() == {"prompt": TEXT}
    for path, body in (("/tokenize", {}), ("/detokenize", {"tokens": [9**6]}), ("/tokenize", {"text": "a"})):
        assert post(path, **body).status_code == 400


# The rules by hand: the whole context anew for every token.


def slowly(model, tokens, change, num_tokens=12):
    """Greedy tokens where `change(logits, said)` changes the logits."""
    said = []
    while len(said) < num_tokens and not (said and said[-1] in TOKENIZER.stop_ids):
        with torch.no_grad():
            logits = model(torch.tensor([tokens + said])).logits[0, -1]
        said.append(int(change(logits, said).argmax()))
    return said


@pytest.mark.parametrize(
    "asked",
    [{"presence_penalty": 1.5}, {"frequency_penalty": 0.8}, {"presence_penalty": -2, "frequency_penalty": 2},
     {"logit_bias": {10: 4.0, 65: -100}}],
)  # fmt: skip
def test_penalties_and_bias_are_what_the_protocol_defines(client, model, asked):
    tokens = TOKENIZER.encode(TEXT)

    def change(logits, said):
        changed = logits.clone()
        for token, bias in asked.get("logit_bias", {}).items():
            changed[token] += bias
        for token in set(said):
            changed[token] -= asked.get("presence_penalty", 0)
            changed[token] -= said.count(token) * asked.get("frequency_penalty", 0)
        return changed

    answer = client.completions.create(model="ppo", prompt=TEXT, temperature=0, max_tokens=12, **asked)
    assert answer.choices[0].text == TOKENIZER.decode(slowly(model, tokens, change))
    assert slowly(model, tokens, change) != slowly(model, tokens, lambda logits, said: logits)


def test_min_p_draws_none_that_is_less_likely_than_a_share_of_the_likeliest(client, model):
    tokens, lowest = TOKENIZER.encode(TEXT), []
    for seed in range(6):
        asked = {"model": "ppo", "prompt": TEXT, "max_tokens": 10, "seed": seed, "logprobs": 1}
        [choice] = client.completions.create(**asked, extra_body={"min_p": 0.5}).choices
        pairs = zip(choice.logprobs.token_logprobs, choice.logprobs.top_logprobs, strict=True)
        lowest.append(min(own - max(likely.values()) for own, likely in pairs))
    assert min(lowest) >= torch.tensor(0.5).log() - 1e-4 and min(lowest) < 0
    sample = alone(model, tokens, max_new_tokens=10, min_p=0.5)
    answer = client.completions.create(
        model="ppo", prompt=TEXT, seed=4, max_tokens=10, extra_body={"min_p": 0.5}
    )
    assert answer.choices[0].text == TOKENIZER.decode(sample.tokens)


def test_a_last_assistant_message_is_continued(client, model):
    begun = [{"role": "user", "content": "where is the dog"}, {"role": "assistant", "content": "The dog"}]
    tokens = TOKENIZER.encode_prompt(begun[:1]) + TOKENIZER.encode("The dog")
    answer = client.chat.completions.create(
        model="ppo", messages=begun, seed=4, max_tokens=9, extra_body={"continue_final_message": True}
    )
    sample = alone(model, tokens, max_new_tokens=9)
    assert answer.choices[0].message.content == TOKENIZER.decode(sample.tokens)
    assert answer.usage.prompt_tokens == len(tokens)


def test_an_answer_ends_where_the_context_does(client):
    """The base model never ends an answer by itself."""
    prompt = TOKENIZER.encode(TEXT * 600)[:4000]
    answer = client.completions.create(model="base", prompt=prompt, seed=1, max_tokens=None)
    assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (96, "length")
