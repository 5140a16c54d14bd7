"""The protocols that an ASGI app is served by, one object for each connection, all on one site."""

from __future__ import annotations

import asyncio
from functools import cached_property

from gapless.server.connections.connections import Connections
from gapless.server.http.access import Access
from gapless.server.http.client_limits import ClientLimits
from gapless.server.http.forwarded import Forwarded, Trust
from gapless.server.http.site import Site, Upgrade, nothing_to_wait_for
from gapless.server.http1.protocol import Http1
from gapless.service.asgi import App


class Protocols:
    """Makes them. Needs no loop before the first connection."""

    def __init__(
        self,
        app: App,
        connections: Connections,
        limits: ClientLimits,
        trust: Trust,
        *,
        access: Access | None = None,
        probes: frozenset[str] = frozenset(),
        plain: bool = False,
    ) -> None:
        """`plain`: HTTP/1.1 and nothing else."""
        self._app = app
        self._connections = connections
        self._limits = limits
        self._trust = trust
        self._access = access
        self._probes = probes
        self._plain = plain

    def http1(self) -> Http1:
        return Http1(self.site)

    def taken_over(self) -> Http1:
        """For a connection that another worker has let in."""
        return Http1(self.site, admitted=True)

    def http2(self) -> asyncio.Protocol:
        from gapless.server.http2.protocol import Http2

        return Http2(self.site)

    @cached_property
    def site(self) -> Site:
        loop = asyncio.get_running_loop()
        return Site(
            self._app,
            loop,
            self._connections,
            nothing_to_wait_for(loop),
            limits=self._limits,
            trust=self._trust,
            access=self._access,
            websocket=None if self._plain else lambda transport, request: self._websockets(transport, request),
            http2=None if self._plain else self.http2,
            probes=self._probes,
        )

    @cached_property
    def _websockets(self) -> Upgrade:
        from gapless.server.http.websocket import WebSockets

        return WebSockets(Forwarded(self._app, self._trust), self._connections)
