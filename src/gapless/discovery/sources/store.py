"""Instances of a registry in a store that this process reaches by itself: `etcd://HOST:2379`, or the store of a control
plane in the same process (`StoreSource.of(store, world)`).

The registry's rows are followed and read; nothing is written. Whoever runs the checks writes what they find.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

from gapless.core.model import Endpoint
from gapless.core.ports import Store, World
from gapless.discovery.catalog import keys, topic
from gapless.discovery.catalog.values import Found
from gapless.discovery.catalog.view import View, passing
from gapless.discovery.follow import Follower
from gapless.discovery.sources.source import Reporter, endpoint_of
from gapless.discovery.topics import Topics


class StoreSource:
    """`discovery.source.Source`. The store is opened by the first who follows, and closed with the source."""

    def __init__(self, opened: Callable[[], Awaitable[Store]], world: World, *, shared: bool = False) -> None:
        self._opened, self._world, self._shared = opened, world, shared
        self._store: Store | None = None
        self._follower: Follower | None = None
        self._view = View(Topics())
        self._starting = asyncio.Lock()

    @classmethod
    def of(cls, store: Store, world: World) -> StoreSource:
        """On a store that somebody else closes."""

        async def opened() -> Store:
            return store

        return cls(opened, world, shared=True)

    async def follow(self, service: str) -> AsyncGenerator[tuple[Endpoint, ...]]:
        """Raises what the store raises when it cannot be read at first; afterwards it is asked again and again."""
        await self._start()
        index = -1
        while True:
            index = await self._view.topics.passed(topic.health(service), index)
            yield tuple(_endpoint(each) for each in self._view.instances(service) if passing(each) and _there(each))

    def reporter(self) -> Reporter | None:
        return None

    async def aclose(self) -> None:
        if self._follower is not None:
            await self._follower.aclose()
        if self._store is not None and not self._shared:
            await self._store.close()

    async def _start(self) -> None:
        async with self._starting:
            if self._follower is not None:
                return
            if self._store is None:
                self._store = await self._opened()
            follower = Follower(self._store, keys.PREFIX, self._world, reset=self._view.reset, apply=self._view.apply)
            await follower.start()
            self._follower = follower


def _there(found: Found) -> bool:
    return found.instance.port > 0 and bool(found.address)


def _endpoint(found: Found) -> Endpoint:
    instance, node = found.instance, found.node
    return endpoint_of(
        instance.id,
        found.address,
        instance.port,
        {**(node.node.meta if node else {}), **instance.meta},
        instance.weights.passing,
    )
