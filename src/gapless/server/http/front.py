"""The front of HTTP services: acceptors, protocols, and their connections."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from gapless.core.world import RealWorld
from gapless.server.connections.connections import Connections
from gapless.server.connections.give import Giver
from gapless.server.connections.queue import Ends
from gapless.server.connections.take import Taker
from gapless.server.http.access import Access
from gapless.server.http.client_limits import client_limits_of
from gapless.server.http.forwarded import trust_of
from gapless.server.http.protocols import Protocols
from gapless.server.listen.accept import Acceptor, batch_of
from gapless.server.settings import Task
from gapless.server.tls.certificates import Certificates, tls_of
from gapless.server.tls.greet import Entry
from gapless.service.kit import Service
from gapless.service.probes import PATHS

PROBE = b"GET /readyz HTTP/1.1\r\nhost: gapless\r\nuser-agent: gapless-self-probe\r\nconnection: close\r\n\r\n"
LAZY = ("gapless.server.http2.protocol", "gapless.server.http.websocket", "uvicorn.protocols.websockets.auto")
"""What only some connections import. All of it comes before PREPARED: later it would hold up the requests of a worker
that serves, and take from the disk what an upgrade has put there meanwhile."""


def load_lazy() -> None:
    for name in LAZY:
        import_module(name)


class HttpFront:
    """Implements `Front`."""

    def __init__(
        self,
        app: Any,
        listeners: Sequence[socket.socket],
        queue: Ends | None,
        task: Task,
        handed_over: Callable[[int], None],
    ) -> None:
        self._certificates = Certificates(tls, RealWorld.time) if (tls := tls_of(task)) else None
        load_lazy()
        self._taker = Taker(queue.into, lambda: self._protocols.taken_over(), task.workers) if queue else None
        self._giver = Giver(queue.out, task.workers, handed_over, self._taker.adopt) if queue and self._taker else None
        self._connections = Connections(task.keep_alive_s, self._giver)
        self._protocols = Protocols(
            app,
            self._connections,
            client_limits_of(task.limits),
            trust_of(task.trust),
            access=Access(task.access_sample) if task.access_log else None,
            probes=PATHS,
        )
        self._acceptors = [self._acceptor(sock, batch_of(task.workers)) for sock in listeners]

    @property
    def count(self) -> int:
        return len(self._connections.connections)

    async def probe(self) -> bool:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with ours:
            ours.setblocking(False)
            await loop.connect_accepted_socket(self._protocols.http1, theirs)
            await loop.sock_sendall(ours, PROBE)
            answer = await loop.sock_recv(ours, 4096)
            while await loop.sock_recv(ours, 4096):
                continue
        return answer.split(b" ", 2)[1:2] == [b"200"]

    def open(self) -> None:
        self._connections.keep()
        for acceptor in self._acceptors:
            acceptor.start()
        if self._taker:
            self._taker.start()

    async def pause(self) -> None:
        for acceptor in self._acceptors:
            acceptor.pause()
        if self._taker:
            self._taker.pause()
            await self._taker.settled()
        for acceptor in self._acceptors:
            await acceptor.greeted()
        self._connections.share()

    def share(self, workers: int) -> None:
        for acceptor in self._acceptors:
            acceptor.batch = batch_of(workers)
        if self._taker and self._giver:
            self._taker.share(workers)
            self._giver.workers = workers

    def beat(self) -> None:
        self._connections.date()
        if self._certificates:
            self._certificates.look()

    def tell(self, idle_s: float, *, hand_over: bool) -> None:
        self._connections.tell(idle_s, hand_over=hand_over)

    async def stop_accepting(self, *, last: bool) -> None:
        for acceptor in self._acceptors:
            acceptor.stop(last=last)
        if self._taker:
            self._taker.stop(last=last)
            await self._taker.settled()
        for acceptor in self._acceptors:
            await acceptor.greeted()

    def parted(self) -> None:
        self._connections.parted()

    async def gone(self, limit_s: float) -> bool:
        loop = asyncio.get_running_loop()
        end = loop.time() + limit_s
        gone = await self._connections.gone(limit_s)
        for acceptor in self._acceptors:  # who was still shaking hands is connected only now
            gone = await acceptor.shaken(end - loop.time()) and await self._connections.gone(end - loop.time()) and gone
        return gone

    async def cut(self) -> int:
        return await self._connections.cut()

    def _acceptor(self, sock: socket.socket, batch: int) -> Acceptor:
        """Unix sockets are for neighbours, who need no TLS."""
        certificates = self._certificates
        if certificates is None or sock.family == socket.AF_UNIX:
            return Acceptor(sock, self._protocols.http1, batch)
        return Acceptor(sock, self._entry, batch, lambda: certificates.context)

    def _entry(self) -> Entry:
        return Entry(self._protocols.http1, self._protocols.http2)


def http_front(service: Service, listeners: Sequence[socket.socket], queue: Ends | None, task: Task) -> HttpFront:
    """The front of a service. Raises ConfigError."""
    text = "Idle connections that were handed to another worker"
    handed_over = service.meter.counter("gapless_server_connections_handed_over", text).labels()
    return HttpFront(service.app, listeners, queue, task, handed_over.inc)
