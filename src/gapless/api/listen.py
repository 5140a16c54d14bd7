"""Serves an ASGI app on a Unix socket that only its owner may open."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from gapless.core.errors import ConfigError
from gapless.server.embedded import serving
from gapless.server.listen.bind import SUN_PATH_BYTES, Access
from gapless.service.asgi import App

OWNER_ONLY = Access(mode=0o600)


@asynccontextmanager
async def listening(app: App, path: Path) -> AsyncIterator[None]:
    """Serve until the block ends; the socket is removed last, so that its absence means the end.

    Raises ConfigError when the path is too long for a socket. A socket that a killed control plane left is replaced:
    the store's lock has already told that nobody else lives here.
    """
    if len(os.fsencode(path)) > SUN_PATH_BYTES:
        raise ConfigError(
            f"the path {path} is too long for a socket ({len(os.fsencode(path))} of {SUN_PATH_BYTES} bytes)",
            "Give a shorter state directory by --state.",
        )
    async with serving(app, [f"unix:{path}"], access=OWNER_ONLY):
        yield
