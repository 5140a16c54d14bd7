"""A worker's life on its event loop: start → PREPARED → COMMIT → serve → leave."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from gapless.core.errors import NotReady
from gapless.core.events import StageEnded
from gapless.core.lifecycle import ANNOUNCE_S, drain_limits
from gapless.core.ports import World
from gapless.observe.log import log_stage
from gapless.server.accept import ALONE_BATCH, SHARED_BATCH, Acceptor
from gapless.server.handover import (
    Ask,
    Beat,
    Channel,
    Commit,
    Drain,
    Final,
    HandoverBroken,
    Leaving,
    Message,
    Prepared,
    Retire,
    Tell,
)
from gapless.server.handover import Serving as ServingMessage
from gapless.server.orphan import Watch
from gapless.server.protocol import Connection, Connections, make_config
from gapless.server.settings import ALIVE_S, BEFORE_LIMIT_S, Task
from gapless.service.kit import Service

_log = logging.getLogger("gapless.server")

BEAT_S = 1.0
PUSH_BEATS = 5
"""Every so many beats the samples go along, so that a crash loses few of them."""
RETIRE_IDLE_S = 10.0
"""A connection that has asked nothing for so long since the new generation serves is closed: a client that asks rarely
should rather find a closed connection than one that it closed on."""
DRAIN_IDLE_S = 1.0
"""The same when the whole server ends: whoever waits for its end does not wait for silent clients."""
PROBE_RETRY_S = 0.05
PROBE = b"GET /readyz HTTP/1.1\r\nhost: gapless\r\nuser-agent: gapless-self-probe\r\nconnection: close\r\n\r\n"


class Serving:
    def __init__(
        self,
        channel: Channel,
        listeners: list[socket.socket],
        outputs: dict[str, int],
        task: Task,
        service: Service,
        world: World,
        began: float,
        watch: Watch,
    ) -> None:
        self._channel = channel
        self._listeners = listeners
        self._outputs = outputs
        self._task = task
        self._service = service
        self._world = world
        self._began = began
        self._watch = watch
        self._orders: asyncio.Queue[Message] = asyncio.Queue()
        self._acceptors: list[Acceptor] = []
        self._beats = 0

    async def run(self) -> int:
        """Returns the exit code. Raises NotReady or AppError before it was PREPARED."""
        loop = asyncio.get_running_loop()
        self._watch.loading = False
        loop.add_signal_handler(signal.SIGTERM, self._terminated)
        loop.add_reader(self._channel.fileno(), self._hear)
        self._connections = Connections(self._task.keep_alive_s)
        self._config = make_config(self._service.app, self._task.keep_alive_s, self._task.access_log)
        starting = asyncio.ensure_future(self._start())
        spared = self._world.after(self._before_dump_s(), faulthandler.cancel_dump_traceback_later)
        ordered = asyncio.ensure_future(self._orders.get())
        await asyncio.wait({starting, ordered}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            return await self._abandon(starting)  # any order that comes before PREPARED is one to leave
        starting.result()
        spared()
        faulthandler.cancel_dump_traceback_later()
        self._channel.send(Prepared(self._world.now() - self._began))
        self._beat()
        return await self._obey(await ordered)

    def _before_dump_s(self) -> float:
        """Until just before the stacks would be shown. A loop that is alive then only waits, and says itself what for;
        one that is blocked cannot cancel, and its stack is the reason."""
        return max(self._task.start_s - BEFORE_LIMIT_S - ALIVE_S - (self._world.now() - self._began), 0.0)

    async def _abandon(self, starting: asyncio.Future[None]) -> int:
        starting.cancel()
        await asyncio.wait({starting})
        return 0

    async def _start(self) -> None:
        limit_s = self._task.start_s - (self._world.now() - self._began)
        await self._service.start(max(limit_s, 0.01))
        while not await self._probe():
            if self._world.now() - self._began > self._task.start_s:
                raise NotReady(f"/readyz did not answer 200 within {self._task.start_s:g} s", "Look at its checks.")
            await self._world.sleep(PROBE_RETRY_S)

    async def _probe(self) -> bool:
        """Ask ourselves through the real protocol: a first request finds everything imported and in place."""
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with ours:
            ours.setblocking(False)
            await loop.connect_accepted_socket(self._protocol, theirs)
            await loop.sock_sendall(ours, PROBE)
            answer = await loop.sock_recv(ours, 4096)
            while await loop.sock_recv(ours, 4096):
                continue
        return answer.split(b" ", 2)[1:2] == [b"200"]

    def _protocol(self) -> Connection:
        return Connection(self._config, self._connections, {}, _loop=asyncio.get_running_loop())

    async def _obey(self, order: Message) -> int:
        if isinstance(order, Commit):
            self._commit()
            order = await self._orders.get()
        return await self._leave(order)

    def _commit(self) -> None:
        self._own_outputs()
        batch = SHARED_BATCH if self._task.workers > 1 else ALONE_BATCH
        self._acceptors = [Acceptor(sock, self._protocol, batch) for sock in self._listeners]
        for acceptor in self._acceptors:
            acceptor.start()
        self._channel.send(ServingMessage())

    def _own_outputs(self) -> None:
        """While it started, the master read along what we wrote, for its report; from now on we write by ourselves."""
        for name, fd in (("stdout", 1), ("stderr", 2)):
            stream = getattr(sys, name)
            stream.flush()
            if name in self._outputs:
                os.dup2(self._outputs[name], fd)
                os.close(self._outputs.pop(name))

    # What the master says, and what it is told.

    def _hear(self) -> None:
        try:
            while received := self._channel.receive():
                self._heard(received.message)
        except (EOFError, HandoverBroken) as error:
            asyncio.get_running_loop().remove_reader(self._channel.fileno())
            _log.error("leaving, because the master is lost: %s", error)
            self._orders.put_nowait(Drain(self._task.drain_s))

    def _heard(self, message: Message) -> None:
        if isinstance(message, Ask):
            body: Any = self._service.samples() if message.what == "samples" else self._service.health()
            self._channel.send(Tell(message.id, message.what, body))
        elif isinstance(message, Retire | Drain) and self._connections.leaving:
            self._connections.tell(DRAIN_IDLE_S)  # it leaves already, and is no longer waited for so patiently
        elif isinstance(message, Commit | Retire | Drain):
            self._orders.put_nowait(message)

    def _terminated(self) -> None:
        """Somebody ends this worker alone: the master replaces it meanwhile."""
        if not self._connections.leaving:
            self._channel.send(Leaving("it was sent SIGTERM"))
            self._orders.put_nowait(Retire(self._task.drain_s))

    def _beat(self) -> None:
        self._connections.date()
        self._beats += 1
        if not self._channel.congested:
            self._channel.send(Beat(len(self._connections.connections)))
            if self._beats % PUSH_BEATS == 0:
                self._channel.send(Tell(0, "samples", self._service.samples()))
        self._world.after(BEAT_S, self._beat)

    # Leaving.

    async def _leave(self, order: Message) -> int:
        limit_s = order.limit_s if isinstance(order, Retire | Drain) else self._task.drain_s
        whole = isinstance(order, Drain)
        limits = drain_limits(limit_s, ANNOUNCE_S if whole else 0.0)
        self._connections.tell(DRAIN_IDLE_S if whole else RETIRE_IDLE_S)
        if whole:
            async with self._stage("announce"):
                self._service.announce()
                await self._world.sleep(limits.announce_s)
        async with self._stage("stop accepting"):
            await self._stop_accepting(last=whole)
        await self._finish(limits.finish_s)
        failed = await self._close(limits.close_s)
        self._channel.send(Final(self._service.samples()))
        while self._channel.congested:
            await self._world.sleep(0.01)
            self._channel.flush()
        return int(failed)

    async def _stop_accepting(self, *, last: bool) -> None:
        for acceptor in self._acceptors:
            acceptor.stop(last=last)
        for acceptor in self._acceptors:
            await acceptor.greeted()

    async def _finish(self, limit_s: float) -> None:
        end = self._world.now() + limit_s
        async with self._stage("connections"):
            gone = await self._connections.gone(limit_s)
        await self._service.finish(max(end - self._world.now(), 0.01))
        if not gone:
            _log.warning("cut %d connections at the drain limit", await self._connections.cut())

    async def _close(self, limit_s: float) -> bool:
        """True when a resource did not close properly; the kit has said which."""
        try:
            await self._service.close(limit_s)
        except ExceptionGroup:
            _log.exception("resources did not close properly")
            return True
        return False

    @asynccontextmanager
    async def _stage(self, name: str) -> AsyncIterator[None]:
        """The kit tells of its own stages, `finish` and `close`."""
        began = self._world.now()
        yield
        log_stage(StageEnded(name=name, took_s=self._world.now() - began))
