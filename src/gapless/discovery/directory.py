"""The caller's side of discovery: the last known routing table, kept fresh in the background.

The first value comes from a file that the control plane leaves beside its socket, so that a service finds the others
even when it starts while the control plane is down; then every new table is streamed. When the control plane is gone
the last known table stays: callers learn from refused connections what has changed meanwhile (`discovery.balance`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncGenerator, Callable, Iterable

from gapless.core.codec import decode
from gapless.core.errors import StoreBroken
from gapless.core.model import BUCKETS, Address, Endpoint, RouteTable, ServiceTable, Split
from gapless.core.ports import World

Stream = Callable[[], AsyncGenerator[bytes]]
"""Opens a stream of JSON documents, one table each; raises OSError or EOFError when it ends."""

FIRST_BACKOFF_S = 0.1
LONGEST_BACKOFF_S = 5.0
"""A restarted control plane is found again within five seconds; until then everybody goes on with what is known."""
NO_TABLE = RouteTable(version=0, services=())

_log = logging.getLogger("gapless.discovery")


def static(service: str, addresses: Iterable[str], release: str = "") -> RouteTable:
    """A table of one service at fixed `host:port` addresses. Raises ValueError for anything else."""
    endpoints = []
    for address in addresses:
        host, colon, port = address.rpartition(":")
        if not (host and colon and port.isdigit()):
            raise ValueError(f"{address!r} is not host:port")
        place = Address(host=host.strip("[]"), port=int(port))
        endpoints.append(Endpoint(instance=address, release=release, address=place))
    split = Split(service=service, stable=release, weights=((release, BUCKETS),))
    return RouteTable(version=0, services=(ServiceTable(service=service, split=split, endpoints=tuple(endpoints)),))


class Directory:
    """The last known table. `start` begins to follow the stream; without one the table stays what it is."""

    def __init__(
        self, world: World, *, table: RouteTable = NO_TABLE, file: str = "", stream: Stream | None = None
    ) -> None:
        self._world = world
        self._file = file
        self._stream = stream
        self._table = table
        self._by_name: dict[str, ServiceTable] = {each.service: each for each in table.services}
        self._changed = asyncio.Event()
        self._following: asyncio.Task[None] | None = None

    @classmethod
    def of_control(cls, state: str, socket: str, world: World) -> Directory:
        """Fed by a control plane: `state`/discovery.json, then the stream from `socket`; either may be empty."""
        from gapless.discovery.stream import open_stream

        file = os.path.join(state, "discovery.json") if state else ""
        return cls(world, file=file, stream=(lambda: open_stream(socket)) if socket else None)

    @property
    def table(self) -> RouteTable:
        return self._table

    def service(self, name: str) -> ServiceTable | None:
        """What is known of a service now."""
        return self._by_name.get(name)

    async def wait_for(self, name: str) -> ServiceTable:
        """The table of a service, once it has an endpoint. Waits for ever; the caller has a deadline."""
        while True:
            known = self._by_name.get(name)
            if known is not None and known.endpoints:
                return known
            await self._changed.wait()

    def update(self, table: RouteTable) -> None:
        """From now on this is the truth; who waits is woken."""
        self._table = table
        self._by_name = {each.service: each for each in table.services}
        self._changed.set()
        self._changed = asyncio.Event()

    async def start(self) -> None:
        """Read the file and begin to follow the stream; a second call does nothing."""
        if self._following is not None:
            return
        self._following = asyncio.create_task(self._follow(), name="discovery")

    async def aclose(self) -> None:
        following, self._following = self._following, None
        if following is not None:
            following.cancel()
            await asyncio.wait({following})

    async def _follow(self) -> None:
        if self._file and not self._table.services:
            await self._read_file()
        failures = 0
        while self._stream is not None:
            try:
                async with contextlib.aclosing(self._stream()) as documents:
                    async for document in documents:
                        self._take(document)
                        failures = 0
            except (OSError, EOFError) as error:
                failures += 1
                level = logging.WARNING if failures == 1 else logging.DEBUG
                _log.log(level, "discovery stream lost (%s); going on with what is known", error or "it ended")
            await self._world.sleep(backoff(max(failures, 1), self._world.random()))

    async def _read_file(self) -> None:
        try:
            with open(self._file, "rb") as file:  # noqa: ASYNC230 - once, local, before the first call
                self._take(file.read())
        except FileNotFoundError:
            return  # the control plane has not written it yet: the stream tells
        except OSError as error:
            _log.warning("cannot read %s: %s", self._file, error)

    def _take(self, document: bytes) -> None:
        try:
            self.update(decode(document, RouteTable))
        except StoreBroken as error:
            _log.error("discovery sent a table that does not fit, which is ignored: %s", error)


def backoff(failures: int, dice: float) -> float:
    """Seconds before the next attempt: doubling, half of it jitter, so that all services do not come back at once."""
    longest = min(FIRST_BACKOFF_S * 2.0 ** min(failures - 1, 10), LONGEST_BACKOFF_S)
    return longest * (0.5 + dice / 2)
