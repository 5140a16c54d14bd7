"""The front of gRPC services: shared listeners as HTTP has them, relays, and a grpc.aio server behind."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

from gapless.core.world import RealWorld
from gapless.observe.access import Sampled
from gapless.server.connections.connections import CUT_S, Connections
from gapless.server.grpc.inner import Inner
from gapless.server.grpc.relay import Relay
from gapless.server.listen.accept import Acceptor, batch_of
from gapless.server.settings import Task
from gapless.server.tls.certificates import Certificates, tls_of
from gapless.service.grpc_service import GrpcService


class GrpcFront:
    """Implements `Front`."""

    def __init__(self, service: GrpcService, listeners: Sequence[socket.socket], task: Task) -> None:
        self._certificates = Certificates(tls, RealWorld.time) if (tls := tls_of(task)) else None
        self._acceptors = [self._acceptor(sock, batch_of(task.workers)) for sock in listeners]
        self._connections = Connections(task.keep_alive_s)
        self._inner = Inner(service)
        service.calls.access = Sampled(task.access_sample) if task.access_log else None
        self._idle_s = task.keep_alive_s
        self._stopped = False

    @property
    def count(self) -> int:
        return len(self._connections.connections)

    async def probe(self) -> bool:
        if not self._inner.started:
            await self._inner.start()
        return await self._inner.probe()

    def open(self) -> None:
        for acceptor in self._acceptors:
            acceptor.start()

    async def pause(self) -> None:
        for acceptor in self._acceptors:
            acceptor.pause()
        for acceptor in self._acceptors:
            await acceptor.greeted()

    def share(self, workers: int) -> None:
        for acceptor in self._acceptors:
            acceptor.batch = batch_of(workers)

    def beat(self) -> None:
        if self._certificates:
            self._certificates.look()
        self._inner.health.look()

    def tell(self, idle_s: float, *, hand_over: bool) -> None:
        """Clients are only sent away when they cannot come back to here: see `stop_accepting`."""
        self._idle_s = min(self._idle_s, idle_s)
        if not hand_over:
            self._inner.health.refuse()
        if self._stopped:
            self._connections.tell(self._idle_s)

    async def stop_accepting(self, *, last: bool) -> None:
        for acceptor in self._acceptors:
            acceptor.stop(last=last)
        for acceptor in self._acceptors:
            await acceptor.greeted()
        self._stopped = True
        self._inner.health.end()
        self._connections.tell(self._idle_s)

    def parted(self) -> None:
        """Calls are not sent away."""

    async def gone(self, limit_s: float) -> bool:
        end = self._now() + limit_s
        gone = await self._connections.gone(limit_s)
        for acceptor in self._acceptors:  # who was still shaking hands is connected only now
            gone = await acceptor.shaken(end - self._now()) and await self._connections.gone(end - self._now()) and gone
        if gone:
            await self._inner.stop(0)
        return gone

    async def cut(self) -> int:
        await self._inner.stop(CUT_S)
        return await self._connections.cut()

    def _acceptor(self, sock: socket.socket, batch: int) -> Acceptor:
        """As in HTTP: no TLS on Unix sockets."""
        certificates = self._certificates
        if certificates is None or sock.family == socket.AF_UNIX:
            return Acceptor(sock, self._protocol, batch)
        return Acceptor(sock, self._protocol, batch, lambda: certificates.context)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _protocol(self) -> Relay:
        return Relay(self._connections, self._inner.dial)
