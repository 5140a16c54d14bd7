"""Serves an ASGI app on a Unix socket that only its owner may open."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from gapless.core.errors import ConfigError

PATH_LIMIT = 107
"""Bytes in the path of a Unix socket (sun_path)."""
CLOSE_LIMIT_S = 1.0
"""For answers under way when the control plane ends; streams are cut then."""


@asynccontextmanager
async def listening(app: Any, path: Path) -> AsyncIterator[None]:
    """Serve until the block ends; the socket is removed last, so that its absence means the end.

    Raises ConfigError when the path is too long for a socket. A socket that a killed control plane left is replaced:
    the store's lock has already told that nobody else lives here.
    """
    from uvicorn.config import Config
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
    from uvicorn.server import ServerState

    if len(os.fsencode(path)) > PATH_LIMIT:
        raise ConfigError(
            f"the path {path} is too long for a socket ({len(os.fsencode(path))} of {PATH_LIMIT} bytes)",
            "Give a shorter state directory by --state.",
        )
    config = Config(app, lifespan="off", log_config=None, access_log=False, http="httptools", ws="none", loop="none")
    config.load()
    state = ServerState()
    _remove(path)
    old_mask = os.umask(0o177)
    try:
        loop = asyncio.get_running_loop()
        server = await loop.create_unix_server(lambda: HttpToolsProtocol(config, state, {}), path)
    finally:
        os.umask(old_mask)
    try:
        yield
    finally:
        server.close()
        await _end(state)
        _remove(path)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


async def _end(state: Any) -> None:
    for connection in list(state.connections):
        connection.shutdown()
    if state.tasks:
        await asyncio.wait(set(state.tasks), timeout=CLOSE_LIMIT_S)
    left = set(state.tasks)
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    for connection in list(state.connections):
        connection.transport.abort()
