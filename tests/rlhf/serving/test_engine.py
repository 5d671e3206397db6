"""Continuous batching: whoever comes and goes, every request gets the answer it would get alone."""

import gc
import random
import time
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, Qwen2Config

from rlhf.errors import InputError
from rlhf.models.gpt import GPT
from rlhf.models.tokenizer import any_tokenizer, train_tokenizer
from rlhf.sampling.generate import SamplingSettings, generate
from rlhf.serving.completions import Answer, Done, Failed, Queued, Request, Started
from rlhf.serving.engine import Engine, TextStream
from rlhf.serving.precision import cast
from tests.rlhf.models import chat_templates

TEXTS = [
    "The red kite is in the park. Tom has a blue boat. Where is the dog? The dog barks. Ünï 日本語 🙂"
] * 5
TOKENIZER = train_tokenizer(TEXTS, 400)


def small_model(kind):
    torch.manual_seed(0)
    size = {"vocab_size": TOKENIZER.vocab_size}
    if kind == "gpt":
        return GPT(GPT2Config(n_layer=2, n_head=2, n_embd=32, n_positions=128, initializer_range=0.2, **size))
    small = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 128, "initializer_range": 0.2,
    }  # fmt: skip
    if kind == "llama":
        return AutoModelForCausalLM.from_config(LlamaConfig(**small, **size, head_dim=16))
    window = {"use_sliding_window": True, "sliding_window": 12, "max_window_layers": 1}
    return AutoModelForCausalLM.from_config(Qwen2Config(**small, **size, **window))


@pytest.fixture(scope="module", params=["gpt", "llama", "sliding qwen"])
def model(request):
    return small_model(request.param).eval()


def ask(number, **more):
    words = " ".join(
        random.Random(number).choices(
            ["where", "is", "the", "red", "blue", "dog", "kite", "boat"], k=1 + number % 9
        )
    )
    asked = {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 5 + number % 17, "seed": number}
    return Request(messages=({"role": "user", "content": words},), **asked | more)


def run(engine, arrivals, hangups=()):
    """Answers by key; arrivals: {step: [(key, request)]}, hangups: {step: [key]}."""
    answers, hangups = {}, dict(hangups)
    step = 0
    while engine.num_requests or any(number >= step for number in arrivals):
        for key, request in arrivals.get(step, ()):
            engine.submit(key, request)
        for key in hangups.get(step, ()):
            engine.cancel(key)
        for key, event in engine.step():
            answers.setdefault(key, Answer()).add(event)
        step += 1
        assert step < 2000
    return answers


def alone(model, request):
    prompt = TOKENIZER.encode_prompt(list(request.messages))
    sampling = SamplingSettings(
        max_new_tokens=request.max_new_tokens,
        temperature=request.temperature,
        top_k=request.top_k,
        top_p=request.top_p,
        repetition_penalty=request.repetition_penalty,
    )
    [sample] = generate(model, [prompt], sampling, stop_ids=TOKENIZER.stop_ids, seed=request.seed)
    return TOKENIZER.decode(sample.tokens), sample.ended


