"""One timer for thousands that wait: each is woken at a moment of its own, and most by something else before.

A timer of the loop's costs half a kilobyte and a handful of objects each; a row here costs a fifth of that.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from itertools import count

from gapless.core.ports import World

SLACK = 1_024
"""Rows of those who wait no longer are swept once they are more than those who do, and this."""


class Alarms:
    """Sets the result of futures, 0, at their moments."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._rows: list[tuple[float, int, asyncio.Future[int]]] = []
        self._numbers = count()
        self._waiting = 0
        self._cancel: Callable[[], None] | None = None
        self._rings_at = 0.0

    def add(self, at: float, waiter: asyncio.Future[int]) -> None:
        """Wake the future at that moment of `world.now()`, unless it is done by then. `drop` it when it is."""
        self._waiting += 1
        heapq.heappush(self._rows, (at, next(self._numbers), waiter))
        if self._cancel is None or at < self._rings_at:
            self._wind()

    def drop(self) -> None:
        """One that was added is done, whatever woke it."""
        self._waiting -= 1
        if len(self._rows) > 2 * self._waiting + SLACK or not self._waiting:
            self._rows = [row for row in self._rows if not row[2].done()]
            heapq.heapify(self._rows)
            self._wind()

    def _wind(self) -> None:
        if self._cancel is not None:
            self._cancel()
        self._cancel = None
        if self._rows:
            self._rings_at = self._rows[0][0]
            self._cancel = self._world.after(self._rings_at - self._world.now(), self._ring)

    def _ring(self) -> None:
        self._cancel = None
        now = self._world.now()
        while self._rows and self._rows[0][0] <= now:
            _, _, waiter = heapq.heappop(self._rows)
            if not waiter.done():
                waiter.set_result(0)
        self._wind()
