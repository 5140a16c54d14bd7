"""The console beside a control plane: where it listens, and who is let in."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

from gapless.config import Console
from gapless.config.console import LISTEN
from gapless.console.app import ConsoleApp
from gapless.console.guard import Access
from gapless.control.plane import ControlPlane
from gapless.core.errors import PortTaken
from gapless.core.model import Address
from gapless.core.ports import World
from gapless.server.embedded import serving

KEY_BYTES = 32
PORTS_TRIED = 30
"""From the usual one on, when the file names none: several systems on one machine each have a console."""


@asynccontextmanager
async def console(plane: ControlPlane, settings: Console, token: str, who: str, world: World) -> AsyncIterator[str]:
    """Serve it until the block ends; gives its address for people. `who` stands in the change log for those who need
    not log in. Raises PortTaken."""
    # With a log-in the token alone signs, so that sessions outlive the control plane.
    key = b"" if token else os.urandom(KEY_BYTES)
    access = Access(listen=settings.listen or LISTEN, key=key, token=token, hosts=settings.hosts, who=who)
    async with AsyncExitStack() as stack:
        yield await _listen(stack, plane, access, world, tries=1 if settings.listen else PORTS_TRIED)


async def _listen(stack: AsyncExitStack, plane: ControlPlane, access: Access, world: World, tries: int) -> str:
    for further in range(tries):
        listen = Address(host=access.listen.host, port=access.listen.port + further)
        app = ConsoleApp(plane, replace(access, listen=listen), world).asgi()
        try:
            (url,) = await stack.enter_async_context(serving(app, [str(listen)]))
        except PortTaken:
            if further == tries - 1:
                raise
        else:
            return url
    raise AssertionError("at least one port is tried")
