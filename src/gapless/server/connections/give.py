"""A leaving worker puts its connections into the queue, for those that serve on."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from gapless.server.connections import queue as connection_queue

if TYPE_CHECKING:
    from gapless.server.connections.connections import Live

_log = logging.getLogger("gapless.server")

TURN = 16
"""Connections that are detached per turn of the loop: in less than a millisecond, so that requests do not wait."""
FULL_S = 0.005
"""How often to look whether a full queue has room again. Not by its being writable, which does not tell of the limit
on descriptors under way (ETOOMANYREFS)."""


class Giver:
    """`given` counts; `back` goes on here with what was detached when there is nobody left to take it."""

    def __init__(
        self,
        out: socket.socket,
        workers: int,
        given: Callable[[int], None],
        back: Callable[[list[int]], Awaitable[None]],
    ) -> None:
        self._out = out
        self.workers = workers
        self._given = given
        self._back = back

    async def give(
        self, resting: dict[Live, None], release: Callable[[Live], None], going_on: Callable[[], bool]
    ) -> None:
        """Empties it from the end but for those with bytes to send, to be tried again; others may be added meanwhile.
        Those that have begun to read another message are released: they rest again when it is answered."""
        size = min(connection_queue.share(len(resting), self.workers), TURN)
        not_yet: dict[Live, None] = {}
        while resting and going_on():
            fds = _detach(resting, size, not_yet, release)
            if fds:
                await self._send(fds, going_on)
            await asyncio.sleep(0)
        resting |= not_yet

    async def _send(self, fds: list[int], going_on: Callable[[], bool]) -> None:
        while not connection_queue.send(self._out, fds):
            if not going_on():
                await self._back(fds)
                return
            await asyncio.sleep(FULL_S)
        self._given(len(fds))


def _detach(
    resting: dict[Live, None], size: int, not_yet: dict[Live, None], release: Callable[[Live], None]
) -> list[int]:
    fds: list[int] = []
    while resting and len(fds) < size:
        live, _ = resting.popitem()
        try:
            fd = live.detach()
        except OSError as error:  # no descriptor is free for the moment of the exchange
            _log.debug("a connection is handed over later: %s", error)
            not_yet[live] = None
            break
        if fd is not None:
            fds.append(fd)
        elif not live.busy and live.transport.get_write_buffer_size():
            not_yet[live] = None
        else:
            release(live)
    return fds
