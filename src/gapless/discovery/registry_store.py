"""The registry on a store that this process reaches by itself: it is an agent of its own (`catalog`, `checks`).

All that it registers hangs on one lease, which the keeper renews. So it goes when the process dies, whoever else is
there, and no process has to look after another one's instances.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress

from gapless.core.errors import LeaseLost
from gapless.core.model import Endpoint
from gapless.core.ports import Store, World
from gapless.discovery.catalog import topic
from gapless.discovery.catalog.catalog import Catalog
from gapless.discovery.catalog.errors import NotRegistered
from gapless.discovery.catalog.values import CheckRow, Found
from gapless.discovery.checks.ask import Asker
from gapless.discovery.checks.runner import Runner
from gapless.discovery.registry import Registry, checks_of, instance_of
from gapless.discovery.registry_keeper import Keeper, Kept
from gapless.discovery.sources.source import endpoint_of
from gapless.store import open_store


@asynccontextmanager
async def store_registry(address: str, world: World, ttl_s: float) -> AsyncIterator[Registry]:
    """On the store at an address, which is closed with the block."""
    store = await open_store(address, world)
    try:
        async with registry_on(store, world, ttl_s=ttl_s) as registry:
            yield registry
    finally:
        await store.close()


@asynccontextmanager
async def registry_on(store: Store, world: World, *, ttl_s: float, node: str = "") -> AsyncIterator[StoreRegistry]:
    """On a store that somebody else closes. `node`: what the machine is called; not the name of a registry's own node,
    which goes with that registry."""
    registry = StoreRegistry(store, world, ttl_s=ttl_s, node=node or f"{os.uname().nodename}-direct")
    try:
        await registry.start()
        yield registry
    finally:
        await registry.aclose()


class StoreRegistry(Keeper):
    """`discovery.registry.Registry`."""

    def __init__(self, store: Store, world: World, *, ttl_s: float, node: str) -> None:
        super().__init__(world, ttl_s)
        self._store = store
        self._own: set[str] = set()
        self._catalog = Catalog(store, world, name=node)
        self._runner = Runner(self._catalog, world, Asker(world), mine=self._is_mine)

    async def start(self) -> None:
        await self._catalog.start()
        await self._runner.start()

    async def aclose(self) -> None:
        await super().aclose()
        await self._runner.aclose()
        await self._catalog.aclose()

    async def list(self, service: str) -> tuple[Endpoint, ...]:
        return tuple(map(_endpoint, self._catalog.instances(service, passing=True)))

    async def watch(self, service: str) -> AsyncGenerator[tuple[Endpoint, ...]]:
        index = -1
        while True:
            index = await self._catalog.topics.passed(topic.health(service), index)
            yield await self.list(service)

    def _is_mine(self, row: CheckRow) -> bool:
        return row.check.service_id in self._own

    async def _enter(self, kept: Kept) -> None:
        # Known before it is written: the runner asks whose its checks are when it sees them.
        self._own.add(kept.registration.identity)
        checks = checks_of(kept.registration, self._ttl_s, kept.status)
        await self._catalog.register(instance_of(kept.registration), checks, replace=True, rewrite=True)
        await self._runner.heard(kept.registration.heartbeat, kept.status, kept.note)

    async def _leave(self, identity: str) -> None:
        with suppress(NotRegistered):  # somebody else may have done it
            await self._catalog.deregister(identity)
        self._own.discard(identity)

    async def _beat(self, kept: Kept) -> None:
        try:
            await self._runner.heard(kept.registration.heartbeat, kept.status, kept.note)
        except NotRegistered:
            if self._is_kept(kept):
                await self._enter(kept)

    async def _renew(self) -> None:
        if not await self._has_lease():
            self._catalog.lease = await self._store.grant(self._ttl_s)
            for kept in tuple(self._kept.values()):
                await self._enter(kept)

    async def _has_lease(self) -> bool:
        try:
            if self._catalog.lease:
                await self._store.renew(self._catalog.lease)
        except LeaseLost:
            return False
        return bool(self._catalog.lease)


def _endpoint(found: Found) -> Endpoint:
    instance, node = found.instance, found.node
    meta = {**(node.node.meta if node else {}), **instance.meta}
    return endpoint_of(instance.id, found.address, instance.port, meta, instance.weights.passing)
