"""The one timer of a connection: it goes off when something may be due."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gapless.server.http2.due import Act

TICK_S = 0.01


class Alarm:
    """`due` is asked whenever it is armed or goes off; that something is due later than it was is only seen then."""

    def __init__(self, due: Callable[[], tuple[float, Act]], act: Callable[[Act], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._due = due
        self._act = act
        self._timer: asyncio.TimerHandle | None = None

    def arm(self) -> None:
        """Something may be due earlier than it was."""
        self.stop()
        self._timer = self._loop.call_at(max(self._due()[0], self._loop.time() + TICK_S), self._go_off)

    def arm_for(self, at: float) -> None:
        """The same, if it is."""
        if self._timer is None or at < self._timer.when():
            self.arm()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _go_off(self) -> None:
        self._timer = None
        at, act = self._due()
        if at <= self._loop.time():
            self._act(act)
        self.arm()
