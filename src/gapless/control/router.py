"""Tells gateway and callers who may be asked: computes the table, has it applied, and knows when it is obeyed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

from gapless.control.records import Records
from gapless.control.table import Tables, with_forced
from gapless.core import codec
from gapless.core.errors import TrafficRefused
from gapless.core.events import Events, GatewayRefused
from gapless.core.model import Instance, Phase, RouteTable, Split
from gapless.core.model.alert import Forced
from gapless.core.model.mirror import MirrorTarget
from gapless.core.ports import Traffic, World

SETTLE_S = 0.2
"""Between the gateway's acknowledgement and the SIGTERM: callers that read the feed have long heard by then, and a
request that was on its way to a connection has arrived."""
OBEYED_S, LOOK_S = 10.0, 0.02
RETRY_S = 5.0
"""Before a refused table is offered again: the gateway may have been upgraded meanwhile."""


class Feed:
    """The table for callers: a file for those that start while no control plane is there, a stream for all others."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._changed = asyncio.Condition()
        self._document = b""
        self._serial = 0

    async def publish(self, table: RouteTable) -> None:
        """Replace the file atomically and wake the readers."""
        self._document = codec.encode(table)
        beside = self._path.with_suffix(".new")
        beside.write_bytes(self._document)
        os.replace(beside, self._path)
        async with self._changed:
            self._serial += 1
            self._changed.notify_all()

    def remove(self) -> None:
        """The system is down: nobody shall be sent to its last addresses."""
        self._path.unlink(missing_ok=True)

    async def follow(self) -> AsyncIterator[bytes]:
        """The present document, then each newer one; a slow reader skips to the newest."""
        seen = 0
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda seen=seen: self._serial > seen)  # type: ignore[misc]
                seen, document = self._serial, self._document
            yield document + b"\n"


class Router:
    """`step` is one look: anything new is published to callers and applied by the gateway."""

    def __init__(
        self,
        records: Records,
        traffic: Traffic,
        feed: Feed,
        world: World,
        events: Events,
        settle_s: float = SETTLE_S,
        mirrors: Callable[[], Mapping[str, MirrorTarget]] = dict,
    ) -> None:
        """`mirrors`: who gets a share of the requests of a service as well."""
        self._records = records
        self._traffic = traffic
        self._feed = feed
        self._world = world
        self._events = events
        self._settle_s = settle_s
        self._mirrors = mirrors
        self._tables = Tables()
        self._applied: RouteTable | None = None
        self._refused: RouteTable | None = None
        self._refused_at = 0.0
        self._obeyed_at: dict[str, float] = {}
        self.applied = 0
        """Revision of the records that the gateway obeys."""
        self.refusal = ""
        """The gateway's words about the newest table, when it refused it."""

    async def step(self) -> None:
        """Raises what `Traffic.apply` raises."""
        records, version = self._records, self._records.revision
        splits = [s for service in records.services() if (s := records.split(service.name))]
        faults = records.faults(self._world.time())
        table = self._tables.table(records.services(), splits, records.instances(), version, faults, self._mirrors())
        table = with_forced(table, records.all_of(Forced))
        if not _same(table, self._applied):
            if _same(table, self._refused) and self._world.now() - self._refused_at < RETRY_S:
                return
            await self._feed.publish(table)
            await self._apply(table)
        self.applied = version
        self._note_unrouted()

    async def _apply(self, table: RouteTable) -> None:
        try:
            await self._traffic.apply(table)
        except TrafficRefused as error:
            self._refused, self._refused_at, self.refusal = table, self._world.now(), error.what
            self._events(GatewayRefused(text=error.what))
            raise
        self._applied, self._refused, self.refusal = table, None, ""

    async def obeyed(self, revision: int) -> None:
        """Until the gateway obeys what was written at a revision, or for a while: a gateway that is away hears of it
        when it is back. Raises TrafficRefused when it refuses a table."""
        until = self._world.now() + OBEYED_S
        while self.applied < revision and self._world.now() < until:
            if self.refusal and self._refused and self._refused.version >= revision:
                raise TrafficRefused(self.refusal)
            await self._world.sleep(LOOK_S)

    @property
    def table(self) -> RouteTable:
        """The one that the gateway obeys; an empty one before the first."""
        return self._applied or RouteTable(version=0, services=())

    def applied_split(self, service: str) -> Split | None:
        """The split that the gateway obeys."""
        tables = self._applied.services if self._applied else ()
        return next((table.split for table in tables if table.service == service), None)

    def _note_unrouted(self) -> None:
        draining = [i for i in self._records.instances() if i.phase is Phase.DRAINING]
        now = self._world.now()
        self._obeyed_at = {
            i.id: self._obeyed_at.get(i.id, now) for i in draining if self._records.revision_of(i) <= self.applied
        }

    def unrouted(self, instance: Instance) -> bool:
        """Nobody sends to it any more: gateway and callers obey a table without it, or it never was in one."""
        if not instance.was_ready:
            return True
        obeyed_at = self._obeyed_at.get(instance.id)
        return obeyed_at is not None and self._world.now() - obeyed_at >= self._settle_s


def _same(table: RouteTable, other: RouteTable | None) -> bool:
    return other is not None and table.services == other.services
