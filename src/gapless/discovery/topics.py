"""Who waits for what: each topic (a service, a key, all nodes) has an index that only rises, and those who wait for it
to rise. A change wakes whom it concerns and nobody else, whatever the number of those who wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable


class Topics:
    """Indexes by topic; one that has never moved stands at 0."""

    def __init__(self) -> None:
        self.floor = 0
        """No index is below this: that of everything whose own history is not kept."""
        self._indexes: dict[Hashable, int] = {}
        self._waiting: dict[Hashable, set[asyncio.Future[int]]] = {}

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(map(len, self._waiting.values()))

    def index(self, topic: Hashable) -> int:
        return max(self._indexes.get(topic, 0), self.floor)

    def move(self, topic: Hashable, index: int) -> None:
        """Something about the topic changed at `index`. An index never goes back."""
        if index <= self._indexes.get(topic, 0) or index <= self.floor:
            return
        self._indexes[topic] = index
        self.wake(topic, index)

    def wake(self, topic: Hashable, index: int) -> None:
        """Wake those who wait, without a word about it afterwards: for topics that somebody else keeps the index of."""
        for future in self._waiting.pop(topic, ()):
            if not future.done():
                future.set_result(index)

    def awaited(self, topic: Hashable) -> bool:
        """Whether anybody waits for it."""
        return topic in self._waiting

    async def passed(self, topic: Hashable, index: int) -> int:
        """Returns the topic's index as soon as it is above the given one. Waits for ever: the caller has a limit."""
        while (current := self.index(topic)) <= index:
            future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            self.enter(topic, future)
            try:
                await future
            finally:
                self.leave(topic, future)
        return current

    async def wait(
        self,
        topic: Hashable,
        index: int,
        seconds: float,
        after: Callable[[float, Callable[[], None]], Callable[[], None]],
    ) -> int:
        """The topic's index as soon as it is above the given one, or as it is when the time is over. `after` is that of
        the world (`core.ports.World`), and returns the way to cancel."""
        if (current := self.index(topic)) > index:
            return current
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        cancel = after(seconds, lambda: None if future.done() else future.set_result(index))
        self.enter(topic, future)
        try:
            await future
        finally:
            cancel()
            self.leave(topic, future)
        return self.index(topic)

    def enter(self, topic: Hashable, future: asyncio.Future[int]) -> None:
        """The future is given the index when the topic moves next; `leave` afterwards, whatever came of it."""
        self._waiting.setdefault(topic, set()).add(future)

    def leave(self, topic: Hashable, future: asyncio.Future[int]) -> None:
        waiting = self._waiting.get(topic)
        if waiting is not None:
            waiting.discard(future)
            if not waiting:
                del self._waiting[topic]
