"""Having another number of workers, and the wait for them."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from gapless.core.errors import Busy, NotReady
from gapless.server.generations import generation as g
from gapless.server.generations.roster import busy
from gapless.server.handover import handover

if TYPE_CHECKING:
    from gapless.server.master.master import Master

_log = logging.getLogger("gapless.server")


class Scaling:
    def __init__(self, master: Master) -> None:
        self._master = master
        self._reached: asyncio.Future[None] | None = None

    async def to(self, wanted: int) -> None:
        """Have so many, and wait until they serve. Raises Busy, NotReady when one did not come to serve (it is tried
        again)."""
        if why := busy(self._master.state):
            raise Busy(why)
        if self._reached is None or self._reached.done():
            self._reached = asyncio.get_running_loop().create_future()
        reached = self._reached
        self._master.feed(g.Scale(wanted))
        await asyncio.shield(reached)

    def done(self, action: g.Scaled) -> None:
        _log.info("%d workers serve, as many as wanted", action.wanted)
        for child in self._master.serving:
            child.send(handover.Peers(action.wanted))
        self._master.report()
        if self._reached and not self._reached.done():
            self._reached.set_result(None)

    def failed(self, reason: str, remedy: str) -> None:
        """A worker was lost; when some are waited for, whoever waits hears of it."""
        if self._reached and not self._reached.done() and self._master.state.scaling:
            self._reached.set_exception(NotReady(f"a worker did not come to serve: {reason}", remedy))
