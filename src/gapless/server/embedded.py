"""Our HTTP server inside a process that has other work: no workers, no hand-over, one loop, any ASGI app."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from gapless.server.connections.connections import Connections
from gapless.server.http.client_limits import ClientLimits
from gapless.server.http.crowd import Counted, Crowd
from gapless.server.http.forwarded import Trust
from gapless.server.http.protocols import Protocols
from gapless.server.listen.accept import ALONE_BATCH, Acceptor
from gapless.server.listen.bind import EVERYBODY, Access, Listener, listeners, shown
from gapless.service.asgi import App

KEEP_ALIVE_S = 75.0
BEAT_S = 1.0
"""How often the `date` header is renewed."""
DRAIN_S = 1.0
"""What requests under way get at the end; then their apps are told that the clients have gone."""


@asynccontextmanager
async def serving(
    app: App,
    binds: Sequence[str],
    *,
    limits: ClientLimits = ClientLimits(),  # noqa: B008 - frozen
    access: Access = EVERYBODY,
    keep_alive_s: float = KEEP_ALIVE_S,
    drain_s: float = DRAIN_S,
) -> AsyncIterator[tuple[str, ...]]:
    """Serve until the block ends; gives the addresses for people (`http://127.0.0.1:8500`, `unix:PATH`), one for each
    socket. HTTP/1.1 only. Nobody's word about other clients counts (`Forwarded`). The files of Unix sockets are removed
    last, so that their absence means the end. Raises PortTaken, ConfigError."""
    opened = listeners(binds, access)
    server = Embedded(app, opened, limits, keep_alive_s)
    server.start()
    try:
        yield tuple(shown(one.sock) for one in opened)
    finally:
        await server.stop(drain_s)


class Embedded:
    """Accepts on the listeners, which it owns, from `start` to `stop`."""

    def __init__(self, app: App, opened: Sequence[Listener], limits: ClientLimits, keep_alive_s: float) -> None:
        self._listeners = opened
        self._connections = Connections(keep_alive_s)
        protocols = Protocols(app, self._connections, limits, Trust(()), plain=True)
        crowd = Crowd(limits.per_client) if limits.per_client else None
        self._acceptors = [
            Acceptor(one.sock, lambda: Counted(protocols.site, crowd) if crowd else protocols.http1(), ALONE_BATCH)
            for one in opened
        ]
        self._beat: asyncio.TimerHandle | None = None

    def start(self) -> None:
        for acceptor in self._acceptors:
            acceptor.start()
        self._keep_time()

    def _keep_time(self) -> None:
        self._connections.date()
        self._beat = asyncio.get_running_loop().call_later(BEAT_S, self._keep_time)

    async def stop(self, drain_s: float) -> None:
        """Accept no more, let requests under way end for so long, and close everything."""
        with contextlib.ExitStack() as files:
            for one in self._listeners:
                files.callback(one.remove)
            for acceptor in self._acceptors:
                acceptor.stop(last=False)
            for acceptor in self._acceptors:
                await acceptor.greeted()
            self._connections.tell(0.0)
            if not await self._connections.gone(drain_s):
                await self._connections.cut()
            if self._beat is not None:
                self._beat.cancel()
