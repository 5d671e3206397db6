"""Answers that are being written for the chat page, whoever watches: a page that is loaded anew joins its answer again."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

ALIVE_EVERY_S = 15.0  # a stream that says nothing for long is cut off by proxies

Tell = Callable[[dict[str, Any]], None]


class Watched:
    """Work that tells events, which any number of watchers hear from the first one on."""

    def __init__(self, owner: str, work: Callable[[Tell], Awaitable[None]]) -> None:
        self.owner = owner
        self.events: list[dict[str, Any]] = []
        self.news = asyncio.Event()
        self.task = asyncio.ensure_future(work(self._tell))
        self.task.add_done_callback(lambda _: self._wake())

    def _tell(self, event: dict[str, Any]) -> None:
        self.events.append(event)
        self._wake()

    def _wake(self) -> None:
        self.news.set()
        self.news = asyncio.Event()

    async def follow(self) -> AsyncIterator[dict[str, Any] | None]:
        """Every event until the work has ended; None where there was none for a while."""
        place = 0
        while True:
            news = self.news
            for event in self.events[place:]:
                yield event
                place += 1
            if place == len(self.events) and self.task.done():
                return
            if news is self.news:
                try:
                    await asyncio.wait_for(news.wait(), ALIVE_EVERY_S)
                except TimeoutError:
                    yield None


class Running:
    """What is under way, by conversation."""

    def __init__(self) -> None:
        self.watched: dict[int, list[Watched]] = {}

    def start(self, conversation: int, owner: str, work: Callable[[Tell], Awaitable[None]]) -> Watched:
        """Begin; it goes on when nobody watches."""
        begun = Watched(owner, work)
        self.watched.setdefault(conversation, []).append(begun)
        begun.task.add_done_callback(lambda _: self._forget(conversation, begun))
        return begun

    def _forget(self, conversation: int, ended: Watched) -> None:
        self.watched[conversation].remove(ended)
        if not self.watched[conversation]:
            del self.watched[conversation]

    def latest(self, conversation: int, owner: str) -> Watched | None:
        """What was begun last and is still under way."""
        mine = [one for one in self.watched.get(conversation, []) if one.owner == owner]
        return mine[-1] if mine else None

    def stop(self, conversation: int, owner: str) -> None:
        """End all of an own conversation's; what there is of the answers is kept."""
        for one in self.watched.get(conversation, []):
            if one.owner == owner:
                one.task.cancel()
