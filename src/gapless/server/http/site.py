"""What all HTTP connections of a worker share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from gapless.server.connections.connections import Connections
from gapless.server.http.access import Access
from gapless.server.http.client_limits import ClientLimits
from gapless.server.http.forwarded import Trust
from gapless.service.asgi import App

Upgrade = Callable[[asyncio.Transport, bytes], None]
"""Goes on with a transport as a WebSocket, from the bytes of the request for it."""


class Site(NamedTuple):
    app: App
    loop: asyncio.AbstractEventLoop
    connections: Connections
    sent: asyncio.Future[None]
    """Done. What `send` returns when there is nothing to wait for: no coroutine is made for it."""
    limits: ClientLimits = ClientLimits()
    trust: Trust = Trust()
    access: Access | None = None
    websocket: Upgrade | None = None
    http2: Callable[[], asyncio.Protocol] | None = None
    """For clients that begin with its preface."""
    probes: frozenset[str] = frozenset()
    """Paths that are answered although there are too many connections."""


def nothing_to_wait_for(loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
    done = loop.create_future()
    done.set_result(None)
    return done