def test_answers_equal_those_of_generate_whoever_else_is_in_the_batch(model):
    settings = ({"repetition_penalty": 1.3}, {"top_k": 5}, {"top_p": 0.8}, {"temperature": 0.0})
    requests = {f"r{i}": ask(i, **settings[i % 4]) for i in range(14)} | {"long": ask(20, max_new_tokens=110)}
    arrivals = {}
    for i, (key, request) in enumerate(requests.items()):
        arrivals.setdefault(i * i // 9, []).append((key, request))
    answers = run(Engine(model, TOKENIZER, max_rows=4), arrivals, {9: ["r3"], 12: ["r7"]})
    for key, request in requests.items():
        if answers[key].reason == "cancelled":
            continue
        text, ended = alone(model, request)
        assert (answers[key].text, answers[key].reason) == (text, "stop" if ended else "length")
    assert sum(answer.reason == "cancelled" for answer in answers.values()) <= 2


@settings(max_examples=12)
@given(
    st.lists(
        st.tuples(st.integers(0, 12), st.integers(0, 40), st.one_of(st.none(), st.integers(0, 25))),
        min_size=1,
        max_size=10,
    ),
    st.integers(1, 4),
)
def test_any_order_of_coming_and_hanging_up_leaves_the_others_alone(plan, max_rows):
    engine = Engine(GPT_MODEL, TOKENIZER, max_rows=max_rows)
    arrivals, hangups = {}, {}
    for i, (step, number, hangup) in enumerate(plan):
        arrivals.setdefault(step, []).append((f"r{i}", ask(number)))
        if hangup is not None:
            hangups.setdefault(step + hangup, []).append(f"r{i}")
    answers = run(engine, arrivals, hangups)
    for i, (_, number, _) in enumerate(plan):
        answer, (text, _) = answers[f"r{i}"], alone(GPT_MODEL, ask(number))
        assert answer.text == text if answer.reason != "cancelled" else text.startswith(answer.text)
    assert engine.num_requests == 0 and not engine.decoder.lengths.any()


GPT_MODEL = small_model("gpt").eval()
END = TOKENIZER.eos_id


def test_a_cancelled_answer_frees_its_slot_for_the_next_step():
    engine = Engine(GPT_MODEL, TOKENIZER, max_rows=1)
    engine.submit("long", ask(1, max_new_tokens=100, seed=3))
    engine.submit("next", ask(2))
    first = engine.step()
    assert ("next", Queued(1)) in first and not any(
        isinstance(event, Started) for key, event in first if key == "next"
    )
    engine.cancel("long")
    second = engine.step()
    assert [event.reason for key, event in second if key == "long"] == ["cancelled"]
    assert any(isinstance(event, Started) for key, event in second if key == "next")


def test_a_request_cancelled_while_its_prompt_is_read_frees_its_slot(monkeypatch):
    monkeypatch.setattr("rlhf.serving.engine.PREFILL_TOKENS", 4)
    engine = Engine(GPT_MODEL, TOKENIZER, max_rows=1)
    for i in range(3):
        engine.submit(f"long{i}", ask(8, seed=i))
        engine.step()
        assert engine.reading
        engine.cancel(f"long{i}")
    answer = run(engine, {0: [("next", ask(2))]})["next"]
    assert answer.text == alone(GPT_MODEL, ask(2))[0]


def test_answers_that_make_way_for_others_are_those_given_alone(model, monkeypatch):
    monkeypatch.setattr("rlhf.serving.engine.TURN_S", 0.0)
    changes = ({"repetition_penalty": 1.3}, {"frequency_penalty": 0.5, "temperature": 0.0}, {"stop": ("zz",)})
    requests = {f"r{i}": ask(i, **changes[i % 3]) for i in range(8)}
    engine = Engine(model, TOKENIZER, max_rows=2)
    expected = {}
    for key, request in requests.items():
        expected[key] = run(Engine(model, TOKENIZER, max_rows=1), {0: [(key, request)]})[key]
    started = []
    for key, request in requests.items():
        engine.submit(key, request)
    answers = {}
    while engine.num_requests:
        for key, event in engine.step():
            answers.setdefault(key, Answer()).add(event)
            started += [key] * isinstance(event, Started)
    assert answers == expected and sorted(started) == sorted(requests)
    assert sorted(engine.free) == [0, 1]


def test_a_short_request_does_not_wait_for_the_end_of_long_ones(monkeypatch):
    monkeypatch.setattr("rlhf.serving.engine.TURN_S", 0.02)
    engine = Engine(GPT_MODEL, TOKENIZER, max_rows=2)
    for i in range(2):
        engine.submit(
            f"long{i}",
            ask(1, seed=3 + i, max_new_tokens=110, logit_bias=dict.fromkeys(TOKENIZER.stop_ids, -100)),
        )
    engine.step()
    engine.submit("short", ask(2, max_new_tokens=2))
    ends = []
    while engine.num_requests:
        ends += [key for key, event in engine.step() if isinstance(event, Done)]
        time.sleep(0.002)
    assert ends[0] == "short" and len(ends) == 3


def test_a_long_prompt_does_not_hold_up_a_running_answer(monkeypatch):
    monkeypatch.setattr("rlhf.serving.engine.PREFILL_TOKENS", 16)
    engine = Engine(GPT_MODEL, TOKENIZER, max_rows=2)
    quick = ask(1, max_new_tokens=60, seed=2)
    long = Request(
        messages=({"role": "user", "content": "the dog " * 40},),
        seed=5,
        top_p=1.0,
        temperature=1.0,
        max_new_tokens=8,
    )
    engine.submit("quick", quick)
    engine.step()
    engine.submit("long", long)
    answer, steps = Answer(), 0
    while engine.reading or steps == 0:
        before = len(engine.running[0].completion)
        for key, event in engine.step():
            if key == "long":
                answer.add(event)
        steps += 1
        began = (
            engine.is_others_turn
        )  # of the long one the first token, and that call read the last of its prompt
        assert len(engine.running[0].completion) == before + (not began) and began == (not engine.reading)
    assert steps >= 5
    assert answer.text + run(engine, {})["long"].text == alone(GPT_MODEL, long)[0]


def test_the_first_token_is_told_before_the_second_is_computed():
    engine = Engine(GPT_MODEL, TOKENIZER, max_rows=2)
    engine.submit("one", ask(1, max_new_tokens=60, seed=2))
    for _ in range(3):
        engine.step()
    engine.submit("two", ask(2, max_new_tokens=60, seed=3))
    told = [key for key, _ in engine.step()]
    assert "two" in told and [len(row.completion) for row in engine.running] == [3, 1]
    engine.step()
    assert [len(row.completion) for row in engine.running] == [4, 2]


def test_the_line_is_bounded_and_tells_the_place():
    engine = Engine(GPT_MODEL, TOKENIZER, max_rows=1, max_waiting=2)
    for i in range(5):
        engine.submit(f"r{i}", ask(i))
        engine.step() if i == 0 else None
    events = engine.step()
    assert [(key, event.place) for key, event in events if isinstance(event, Queued)] == [
        ("r1", 1),
        ("r2", 2),
    ]
    assert [(key, event.kind) for key, event in events if isinstance(event, Failed)] == [
        ("r3", "busy"),
        ("r4", "busy"),
    ]
    places = {}
    while engine.num_requests:
        for key, event in engine.step():
            if isinstance(event, Queued):
                places.setdefault(key, []).append(event.place)
    assert places == {"r2": [1]}


def test_free_slots_are_no_part_of_the_line_and_what_follows_an_ended_answer_is_let_in():
    engine = Engine(GPT_MODEL, TOKENIZER, max_rows=4, max_waiting=2)
    for i in range(7):
        engine.submit(f"r{i}", ask(i))
    engine.submit("next", ask(7), follows=True)
    refused = [key for key, event in engine.step() if isinstance(event, Failed)]
    assert refused == ["r6"] and "next" in run(engine, {})


def test_one_account_with_many_requests_does_not_keep_another_waiting():
    engine = Engine(GPT_MODEL, TOKENIZER, max_rows=2)
    for i in range(8):
        engine.submit(f"greedy{i}", ask(8, seed=i + 3, owner="a", max_new_tokens=9 + i))
    engine.step()
    assert len(engine.running) == 2
    engine.submit("other", ask(2, owner="b"))
    order = []
    while engine.num_requests:
        order += [key for key, event in engine.step() if isinstance(event, Started)]
    assert order[0] == "other"


def test_running_answers_advance_together_one_token_a_step():
    engine = Engine(GPT_MODEL, TOKENIZER, max_rows=8)
    for i in range(8):
        engine.submit(f"r{i}", ask(i, max_new_tokens=40))
    engine.step()
    for _ in range(20):
        said = {row.key: len(row.completion) for row in engine.running}
        engine.step()
        for row in engine.running:
            assert len(row.completion) == said[row.key] + 1


def test_stop_texts_end_an_answer_and_are_not_shown():
    plain = run(Engine(GPT_MODEL, TOKENIZER), {0: [("a", ask(5, max_new_tokens=40))]})["a"].text
    stop = plain[len(plain) // 2 :][:3]
    answer = run(Engine(GPT_MODEL, TOKENIZER), {0: [("a", ask(5, max_new_tokens=40, stop=(stop,)))]})["a"]
    assert answer.text == plain[: plain.index(stop)] and answer.reason == "stop"


def tokenizers():
    """Ours, and those of others: bytes, and SentencePiece's two forms, which write rare characters as single bytes."""
    return {"ours": TOKENIZER} | {
        kind: any_tokenizer(chat_templates.tokenizer(kind, chat_templates.CHATML))
        for kind in ("bytes", "Llama 2", "Metaspace")
    }


KINDS = tokenizers()
CHARACTERS = st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from("ab é日本🙂�"))


@settings(max_examples=200)
@given(
    st.sampled_from(sorted(KINDS)),
    st.lists(st.text(CHARACTERS, max_size=12), max_size=20),
    st.lists(st.text(CHARACTERS, min_size=1, max_size=3), max_size=2),
)
def test_streamed_text_is_the_whole_text_up_to_the_first_stop(kind, texts, stops):
    special = KINDS[kind].encode_prompt("?")[0]  # nothing of it is shown
    tokens = [token for text in texts for token in (*KINDS[kind].encode(text), special)]
    stream, got, whole = TextStream(KINDS[kind], stops), "", KINDS[kind].decode(tokens)
    for token in tokens:
        got += stream.push(token)
        assert whole.startswith(got)
        if stream.stopped:
            break
    else:
        got += stream.flush()
    ends = [whole.find(stop) for stop in stops if stop in whole]
    assert got == (whole[: min(ends)] if ends else whole)


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_that_are_no_character_hold_up_nothing(kind):
    tokenizer, stream = KINDS[kind], TextStream(KINDS[kind], ())
    [*whole, last] = tokenizer.encode("a 𝄞")
    rest = tokenizer.encode_continuation(" b")
    assert "".join(map(stream.push, [*whole, last])).endswith("a 𝄞")
    assert [stream.push(last) for _ in range(20)] == ["�"] * 20
    first = next(
        token for token in whole if tokenizer.token_bytes(token)[-1] == 0xF0
    )  # of a character's four bytes
    assert len("".join(stream.push(first) for _ in range(20))) > 15
    assert "".join(map(stream.push, rest)).endswith(" b") and not stream.flush()
    cut = TextStream(tokenizer, ())
    assert "".join(map(cut.push, whole)).endswith("a ") and set(cut.flush()) == {"�"}


@pytest.mark.parametrize("kind", KINDS)
def test_what_continues_a_text_keeps_the_space_at_its_beginning(kind):
    tokenizer = KINDS[kind]
    size = {"n_layer": 1, "n_head": 1, "n_embd": 8, "n_positions": 64}
    engine = Engine(GPT(GPT2Config(vocab_size=tokenizer.vocab_size, **size)), tokenizer)
    [said, *_] = tokenizer.encode_continuation(" boat")
    forced = {"logit_bias": {said: 100}, "temperature": 0.0, "max_new_tokens": 1}
    begun = ({"role": "user", "content": "?"}, {"role": "assistant", "content": "the red"})
    asked = [Request(prompt="the red", **forced), Request(messages=begun, continue_last=True, **forced)]
    for request in asked:
        assert run(engine, {0: [("a", request)]})["a"].text.startswith(" ")


def test_the_time_limit_ends_an_answer_with_what_it_has():
    answer = run(Engine(GPT_MODEL, TOKENIZER), {0: [("a", ask(5, max_new_tokens=100, timeout_s=0.0))]})["a"]
    assert answer.reason == "time" and answer.completion_tokens == 1


def test_a_prompt_over_the_context_is_refused_or_loses_its_oldest_turns():
    turns = [{"role": "system", "content": "Be brief."}]
    for i in range(20):
        turns += [
            {"role": "user", "content": f"where is dog {i}"},
            {"role": "assistant", "content": "The dog barks."},
        ]
    turns.append({"role": "user", "content": "where is the kite"})
    engine = Engine(GPT_MODEL, TOKENIZER)
    engine.submit("strict", Request(messages=tuple(turns)))
    engine.submit("lenient", Request(messages=tuple(turns), drop_oldest=True, max_new_tokens=16))
    events = engine.step()
    [refused] = [event for key, event in events if key == "strict"]
    assert refused.kind == "input" and "context is 128" in refused.error
    [started] = [event for key, event in events if key == "lenient" and isinstance(event, Started)]
    assert started.dropped % 2 == 0 and started.dropped > 20 and started.prompt_tokens + 16 <= 128
    kept = turns[:1] + turns[1 + started.dropped :]
    assert started.prompt_tokens == len(TOKENIZER.encode_prompt(kept))


def test_probabilities_and_alternatives_are_those_of_the_model():
    request = ask(6, alternatives=3, max_new_tokens=6)
    answer = run(Engine(GPT_MODEL, TOKENIZER), {0: [("a", request)], 2: [("b", ask(3))]})["a"]
    prompt = TOKENIZER.encode_prompt(list(request.messages))
    [sample] = generate(
        GPT_MODEL,
        [prompt],
        SamplingSettings(max_new_tokens=6),
        stop_ids=TOKENIZER.stop_ids,
        seed=6,
    )
    said = sample.tokens  # the end token too, where the model said it
    with torch.no_grad():
        logprobs = GPT_MODEL(torch.tensor([prompt + said])).logits[0, len(prompt) - 1 :].log_softmax(-1)
    assert len(answer.tokens) == len(said)
    for info, token, row in zip(answer.tokens, said, logprobs, strict=False):
        assert info.logprob == pytest.approx(float(row[token]), abs=1e-4)
        assert [value for _, value in info.alternatives] == pytest.approx(
            row.topk(3).values.tolist(), abs=1e-4
        )


def test_a_repetition_penalty_forbids_what_was_said_before(monkeypatch):
    greedy = {"temperature": 0.0, "max_new_tokens": 30}
    repeated = run(Engine(GPT_MODEL, TOKENIZER), {0: [("a", ask(1, **greedy))]})["a"]
    penalised = run(Engine(GPT_MODEL, TOKENIZER), {0: [("a", ask(1, repetition_penalty=10.0, **greedy))]})[
        "a"
    ]
    tokens = TOKENIZER.encode(penalised.text)
    assert len(set(tokens)) / len(tokens) > len(set(TOKENIZER.encode(repeated.text))) / len(
        TOKENIZER.encode(repeated.text)
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", -1), ("temperature", 2.5), ("temperature", 1e-30), ("top_p", 0), ("top_p", 1.1), ("top_k", -1), ("max_new_tokens", 0),
     ("seed", -1), ("repetition_penalty", 0), ("alternatives", 21), ("stop", ("",)), ("messages", ())],
)  # fmt: skip
def test_parameters_out_of_range_are_named(name, value):
    with pytest.raises(InputError, match=name):
        Request(**{"messages": ({"role": "user", "content": "hi"},), name: value})


