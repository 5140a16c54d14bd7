"""What a master does on signals; the keeper passes them on."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from gapless.server.keeper import STOPS
from gapless.server.master.log import log_outcome

if TYPE_CHECKING:
    from gapless.core.ports import World
    from gapless.server.master.master import Master

SAME_STOP_S = 0.1
"""Two stops within that are one: `timeout` and others send theirs to the process and then to its group."""


class Orders:
    def __init__(self, master: Master, world: World) -> None:
        self.stops = 0
        """How many signals to stop have been obeyed."""
        self.had_terminal = False
        self._master = master
        self._world = world
        self._stopped_at = float("-inf")

    def obey(self, number: int) -> None:
        if number in STOPS:
            self._stop(number)
        elif number == signal.SIGHUP and self.had_terminal and not os.isatty(0):
            self._master.stop(number)  # the terminal that we were started on is gone
        elif number in (signal.SIGHUP, signal.SIGUSR2):
            _begin(self._master.reload())
        elif number in (signal.SIGTTIN, signal.SIGTTOU):
            more = 1 if number == signal.SIGTTIN else -1
            _begin(self._master.scaling.to(max(self._master.state.wanted + more, 1)))

    def _stop(self, number: int) -> None:
        self.stops += 1
        before, self._stopped_at = self._stopped_at, self._world.now()
        if self._stopped_at - before >= SAME_STOP_S:
            self._master.stop(number)


def _begin(work: Coroutine[Any, Any, object]) -> None:
    asyncio.ensure_future(work).add_done_callback(log_outcome)
