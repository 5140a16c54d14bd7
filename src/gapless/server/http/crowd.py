"""How many connections each client address has, so that one cannot take all there are."""

from __future__ import annotations

import asyncio

from gapless.server.http.client_limits import RETRY_AFTER_S
from gapless.server.http.site import Site
from gapless.server.http1.protocol import Http1, address
from gapless.server.http1.response import whole


class Crowd:
    """`per_client`: at most; above it connections are closed with 429 as soon as they are there."""

    def __init__(self, per_client: int) -> None:
        self._per_client = per_client
        self._held: dict[str, int] = {}

    def enter(self, host: str) -> bool:
        """Whether there is room for one more; `leave` afterwards if so."""
        held = self._held.get(host, 0)
        if held >= self._per_client:
            return False
        self._held[host] = held + 1
        return True

    def leave(self, host: str) -> None:
        left = self._held[host] - 1
        if left:
            self._held[host] = left
        else:
            del self._held[host]


class Counted(Http1):
    """A connection in a crowd. Over a Unix socket there is no address, and its clients are our own."""

    __slots__ = ("_crowd", "_host")

    def __init__(self, site: Site, crowd: Crowd) -> None:
        super().__init__(site)
        self._crowd = crowd
        self._host: str | None = None
        """None: there was no room for it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        client = address(transport.get_extra_info("peername"))
        host = client[0] if client is not None and client[1] is not None else ""
        if host and not self._crowd.enter(host):
            self.deaf = True
            extra = b"\r\nretry-after: %d" % RETRY_AFTER_S
            transport.write(whole(429, self.site.connections.tail(False, False, False), extra))
            transport.close()
            return
        self._host = host
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._host is None:
            return
        if self._host:
            self._crowd.leave(self._host)
        super().connection_lost(exc)