def test_embeddings_beyond_the_vocabulary_are_never_said():
    torch.manual_seed(1)
    wide = GPT(
        GPT2Config(n_layer=1, n_head=1, n_embd=8, n_positions=64, vocab_size=50 * TOKENIZER.vocab_size)
    )
    answer = run(Engine(wide, TOKENIZER), {0: [("a", ask(3, max_new_tokens=20, alternatives=20))]})["a"]
    assert answer.completion_tokens > 0 and len(answer.tokens[0].alternatives) == 20


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_below_float32_too_an_answer_does_not_depend_on_its_company(precision):
    model, packed = cast(small_model("llama"), precision)
    requests = {f"r{i}": ask(i, top_p=0.9) for i in range(8)}
    together = run(Engine(model, TOKENIZER, max_rows=3, packed=packed), {0: list(requests.items())})
    for key, request in requests.items():
        alone = run(Engine(model, TOKENIZER, max_rows=1, packed=packed), {0: [(key, request)]})
        assert together[key] == alone[key]


def test_8_bits_are_refused_where_there_is_no_loop_for_them():
    with pytest.raises(InputError, match="--precision bfloat16"):
        cast(small_model("sliding qwen"), "int8")  # heads of 8 numbers


def test_a_conversation_that_goes_on_reads_only_what_is_new():
    model = small_model("gpt").eval()
    engine = Engine(model, TOKENIZER, max_rows=2)
    first = Request(
        messages=({"role": "user", "content": "where is the red kite " * 4},), max_new_tokens=9, seed=1
    )
    said = run(engine, {0: [("a", first)]})["a"]
    turns = (
        *first.messages,
        {"role": "assistant", "content": said.text},
        {"role": "user", "content": "and the dog"},
    )
    second = Request(messages=turns, max_new_tokens=9, seed=2, temperature=1.0, top_p=1.0)
    engine.submit("b", second)
    read, decoder_read = [], engine.decoder.read
    engine.decoder.read = lambda slots, texts: read.extend(texts) or decoder_read(slots, texts)
    answer = Answer()
    while engine.num_requests:
        for _, event in engine.step():
            answer.add(event)
    assert len(read) == 1 and len(read[0]) < len(TOKENIZER.encode_prompt(list(turns))) - 20
    assert answer.text == alone(model, second)[0]


@pytest.mark.parametrize(("kind", "precision"), [("gpt", "float32"), ("llama", "float32"), ("llama", "int8")])
def test_no_weights_are_held_twice(kind, precision):
    """GPT's matrices lie transposed in the decoder, those of 8 bits are other numbers: the model's own go."""
    model, packed = cast(small_model(kind).eval(), precision)
    own = sum(weight.nbytes for weight in model.parameters())
    trunk = weakref.ref(model.base_model)
    engine = Engine(model, TOKENIZER, packed=packed)
    del model
    gc.collect()
    assert trunk() is None
    kept = {
        each.untyped_storage().data_ptr(): each.untyped_storage().nbytes()
        for each in engine.decoder.family.kept
    }
    assert sum(kept.values()) <= 1.1 * own
    assert run(engine, {0: [("a", ask(1))]})["a"].reason
