"""What engines say, on its way to another process: a little at a time, as often as an eye can see."""

import time
from collections.abc import Callable, Sequence

from rlhf.serving.completions import Event, Piece

ALIVE_EVERY_S = 5.0  # with work under way something is sent at least so often
TELL_EVERY_S = 0.02  # no eye sees more, and each telling takes time of three processes


class Teller:
    """Passes on what engines say; pieces that follow each other quickly as one.

    The first piece of an answer goes at once, and so does whatever is no piece, with all that came before it.
    """

    def __init__(self, send: Callable[[list[tuple[str, Event]]], None]) -> None:
        self.send = send
        self.held: list[tuple[str, Event]] = []
        self.begun: set[str] = set()  # answers of which a piece was told
        self.told_at = time.monotonic()

    def take(self, events: Sequence[tuple[str, Event]]) -> None:
        """Pass these on now or, if they are pieces of answers that have begun, a little later."""
        waits = all(isinstance(event, Piece) and key in self.begun for key, event in events)
        self.held += events
        silent_s = time.monotonic() - self.told_at
        if silent_s > ALIVE_EVERY_S or (self.held and (not waits or silent_s >= TELL_EVERY_S)):
            self.tell()

    def tell_all(self) -> None:
        """Pass on what is left, before a time without work."""
        if self.held:
            self.tell()
        self.told_at = time.monotonic()

    def tell(self) -> None:
        """Pass on what there is, even if that is nothing."""
        for key, event in self.held:
            if isinstance(event, Piece):
                self.begun.add(key)
            else:
                self.begun.discard(key)
        self.send(joined(self.held))
        self.held, self.told_at = [], time.monotonic()


def joined(events: Sequence[tuple[str, Event]]) -> list[tuple[str, Event]]:
    """The same events, pieces of one answer that nothing else of it parts as one piece."""
    told: list[tuple[str, Event]] = []
    places: dict[str, int] = {}  # of an answer's latest piece
    for key, event in events:
        place = places.get(key)
        if not isinstance(event, Piece):
            places.pop(key, None)
        elif place is None:
            places[key] = len(told)
        else:
            before = told[place][1]
            assert isinstance(before, Piece)
            told[place] = key, Piece(before.text + event.text, before.tokens + event.tokens)
            continue
        told.append((key, event))
    return told
