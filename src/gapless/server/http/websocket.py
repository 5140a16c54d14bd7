"""WebSockets by uvicorn's protocol, which takes a connection over when a request asks for one."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.config import Config

from gapless.server.connections.connections import Connections


class WebSockets:
    def __init__(self, app: Any, connections: Connections) -> None:
        self._connections = connections
        self.config = make_config(app)

    def __call__(self, transport: asyncio.Transport, request: bytes) -> None:
        """Implements `site.Upgrade`."""
        make: Any = self.config.ws_protocol_class
        protocol = make(config=self.config, server_state=self._connections, app_state={})
        protocol.connection_made(transport)
        protocol.data_received(request)
        transport.set_protocol(protocol)


def make_config(app: Any) -> Config:
    """uvicorn's configuration for an ASGI3 app whose lifespan is somebody else's."""
    config = Config(
        lambda: app,
        factory=True,
        interface="asgi3",
        lifespan="off",
        http=asyncio.Protocol,  # never used
        ws="auto",
        loop="none",
        log_config=None,
        server_header=False,
        proxy_headers=False,
    )
    config.load()
    return config
