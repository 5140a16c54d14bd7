"""Blocking queries: requests that wait until a topic has passed an index, a limit has passed, or their client has gone.

One of them is a future, a timer and the task that tells of the client's end: as little as can be, because there are
thousands. So there are limits too, and one client address cannot take them all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from typing import NamedTuple

from gapless.api.consul.answer import Refusal
from gapless.api.consul.request import Request
from gapless.core.alarms import Alarms
from gapless.core.ports import World
from gapless.discovery.topics import Topics
from gapless.service.asgi import Presence

PER_CLIENT = 16_384
"""Watches of one address: more than any agent or proxy holds, and what remains is for the others."""
IN_ALL = 65_536
"""About 500 MB."""
JITTER = 16
"""Up to `wait`/16 is added, so that watches which began together do not end together."""
RETRY_AFTER = ((b"retry-after", b"1"),)


class ClientLeft(Exception):
    """Nobody waits for the answer any more."""


class WatchLimits(NamedTuple):
    per_client: int = PER_CLIENT
    """429 above."""
    in_all: int = IN_ALL
    """503 above."""


class Watches:
    """All that wait now."""

    def __init__(self, world: World, limits: WatchLimits = WatchLimits()) -> None:  # noqa: B008 - frozen
        self._world = world
        self._limits = limits
        self._by_client: dict[str, int] = {}
        self._waiters: set[asyncio.Future[int]] = set()
        self._released = False
        self._alarms = Alarms(world)

    @property
    def waiting(self) -> int:
        return len(self._waiters)

    async def until(
        self, request: Request, topics: Topics, topic: Hashable, current: Callable[[], int] | None = None
    ) -> None:
        """Returns at once unless the request has an `index`; else when the topic's index is above it, or its `wait` is
        over. `current` tells that index where `topics` does not. Raises Refusal (400, 429, 503), ClientLeft."""
        asked = request.blocking()
        index = current or (lambda: topics.index(topic))
        if not asked.index or self._released or index() > asked.index:
            return
        self._enter(request.client)
        client = _presence(request)
        until = self._until(asked.wait_s)
        try:
            while index() <= asked.index and self._world.now() < until and not self._released:
                waiter = self._wait(topics, topic, until, client)
                try:
                    await waiter
                finally:
                    self._woken(topics, topic, waiter)
                if client.gone:
                    raise ClientLeft
        finally:
            self._leave(request.client)
            if isinstance(client, _Listener):
                client.end()

    def _until(self, wait_s: float) -> float:
        return self._world.now() + wait_s * (1 + self._world.random() / JITTER)

    def _wait(self, topics: Topics, topic: Hashable, until: float, client: Presence) -> asyncio.Future[int]:
        """Done when the topic moves, the time is over, the client leaves, or all are released."""
        waiter: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        client.tell(waiter)
        topics.enter(topic, waiter)
        self._waiters.add(waiter)
        self._alarms.add(until, waiter)
        return waiter

    def _woken(self, topics: Topics, topic: Hashable, waiter: asyncio.Future[int]) -> None:
        waiter.cancel()  # when it is we who are cancelled: it is done for everybody
        self._waiters.discard(waiter)
        topics.leave(topic, waiter)
        self._alarms.drop()

    def _enter(self, client: str) -> None:
        held = self._by_client.get(client, 0)
        if held >= self._limits.per_client:
            raise Refusal(429, f"your address holds {held} blocking queries already: end some first", RETRY_AFTER)
        if self.waiting >= self._limits.in_all:
            raise Refusal(503, f"{self.waiting} blocking queries are held already: try again later", RETRY_AFTER)
        self._by_client[client] = held + 1

    def _leave(self, client: str) -> None:
        left = self._by_client[client] - 1
        if left:
            self._by_client[client] = left
        else:
            del self._by_client[client]

    def release(self) -> None:
        """The server ends: all are answered with what there is, and none waits any more."""
        self._released = True
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(0)


def _presence(request: Request) -> Presence:
    """The server itself, where it is ours; else a task that listens."""
    owner = getattr(request.receive, "__self__", None)
    return owner if isinstance(owner, Presence) else _Listener(request)


class _Listener:
    """`Presence` by what every ASGI server offers."""

    def __init__(self, request: Request) -> None:
        self._listening = asyncio.get_running_loop().create_task(_left(request))

    @property
    def gone(self) -> bool:
        return self._listening.done()

    def tell(self, waiter: asyncio.Future[int]) -> None:
        self._listening.add_done_callback(lambda _: None if waiter.done() else waiter.set_result(0))

    def end(self) -> None:
        self._listening.cancel()


async def _left(request: Request) -> None:
    """Returns when the client has gone."""
    assert request.receive is not None
    while (await request.receive())["type"] != "http.disconnect":
        continue
