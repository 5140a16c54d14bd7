"""One writer for each process: concurrent jobs share a transaction of Consul's, and processes take turns by `head`."""

from __future__ import annotations

import asyncio

from gapless.core import codec
from gapless.core.errors import LeaseLost, StoreBroken
from gapless.core.ports import World
from gapless.store._consul_http import ConsulServers
from gapless.store._consul_plan import ROOM, Plan, Seen, ended, fitting, planned, touched
from gapless.store._consul_wire import Chunk, Lease, Names, cas
from gapless.store._engine import Waiting, abandon, answer
from gapless.store._keys import Commit, Job, Revoke
from gapless.store._servers import RENEW_S

TRIES = 200
"""Refusals in a row, each because another process wrote first, until something else must be wrong."""
PAUSE_S, PAUSES = 0.02, 8
"""After a refusal so long at most, by dice, and each time that much longer, up to so many times: of several processes
that write at once, not always the same shall lose. Without the growth, eight are refused three times as often."""


class Writer:
    """Begins with the first job."""

    def __init__(self, servers: ConsulServers, names: Names, world: World) -> None:
        self._servers, self._names, self._world = servers, names, world
        self._queue: list[Waiting] = []
        self._task: asyncio.Task[None] | None = None

    async def submit(self, job: Job) -> Commit:
        """Raises Conflict, LeaseLost, StoreUnreachable, StoreFull; ValueError for more than Consul takes at once."""
        keys, leases = touched(job)
        if len(keys) + len(leases) > ROOM:
            raise ValueError(
                f"{len(keys)} keys and {len(leases)} leases are more than a transaction of Consul takes ({ROOM}): "
                "split it"
            )
        loop = asyncio.get_running_loop()
        waiting = Waiting(job, loop.create_future())
        self._queue.append(waiting)
        if self._task is None:
            self._task = loop.create_task(self._run(), name="consul-writer")
        return await waiting.answer

    async def finish(self) -> None:
        """What was accepted is done first."""
        if self._task is not None:
            await asyncio.wait({self._task})

    async def renew(self, lease: str) -> None:
        """Raises LeaseLost, StoreUnreachable."""
        name = self._names.lease(lease)
        for _ in range(TRIES):
            row = (await self._servers.read([name], RENEW_S)).get(name)
            known = codec.decode(row.value, Lease) if row else None
            if row is None or known is None or known.ended:
                raise LeaseLost(f"lease {lease!r} has expired or was revoked")
            renewed = Lease(ttl_s=known.ttl_s, keys=known.keys, beat=known.beat + 1)
            if await self._servers.write([cas(name, codec.encode(renewed), row.index)], RENEW_S) is not None:
                return
        raise self._stuck()

    async def lapse(self, lease: str, index: int) -> None:
        """End a lease that has lapsed, unless it was renewed since it was seen at this index."""
        await self._end(lease, index)

    async def _run(self) -> None:
        try:
            while self._queue:
                count = fitting([waiting.job for waiting in self._queue])
                batch, self._queue = self._queue[:count], self._queue[count:]
                await self._commit([waiting for waiting in batch if not waiting.answer.done()])
        finally:
            self._task = None
            abandon(self._queue)
            self._queue.clear()

    async def _commit(self, batch: list[Waiting]) -> None:
        """Whatever goes wrong, everyone in it hears."""
        try:
            jobs = [waiting.job for waiting in batch]
            outcomes = [await self._revoke(jobs[0])] if _is_revoke(jobs) else (await self._done(jobs)).outcomes
        except Exception as error:  # noqa: BLE001 - passed on to everyone who waits
            answer(batch, [error] * len(batch))
        except asyncio.CancelledError:
            abandon(batch)
            raise
        else:
            answer(batch, outcomes)

    async def _done(self, jobs: list[Job]) -> Plan:
        keys = {self._names.key(key) for job in jobs for key in touched(job)[0]}
        leases = {self._names.lease(lease) for job in jobs for lease in touched(job)[1]}
        mark = self._world.token() + self._world.token()
        for tried in range(TRIES):
            seen = Seen(self._names, await self._servers.read([self._names.head, *keys, *leases]))
            plan = planned(seen, jobs, mark)
            if not plan.ops or await self._servers.write(plan.ops) is not None:
                return plan
            if await self._is_ours(seen.head.batch + 1, mark):
                return plan  # it was done, and the answer was lost
            await self._give_way(tried)
        raise self._stuck()

    async def _is_ours(self, batch: int, mark: str) -> bool:
        name = self._names.slot(batch)
        row = (await self._servers.read([name])).get(name)
        chunk = codec.decode(row.value, Chunk) if row else None
        return chunk is not None and (chunk.batch, chunk.id) == (batch, mark)

    async def _revoke(self, job: Job) -> Commit:
        assert isinstance(job, Revoke)
        return await self._end(job.lease, None)

    async def _end(self, lease: str, index: int | None) -> Commit:
        """In as many turns as it takes; the first one already keeps everybody from renewing it."""
        name = self._names.lease(lease)
        commit, mark = Commit(revision=0), self._world.token() + self._world.token()
        for tried in range(TRIES):
            row = (await self._servers.read([name])).get(name)
            if row is None or (index is not None and row.index != index):
                return commit
            keys = codec.decode(row.value, Lease).keys[: ROOM - 1]
            # The 64 of one read: head, the record and the keys of one turn.
            seen = Seen(self._names, await self._servers.read([self._names.head, name, *map(self._names.key, keys)]))
            if seen.index(name) != row.index:
                continue
            plan, more = ended(seen, lease, mark)
            written = await self._servers.write(plan.ops)
            if written is None:
                await self._give_way(tried)
                continue
            (commit,) = (one for one in plan.outcomes if isinstance(one, Commit))
            if not more:
                return commit
            index = None  # from here on it is ours to finish
        raise self._stuck()

    async def _give_way(self, tried: int) -> None:
        """To another process that writes. Once it is not waited for: perhaps only an answer was lost."""
        if tried:
            await self._world.sleep(PAUSE_S * min(tried, PAUSES) * self._world.random())

    def _stuck(self) -> StoreBroken:
        return StoreBroken(
            f"Consul has refused a write {TRIES} times", f"Does anything but Gapless write below {self._names.head!r}?"
        )


def _is_revoke(jobs: list[Job]) -> bool:
    return len(jobs) == 1 and isinstance(jobs[0], Revoke)
