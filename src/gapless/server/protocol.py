"""HTTP by uvicorn's httptools protocol, with an end that loses nothing.

A connection that is to end is told so: its next response carries `Connection: close`, and only then is it closed. One
on which nothing happens is closed when it has been quiet for a while, because a client that has nothing to ask cannot
be told anything.
"""

from __future__ import annotations

import asyncio
import fcntl
import math
import termios
import time
from email.utils import formatdate
from typing import Any
from weakref import WeakSet

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

KEEP_ALIVE_MARGIN_S = 2.0
"""A client is told a shorter idle time than it gets: its last request must not cross our close on the way."""
LOOK_S = 0.25
"""How often a leaving worker looks at connections whose end nobody reports (WebSockets)."""
CUT_S = 0.2
"""What a request gets at the deadline to end by itself, when it was told that its client has gone, and once more to
clean up when it was cancelled."""


class Connections(ServerState):
    """All the connections of a worker."""

    def __init__(self, keep_alive_s: float) -> None:
        super().__init__()
        self.keep_alive_s = keep_alive_s
        self.leaving = False
        self.told_at = 0.0
        self.idle_s = keep_alive_s
        self.changed = asyncio.Event()
        self._shut: WeakSet[Any] = WeakSet()
        self.closing_headers: list[tuple[bytes, bytes]] = []
        self.date()

    def date(self) -> None:
        """Renew the `date` header; to be called once a second."""
        self.closing_headers = [(b"date", formatdate(time.time(), usegmt=True).encode())]
        told = (b"keep-alive", b"timeout=%d" % self.keep_alive_s)
        self.default_headers = [*self.closing_headers, told]

    def tell(self, idle_s: float) -> None:
        """From now on each response is its connection's last; one that is quiet for `idle_s` from now on is closed.
        Calling again can only shorten that time."""
        if not self.leaving:
            self.told_at = asyncio.get_running_loop().time()
        self.leaving = True
        self.idle_s = min(self.idle_s, idle_s)
        self.changed.set()
        for connection in self.connections:
            if isinstance(connection, Connection):
                connection.tell()

    async def gone(self, limit_s: float) -> bool:
        """Wait until all have ended; False when the limit passed first. `tell` must have been called."""
        loop = asyncio.get_running_loop()
        end = loop.time() + limit_s
        while self.connections and loop.time() < end:
            self.changed.clear()
            self._close_some_websockets()
            wait_s = min(self._close_idle(loop.time()), end - loop.time(), LOOK_S)
            try:
                await asyncio.wait_for(self.changed.wait(), max(wait_s, 0.001))
            except TimeoutError:
                continue
        return not self.connections

    def _close_idle(self, now: float) -> float:
        """Close what has been quiet for too long; seconds until the next one will have been."""
        soonest = LOOK_S
        for connection in list(self.connections):
            if isinstance(connection, Connection) and not connection.busy:
                left = max(connection.quiet_at, self.told_at) + self.idle_s - now
                if left <= 0:
                    connection.close_silent()
                else:
                    soonest = min(soonest, left)
        return soonest

    def _close_some_websockets(self) -> None:
        """Close them (1012, service restart) a few at a time: they all reconnect, to workers that serve others too."""
        left = [one for one in self.connections if not isinstance(one, Connection) and one not in self._shut]
        looks_left = max((self.told_at + self.idle_s - asyncio.get_running_loop().time()) / LOOK_S, 1.0)
        for websocket in left[: math.ceil(len(left) / looks_left)]:
            self._shut.add(websocket)
            websocket.shutdown()

    async def cut(self) -> int:
        """The deadline has passed: end what is left; returns how many connections that were."""
        left = list(self.connections)
        for connection in left:
            if isinstance(connection, Connection):
                connection.disconnect()
        tasks = await self._unfinished()
        for task in tasks:
            task.cancel("the drain limit has passed")
        await self._unfinished()
        for connection in left:
            if connection.transport is not None:
                connection.transport.abort()
        return len(left)

    async def _unfinished(self) -> set[asyncio.Task[None]]:
        """Those of the requests that go on although they were given time."""
        if not self.tasks:
            return set()
        return (await asyncio.wait(list(self.tasks), timeout=CUT_S))[1]


class Connection(HttpToolsProtocol):
    """One HTTP/1.1 connection."""

    server_state: Connections

    def __init__(
        self,
        config: Config,
        server_state: Connections,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.access_log = config.access_log
        self.quiet_at = self.loop.time()
        self._last: RequestResponseCycle | None = None

    @property
    def busy(self) -> bool:
        """A request has been received whose response is not complete."""
        return bool(self.pipeline) or (self.cycle is not None and not self.cycle.response_complete)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unset_keepalive_if_required()
        super().connection_lost(exc)
        if not self.connections:
            self.server_state.changed.set()

    def data_received(self, data: bytes) -> None:
        self.quiet_at = self.loop.time()
        super().data_received(data)
        ours = self in self.connections  # not a WebSocket's by now
        if ours and not self.busy and not self.transport.is_closing():
            self._expect_request()  # a request whose head never ends must not hold its connection for ever

    def on_headers_complete(self) -> None:
        before = self.cycle
        super().on_headers_complete()
        if self.cycle is before:
            return  # an upgrade
        if self.server_state.leaving:
            self._make_last(self.cycle)
        elif not self.cycle.keep_alive:
            self.cycle.default_headers = self.server_state.closing_headers

    def on_response_complete(self) -> None:
        self.quiet_at = self.loop.time()
        super().on_response_complete()

    def timeout_keep_alive_handler(self) -> None:
        self.close_silent()

    def close_silent(self) -> None:
        """Close it, unless a request has arrived that was only not read yet."""
        sock = self.transport.get_extra_info("socket")
        if self.transport.is_closing() or (sock is not None and unread(sock.fileno())):
            return
        self.transport.close()

    def tell(self) -> None:
        """Say in the next response that it is the last."""
        if self.busy and not self.cycle.response_started:
            self._make_last(self.cycle)

    def disconnect(self) -> None:
        """Tell the application that its client has gone."""
        if self.busy:
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def _make_last(self, cycle: RequestResponseCycle) -> None:
        """Of several requests that a client sent in one go, the last gets the word, so that all are answered."""
        earlier, self._last = self._last, cycle if cycle.keep_alive else None
        if earlier is not None and not earlier.response_started:
            earlier.keep_alive = True
            earlier.default_headers = self.server_state.default_headers
        cycle.keep_alive = False
        cycle.default_headers = self.server_state.closing_headers

    def _expect_request(self) -> None:
        self._unset_keepalive_if_required()
        limit_s = self.server_state.keep_alive_s + KEEP_ALIVE_MARGIN_S
        self.timeout_keep_alive_task = self.loop.call_later(limit_s, self.timeout_keep_alive_handler)


def unread(fd: int) -> bool:
    """Whether the kernel holds bytes of the peer that nobody has read."""
    return any(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)))


def make_config(app: Any, keep_alive_s: float, access_log: bool) -> Config:
    """uvicorn's configuration for an ASGI3 app whose lifespan is somebody else's."""
    config = Config(
        lambda: app,
        factory=True,
        interface="asgi3",
        lifespan="off",
        http=Connection,
        ws="auto",
        loop="none",
        log_config=None,
        access_log=access_log,
        server_header=False,
        timeout_keep_alive=int(keep_alive_s + KEEP_ALIVE_MARGIN_S),
        proxy_headers=True,
        forwarded_allow_ips="127.0.0.1,::1",
    )
    config.load()
    return config
