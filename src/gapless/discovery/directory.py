"""The caller's side of discovery: the last known routing table, kept fresh in the background.

A table comes from a control plane, which streams all services at once (the first one from a file that it leaves beside
its socket, so that a service finds the others even when it starts while the control plane is down); or from a source
(`discovery.sources`), which is asked about each service that somebody calls. When either is gone the last known table
stays: callers learn from refused connections what has changed meanwhile (`discovery.load`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from functools import partial
from typing import TypeVar

from gapless.core.codec import decode
from gapless.core.errors import ConfigError, StoreBroken
from gapless.core.model import BUCKETS, Endpoint, RouteTable, ServiceTable, Split
from gapless.core.ports import World
from gapless.discovery.lasting import Stream, lasting
from gapless.discovery.sights import Sights, report_always
from gapless.discovery.sources.cache import Cache
from gapless.discovery.sources.source import USAGE, Source, source_of, without_option
from gapless.discovery.sources.static import endpoints as placed

T = TypeVar("T")
DOUBT_S = 30.0
"""So long a source must say that a service has no instance left, before those that were known are given up: rather has
a registry lost its memory (and is told of them again within a few heartbeats) than all of them ended at once. Who has
really ended refuses connections, and costs callers nothing but that."""
NO_TABLE = RouteTable(version=0, services=())

_log = logging.getLogger("gapless.discovery")


def static(service: str, addresses: Iterable[str], release: str = "") -> RouteTable:
    """A table of one service at fixed `host:port` addresses. Raises ValueError for anything else."""
    return RouteTable(version=0, services=(table_of(service, placed(addresses, release), release),))


def table_of(service: str, endpoints: tuple[Endpoint, ...], release: str = "") -> ServiceTable:
    """Everything that is known of a service where only its instances are."""
    split = Split(service=service, stable=release, weights=((release, BUCKETS),))
    return ServiceTable(service=service, split=split, endpoints=endpoints)


class Directory:
    """The last known table. `start` begins to follow the stream, or what the source tells of a service; without either
    the table stays what it is."""

    def __init__(
        self,
        world: World,
        *,
        table: RouteTable = NO_TABLE,
        file: str = "",
        stream: Stream | None = None,
        source: Source | None = None,
        cache: Cache | None = None,
    ) -> None:
        self._world = world
        self._file = file
        self._stream = stream
        self._source = source
        self._cache = cache
        self._table = table
        self._by_name: dict[str, ServiceTable] = {each.service: each for each in table.services}
        self._changed = asyncio.Event()
        self._hooks: tuple[Callable[[RouteTable], None], ...] = ()
        self._following: dict[str, asyncio.Task[None]] = {}
        self._report = source.reporter() if source else None
        self.sights = Sights() if self._report else None
        """What callers have seen of instances, on its way to the registry; None where nobody wants to know."""
        self._doubts: dict[str, Callable[[], None]] = {}
        self._troubles: dict[str, str] = {}

    @classmethod
    def of_control(cls, state: str, socket: str, world: World) -> Directory:
        """Fed by a control plane: `state`/discovery.json, then the stream from `socket`; either may be empty."""
        from gapless.discovery.stream import open_stream

        file = os.path.join(state, "discovery.json") if state else ""
        return cls(world, file=file, stream=(lambda: open_stream(socket)) if socket else None)

    @classmethod
    def at(cls, address: str, world: World) -> Directory:
        """Fed by the source that an address names (`discovery.sources`). Raises ConfigError."""
        if "://" not in address:
            raise ConfigError(f"discovery {address!r} is no address of a registry", USAGE)
        where, kept = without_option(address, "cache")
        return cls(world, source=source_of(where, world), cache=Cache(kept) if kept else None)

    @property
    def table(self) -> RouteTable:
        return self._table

    @property
    def governs(self) -> bool:
        """Whether its tables say more of a service than where its instances are: sources know no more."""
        return self._source is None

    def service(self, name: str) -> ServiceTable | None:
        """What is known of a service now."""
        return self._by_name.get(name)

    def trouble(self, name: str) -> str:
        """Why nothing new is told of a service; empty when all is well."""
        return self._troubles.get(name, "") or self._troubles.get("", "")

    async def wait_for(self, name: str) -> ServiceTable:
        """The table of a service, once it has an endpoint. Waits for ever; the caller has a deadline."""
        while True:
            known = self._by_name.get(name)
            if known is not None and known.endpoints:
                return known
            await self._changed.wait()

    async def changed(self) -> None:
        """Returns with the next table."""
        await self._changed.wait()

    def update(self, table: RouteTable) -> None:
        """From now on this is the truth; who waits is woken."""
        self._table = table
        self._by_name = {each.service: each for each in table.services}
        self._changed.set()
        self._changed = asyncio.Event()
        for hook in self._hooks:
            hook(table)

    def subscribe(self, hook: Callable[[RouteTable], None]) -> None:
        """Tell `hook` each new table. It must not raise."""
        self._hooks = (*self._hooks, hook)

    async def start(self, *services: str) -> None:
        """Read the file and begin to follow the stream, or the source about these services; a second call does
        nothing."""
        if self._source is None:
            self._begin("", self._follow)
            return
        if self._report is not None:
            self._begin("", self._tell)
        for service in services:
            self._begin(service, lambda service=service: self._follow_service(service))  # type: ignore[misc]

    async def aclose(self) -> None:
        following, self._following = self._following, {}
        for task in following.values():
            task.cancel()
        if following:
            await asyncio.wait(following.values())
        for cancel in self._doubts.values():
            cancel()
        self._doubts.clear()
        if self._source is not None:
            await self._source.aclose()

    def _begin(self, name: str, follow: Callable[[], Awaitable[None]]) -> None:
        if name not in self._following:
            task: asyncio.Task[None] = asyncio.create_task(follow(), name=f"discovery {name}".rstrip())  # type: ignore[arg-type]
            task.add_done_callback(_ended)
            self._following[name] = task

    async def _follow(self) -> None:
        if self._file and not self._table.services:
            await self._read_file()
        if self._stream is not None:
            await self._keep("", "discovery stream", self._stream, self._take)

    async def _tell(self) -> None:
        assert self.sights is not None
        assert self._report is not None
        await report_always(self.sights, os.uname().nodename, self._report, self._world)

    async def _follow_service(self, name: str) -> None:
        assert self._source is not None
        source = self._source
        if self._cache and (kept := await asyncio.to_thread(self._cache.read, name)):
            self._put(kept)
        await self._keep(name, f"discovery of {name}", lambda: source.follow(name), partial(self._told, name))

    async def _keep(
        self, name: str, what: str, opened: Callable[[], AsyncGenerator[T]], take: Callable[[T], Awaitable[None]]
    ) -> None:
        """Follow for ever; whenever that ends, anew after a while."""

        def lost(error: Exception) -> None:
            self._troubles[name] = str(error) or "the connection ended"

        async with contextlib.aclosing(lasting(opened, self._world, what, lost)) as told:
            async for each in told:
                self._troubles.pop(name, None)
                await take(each)

    async def _read_file(self) -> None:
        try:
            with open(self._file, "rb") as file:  # noqa: ASYNC230 - once, local, before the first call
                await self._take(file.read())
        except FileNotFoundError:
            return  # the control plane has not written it yet: the stream tells
        except OSError as error:
            _log.warning("cannot read %s: %s", self._file, error)

    async def _take(self, document: bytes) -> None:
        try:
            self.update(decode(document, RouteTable))
        except StoreBroken as error:
            _log.error("discovery sent a table that does not fit, which is ignored: %s", error)

    async def _told(self, name: str, endpoints: tuple[Endpoint, ...]) -> None:
        """What the source says of a service. That nobody is left is believed only after a while."""
        known = self._by_name.get(name)
        if known and known.endpoints and not endpoints:
            if name not in self._doubts:
                self._doubts[name] = self._world.after(DOUBT_S, lambda: self._put(table_of(name, ())))
            return
        self._certain(name)
        if known is None or known.endpoints != endpoints:
            self._put(told := table_of(name, endpoints))
            if self._cache and endpoints:
                await asyncio.to_thread(self._cache.write, told)

    def _certain(self, name: str) -> None:
        cancel = self._doubts.pop(name, None)
        if cancel is not None:
            cancel()

    def _put(self, service: ServiceTable) -> None:
        self._certain(service.service)
        by_name = {**self._by_name, service.service: service}
        self.update(RouteTable(version=self._table.version + 1, services=tuple(by_name.values())))


def _ended(task: asyncio.Task[None]) -> None:
    """Nobody waits for it: an error that should not be must not pass unheard."""
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("%s has ended and tells nothing any more", task.get_name(), exc_info=error)
