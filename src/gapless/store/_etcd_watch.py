"""A watch on etcd that goes on where it was when its server has gone."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from typing import Any

from gapless.core.errors import Compacted, GaplessError
from gapless.core.ports import Update, World
from gapless.store._etcd_http import EtcdServers
from gapless.store._etcd_wire import Names, groups, refusal
from gapless.store._servers import BROKEN

Group = tuple[Update, ...]
QUIET_S = 2.0
"""A stream that told nothing for so long has its server asked whether it still belongs to a cluster with a leader: one
that was stopped or cut off keeps its connections, and would stay silent for ever."""
PAUSE_S = 0.2
"""Between two rounds through servers of which none answers."""
AHEAD = 1024
"""Groups held for a slow reader; then the stream waits."""


class Told:
    """What a stream has told and its reader has not taken yet; both know it, so that an abandoned reader can go."""

    def __init__(self) -> None:
        self.groups: deque[Group] = deque()
        self.more = asyncio.Event()
        self.room = asyncio.Event()
        self.room.set()
        self.error: GaplessError | None = None
        self.ended = False

    def close(self, _: object = None) -> None:
        """Nothing more comes, be it that the task which told was cancelled before it began."""
        self.ended = True
        self.more.set()

    async def add(self, new: list[Group]) -> None:
        self.groups.extend(new)
        self.more.set()
        if len(self.groups) > AHEAD:
            self.room.clear()
            await self.room.wait()


class EtcdWatch:
    """`Store.watch`: begins with its first use; a wait that is cancelled loses nothing."""

    def __init__(self, following: Following, running: set[asyncio.Task[None]]) -> None:
        self._following = following
        self._told = following.told
        self._running = running
        self._task: asyncio.Task[None] | None = None

    def __aiter__(self) -> EtcdWatch:
        return self

    async def __anext__(self) -> Group:
        if self._task is None and not self._told.ended:
            self._task = asyncio.create_task(self._following.run(), name="etcd-watch")
            self._running.add(self._task)
            self._task.add_done_callback(self._running.discard)
            self._task.add_done_callback(self._told.close)
        while not self._told.groups:
            if self._told.ended:
                raise self._told.error or StopAsyncIteration
            self._told.more.clear()
            await self._told.more.wait()
        group = self._told.groups.popleft()
        self._told.room.set()
        return group

    def __del__(self) -> None:
        if self._task is not None and not self._task.done() and not self._task.get_loop().is_closed():
            self._task.cancel()


class Following:
    """The stream of one watch, through however many connections."""

    def __init__(self, servers: EtcdServers, names: Names, world: World, prefix: str, after: int) -> None:
        self._servers = servers
        self._names = names
        self._world = world
        self._prefix = prefix
        self._after = after
        self._heard = False
        self.told = Told()

    async def run(self) -> None:
        try:
            while True:
                server = self._servers.current
                await self._stay(server)
                self._servers.skip(server)
                await self._world.sleep(PAUSE_S)
        except GaplessError as error:
            self.told.error = error

    async def _stay(self, server: int) -> None:
        """With one server, while it tells or at least lives. Raises Compacted."""
        following = asyncio.create_task(self._follow(server))
        try:
            while not following.done():
                self._heard = False
                await asyncio.wait({following}, timeout=QUIET_S)
                if not following.done() and not self._heard and not await self._lives(server):
                    return
        finally:
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await following

    async def _lives(self, server: int) -> bool:
        """A read that needs a leader."""
        key = self._names.key(self._prefix or "x")
        return await self._servers.ask(server, "kv/range", {"key": key, "count_only": True})

    async def _follow(self, server: int) -> None:
        create = {
            "key": self._names.key(self._prefix),
            "range_end": self._names.end(self._prefix),
            "start_revision": str(self._after + 1),
        }
        if not await self._lives(server):  # which also has us known to it, where users must be
            return
        try:
            async with self._servers.told(server, "watch", {"create_request": create}) as documents:
                async for document in documents:
                    await self._take(document)
        except BROKEN:
            return  # `run` goes on with the next server, from where this one was

    async def _take(self, document: dict[str, Any]) -> None:
        self._heard = True
        if "error" in document:
            raise refusal(200, json.dumps(document).encode())
        result = document["result"]
        if "compact_revision" in result:
            raise Compacted(f"revision {self._after} is no longer kept: compacted at {result['compact_revision']}")
        new = groups(self._names, result.get("events", ()))
        if new:
            self._after = new[-1][0].revision
            await self.told.add(new)
