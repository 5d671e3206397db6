"""Pieces that follow each other quickly are told as one; nothing is lost, changed or told out of order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.serving import telling
from rlhf.serving.completions import Done, Piece, Started, TokenInfo
from rlhf.serving.telling import Teller

EVENTS = st.one_of(
    st.builds(Piece, st.text(max_size=3), st.lists(st.builds(TokenInfo, st.binary(max_size=1), st.just(-1.0), st.just(())), max_size=2).map(tuple)),
    st.just(Done("stop", 1)),
    st.just(Started(3, 0)),
)  # fmt: skip


class Clock:
    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(telling, "time", clock)
    return clock


def tell_letters(letters, clock, every_s):
    """A teller that was given a letter of an answer at a time, and what it told."""
    told = []
    teller = Teller(told.append)
    for text in letters:
        teller.take([("x", Piece(text))])
        clock.now += every_s
    return teller, told


def essence(events):
    """Of each answer: what it said between its other events, and these."""
    found = {}
    for key, event in events:
        said = found.setdefault(key, [("", ())])
        if isinstance(event, Piece):
            text, tokens = said[-1]
            said[-1] = (text + event.text, tokens + event.tokens)
        else:
            said += [event, ("", ())]
    return found


@given(st.lists(st.lists(st.tuples(st.sampled_from("abc"), EVENTS), max_size=4), max_size=8))
def test_whatever_is_said_is_told_in_the_end_in_each_answers_order(steps):
    told = []
    teller = Teller(told.extend)
    for events in steps:
        teller.take(events)
    teller.tell_all()
    assert essence(told) == essence([event for events in steps for event in events])


def test_the_first_piece_goes_at_once_and_later_ones_in_twos(clock):
    teller, told = tell_letters("abcdef", clock, 0.0125)
    assert told == [[("x", Piece("a"))], [("x", Piece("bc"))], [("x", Piece("de"))]]
    teller.take([("x", Done("stop", 6))])
    assert told[3] == [("x", Piece("f")), ("x", Done("stop", 6))]


def test_an_answer_that_begins_holds_up_no_other_and_is_not_held_up(clock):
    told = []
    teller = Teller(told.append)
    teller.take([("x", Piece("a"))])
    teller.take([("x", Piece("b"))])
    teller.take([("x", Piece("c")), ("y", Piece("d"))])
    assert told == [[("x", Piece("a"))], [("x", Piece("bc")), ("y", Piece("d"))]]


def test_slow_steps_are_told_one_by_one_and_work_without_a_word_sends_a_sign_of_life(clock):
    teller, told = tell_letters("abc", clock, 0.05)
    assert len(told) == 3
    clock.now += 6
    teller.take([])
    assert told[3] == []
