"""Turns: an answer makes way for those in line, and what is read again for that stays a small part of the time."""

import types

import pytest
import torch
from transformers import GPT2Config

from rlhf.models.gpt import GPT
from rlhf.models.tokenizer import train_tokenizer
from rlhf.serving import engine as engines
from rlhf.serving.completions import Done, Piece, Request
from rlhf.serving.engine import Engine

TOKENIZER = train_tokenizer(["The red kite is in the park. Tom has a blue boat."] * 5, 300)
GOES_ON = dict.fromkeys(TOKENIZER.stop_ids, -100)
SLOTS = 4


@pytest.fixture
def clock(monkeypatch):
    """The engine's clock, which only what the engine does moves."""
    now = types.SimpleNamespace(s=1000.0)
    monkeypatch.setattr(engines, "time", types.SimpleNamespace(monotonic=lambda: now.s))
    return now


def slow_engine(clock, read_per_s, step_s):
    """A real engine whose reading and steps take that long by the clock; what it has read is counted."""
    torch.manual_seed(0)
    size = {"n_layer": 1, "n_head": 1, "n_embd": 8, "n_positions": 1024}
    engine = Engine(GPT(GPT2Config(vocab_size=TOKENIZER.vocab_size, **size)), TOKENIZER, max_rows=SLOTS)
    read, step = engine.decoder.read, engine.decoder.step
    engine.num_read = 0

    def slow_read(slots, texts):
        engine.num_read += sum(map(len, texts))
        clock.s += sum(map(len, texts)) / read_per_s
        return read(slots, texts)

    def slow_step(slots, tokens):
        clock.s += step_s
        return step(slots, tokens)

    engine.decoder.read, engine.decoder.step = slow_read, slow_step
    return engine


def ask(engine, number, prompt, answer, **more):
    """A request of that many tokens for that many, its prompt like no other's."""
    tokens = tuple((number * 7 + i * (number + 3)) % 250 for i in range(prompt))
    request = Request(prompt=tokens, max_new_tokens=answer, seed=number, logit_bias=GOES_ON, **more)
    engine.submit(f"{number}", request)


def ends(engine):
    told = []
    while engine.num_requests:
        told += [event for _, event in engine.step() if isinstance(event, Done)]
    return told


def test_one_long_prompt_more_than_there_are_slots_costs_little_reading(clock):
    engine = slow_engine(clock, read_per_s=300, step_s=0.02)  # reading a prompt takes two seconds
    for number in range(SLOTS + 1):
        ask(engine, number, 600, 150)
    begun = clock.s
    assert {event.completion_tokens for event in ends(engine)} == {150}
    whole = (SLOTS + 1) * 600 / 300 + 2 * 150 * 0.02  # first four, then the fifth
    assert clock.s - begun < 1.4 * whole
    assert engine.num_read < 1.4 * (SLOTS + 1) * 600


@pytest.mark.parametrize(("read_per_s", "step_s"), [(300, 0.02), (100, 0.15)])
def test_reading_again_takes_a_small_part_of_the_time(clock, read_per_s, step_s):
    engine = slow_engine(clock, read_per_s, step_s)
    for number in range(3 * SLOTS):
        ask(engine, number, 300, 300, timeout_s=1e9)
    begun = clock.s
    assert len(ends(engine)) == 3 * SLOTS
    again_s = (engine.num_read - 3 * SLOTS * 300) / read_per_s
    assert again_s < 0.3 * (clock.s - begun)  # a text is longer each time that it is read


def test_a_short_request_gets_its_first_token_in_a_turn_whatever_the_others_take_to_read(clock):
    engine = slow_engine(clock, read_per_s=300, step_s=0.02)
    for number in range(SLOTS):
        ask(engine, number, 600, 400)
    while not (len(engine.running) == SLOTS and clock.s - engine.running[0].since > 11):
        engine.step()
    came = clock.s
    ask(engine, 9, 20, 20)
    while not any(key == "9" and isinstance(event, Piece) for key, event in engine.step()):
        assert engine.num_requests == SLOTS + 1  # none has come to its end
    assert clock.s - came < engines.TURN_S + 0.3


def test_time_in_line_is_not_time_to_answer(clock):
    engine = slow_engine(clock, read_per_s=2000, step_s=0.2)
    for number in range(5 * SLOTS):  # 20 s of writing each, 100 s until all are done
        ask(engine, number, 20, 100, timeout_s=25)
    assert {(event.reason, event.completion_tokens) for event in ends(engine)} == {("length", 100)}


def test_the_limit_counts_the_writing_of_all_turns_together(clock):
    engine = slow_engine(clock, read_per_s=2000, step_s=0.2)
    for number in range(2 * SLOTS):
        ask(engine, number, 20, 100, timeout_s=10)
    told = ends(engine)
    assert {event.reason for event in told} == {"time"}
    assert all(45 <= event.completion_tokens <= 56 for event in told)  # a turn's first token comes of reading
