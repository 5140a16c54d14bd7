"""The web console of a system, in the control plane's process."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gapless.control.plane import ControlPlane


@asynccontextmanager
async def system_console(plane: ControlPlane) -> AsyncIterator[None]:
    """Serve it until the block ends, if the system has one. Raises ConfigError for an address that others can reach
    while no token keeps them out, and PortTaken."""
    settings = plane.system.console
    if settings is None:
        yield
        return
    from gapless.cli.client import author
    from gapless.cli.reach import check_reach
    from gapless.console.serve import console
    from gapless.core.world import RealWorld
    from gapless.fleet.launch import CONSOLE_TOKEN

    token = os.environ.get(CONSOLE_TOKEN, "")
    remedy = f"Set {CONSOLE_TOKEN}, which people then log in with, or listen on 127.0.0.1."
    check_reach([str(settings.listen)] if settings.listen else [], token, "console.listen", remedy)
    async with console(plane, settings, token, author(), RealWorld()) as url:
        plane.console = url
        yield
