"""The store in Consul's KV, over its HTTP API: for systems beyond one machine that have a Consul already.

Revisions are the store's own: a counter that each transaction moves on (`_consul_plan`). What is written below the
prefix by anything else goes unseen. Watches and history reach back over the last 512 transactions. Consul takes 64
operations and 512 KiB in one transaction: up to 62 keys, and about 150 KB of values.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from gapless.core import codec
from gapless.core.errors import GaplessError, StoreClosed
from gapless.core.ports import Delete, Entry, Listing, Op, Put, Update, World
from gapless.store._consul_http import ConsulServers
from gapless.store._consul_leases import Beats, look_every_s, looked
from gapless.store._consul_plan import updates
from gapless.store._consul_tail import ConsulWatch, Tail
from gapless.store._consul_wire import Lease, Names, entry, head
from gapless.store._consul_writer import Writer
from gapless.store._keys import Grant, Revoke, Transact, validate, validate_key, validate_ttl
from gapless.store._servers import Address

_log = logging.getLogger("gapless.store")


class ConsulStore:
    """`core.ports.Store`. Ready when constructed; whether Consul can be reached shows with the first call, which raises
    StoreUnreachable when it cannot."""

    def __init__(self, where: Address, world: World, servers: ConsulServers | None = None) -> None:
        """`servers`: instead of those of the address."""
        self._world = world
        self._servers = servers or ConsulServers(where)
        self._names = Names(where.prefix.lstrip("/"))
        self._writer = Writer(self._servers, self._names, world)
        self._tail = Tail(self._servers, self._names, world)
        self._reaper: asyncio.Task[None] | None = None
        self._open = True

    async def get(self, key: str) -> Entry | None:
        self._must_be_open()
        name = self._names.key(key)
        row = (await self._servers.read([name])).get(name)
        return entry(self._names, name, row) if row else None

    async def list(self, prefix: str) -> Listing:
        self._must_be_open()
        rows = await self._servers.read([self._names.head, self._names.below(prefix)])
        found = (entry(self._names, name, row) for name, row in rows.items() if self._names.is_key(name))
        # "=" ends each name in Consul, so that "a" may come along where "a=" was asked for.
        entries = sorted((one for one in found if one.key.startswith(prefix)), key=lambda one: one.key)
        return Listing(entries=tuple(entries), revision=head(rows, self._names).revision)

    async def put(self, key: str, value: bytes, *, expect: int | None = None, lease: str = "") -> int:
        return await self.transact(Put(key=key, value=value, expect=expect, lease=lease))

    async def delete(self, key: str, *, expect: int | None = None) -> int:
        return await self.transact(Delete(key=key, expect=expect))

    async def transact(self, *ops: Op) -> int:
        """Beyond the port: raises ValueError when a key is written twice or is none, and for more than Consul takes at
        once; TypeError for a value no bytes; StoreUnreachable, and then nobody knows whether it was done."""
        self._must_be_open()
        return (await self._writer.submit(Transact(validate(ops)))).revision

    def watch(self, prefix: str, *, after: int) -> ConsulWatch:
        self._must_be_open()
        if self._tail.log.error:  # it has told its watches; those who list anew begin anew
            self._tail = Tail(self._servers, self._names, self._world)
        return ConsulWatch(self._tail, prefix, after)

    async def history(self, key: str, *, limit: int = 100) -> Sequence[Update]:
        """Of the last 512 transactions."""
        self._must_be_open()
        validate_key(key)
        chunks = await self._tail.chunks()
        until = max((group[0].revision for chunk in chunks for group in chunk.groups), default=0)
        told = [update for group in updates(chunks, 0, until) for update in group if update.key == key]
        return told[: -limit - 1 : -1]

    async def grant(self, ttl_s: float) -> str:
        """Any time to live: see `_consul_leases`. It lapses up to a second late."""
        validate_ttl(ttl_s)
        self._must_be_open()
        lease = self._world.token() + self._world.token()
        await self._writer.submit(Grant(lease, ttl_s))
        return lease

    async def renew(self, lease: str) -> None:
        self._must_be_open()
        await self._writer.renew(lease)

    async def revoke(self, lease: str) -> None:
        self._must_be_open()
        await self._writer.submit(Revoke(lease))

    async def close(self) -> None:
        """Finishes what was accepted, then ends the watches. Closing twice is no error."""
        if not self._open:
            return
        self._open = False
        if self._reaper is not None:
            self._reaper.cancel()
            await asyncio.wait({self._reaper})
        await self._writer.finish()
        await self._tail.close()
        await self._servers.close()

    def _must_be_open(self) -> None:
        if not self._open:
            raise StoreClosed
        if self._reaper is None:
            self._reaper = asyncio.create_task(self._reap(), name="consul-leases")

    async def _reap(self) -> None:
        """End leases that have lapsed, whoever has granted them."""
        beats: Beats = {}
        looked_at = self._world.now()
        while True:
            records: dict[str, tuple[int, Lease]] = {}
            try:
                records = await self._leases()
                now = self._world.now()
                beats, lapsed = looked(beats, records, now, now - looked_at)
                looked_at = now
                for lease, index in lapsed.items():
                    await self._writer.lapse(lease, index)
            except GaplessError as error:
                _log.debug("leases in Consul cannot be looked after now: %s", error)
            await self._world.sleep(look_every_s(records))

    async def _leases(self) -> dict[str, tuple[int, Lease]]:
        rows = await self._servers.read([self._names.leases])
        return {
            name.removeprefix(self._names.leases): (row.index, codec.decode(row.value, Lease))
            for name, row in rows.items()
        }
