"""What has been written to Consul, told to watches: the log's newest batches, read whenever `head` moves."""

from __future__ import annotations

import asyncio

from gapless.core import codec
from gapless.core.errors import Compacted, GaplessError, StoreUnreachable
from gapless.core.ports import Update, World
from gapless.store._consul_http import ConsulServers
from gapless.store._consul_plan import updates
from gapless.store._consul_wire import OPS, SLOTS, Chunk, Names, head
from gapless.store._servers import BROKEN
from gapless.store._watch import Group, Log, Watch, below

KEEP = 1024
"""Revisions that stay in memory for watches that are a little behind."""
PAUSE_S = 0.2
"""Between two rounds through servers of which none answers."""


class Tail:
    """Feeds `log`, from the first watch on. It ends with the log: when the store closes, or when it can no longer be
    told what was written (`Log.fail`)."""

    def __init__(self, servers: ConsulServers, names: Names, world: World) -> None:
        self._servers, self._names, self._world = servers, names, world
        self._beginning: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._batch = 0
        self._index = 0
        self.log = Log(self, KEEP)

    async def begin(self) -> None:
        """Once, however many ask; a failure may be tried again. Raises StoreUnreachable, ConfigError."""
        if self._beginning is None:
            self._beginning = asyncio.create_task(self._begin(), name="consul-tail")
        try:
            await asyncio.shield(self._beginning)
        except GaplessError:
            self._beginning = None
            raise

    async def close(self) -> None:
        self.log.close()
        tasks = [task for task in (self._beginning, self._task) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def read(self, prefix: str, after: int, until: int, limit: int) -> list[Group]:
        """See `_watch.Past`."""
        chunks = await self.chunks()
        if not any(chunk.after <= after for chunk in chunks):
            raise Compacted(f"revision {after} is too long ago to watch {prefix!r} from: {SLOTS} batches are kept")
        return list(below(prefix, updates(chunks, after, until)))[:limit]

    async def chunks(self) -> list[Chunk]:
        """All that the log keeps, oldest first."""
        rows = await self._servers.read([self._names.log])
        return sorted((codec.decode(row.value, Chunk) for row in rows.values()), key=lambda chunk: chunk.batch)

    async def _begin(self) -> None:
        now = head(await self._servers.read([self._names.head]), self._names)
        self._batch = now.batch
        self.log.begin(now.revision)
        self._task = asyncio.create_task(self._run(), name="consul-tail")

    async def _run(self) -> None:
        while not self.log.closed:
            server = self._servers.current
            try:
                self._index = await self._servers.wait(self._names.head, self._index)
                await self._catch_up()
                if not self._index:  # it went backwards; and a server that tells none is not to be asked without end
                    await self._world.sleep(PAUSE_S)
            except (*BROKEN, StoreUnreachable):
                self._servers.skip(server)
                await self._world.sleep(PAUSE_S)
            except GaplessError as error:
                self.log.fail(error)

    async def _catch_up(self) -> None:
        now = head(await self._servers.read([self._names.head]), self._names)
        if now.revision < self.log.revision or now.batch - self._batch > SLOTS:
            raise Compacted(f"Consul is at revision {now.revision}; what came after {self.log.revision} is not kept")
        while self._batch < now.batch:
            last = min(now.batch, self._batch + OPS)
            for chunk in await self._between(self._batch, last):
                for group in chunk.groups:
                    self.log.append(group)
            self._batch = last

    async def _between(self, after: int, last: int) -> list[Chunk]:
        """The batches in (after, last]. Raises Compacted when they have been written over meanwhile."""
        wanted = range(after + 1, last + 1)
        rows = await self._servers.read([self._names.slot(batch) for batch in wanted])
        chunks = sorted((codec.decode(row.value, Chunk) for row in rows.values()), key=lambda chunk: chunk.batch)
        if [chunk.batch for chunk in chunks] != list(wanted):
            raise Compacted(f"this process was away for more than {SLOTS} batches of writes")
        return chunks


class ConsulWatch:
    """`Store.watch`: begins with its first use."""

    def __init__(self, tail: Tail, prefix: str, after: int) -> None:
        self._tail = tail
        self._watch = Watch(tail.log, prefix, after)

    def __aiter__(self) -> ConsulWatch:
        return self

    async def __anext__(self) -> tuple[Update, ...]:
        if not self._tail.log.closed:
            await self._tail.begin()
        return await anext(self._watch)
