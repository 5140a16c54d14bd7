"""So many at work at once, and the rest in a queue that costs nothing but its lines."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

Work = Callable[[], Coroutine[Any, Any, None]]

_log = logging.getLogger("gapless.registry")


class Crew:
    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: deque[Work] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    def take(self, work: Work) -> None:
        """Soon, in order."""
        self._waiting.append(work)
        if len(self._tasks) < self._most:
            task = asyncio.create_task(self._work())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def aclose(self) -> None:
        """What is under way is given up."""
        self._waiting.clear()
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _work(self) -> None:
        while self._waiting:
            try:
                await self._waiting.popleft()()
            except Exception:  # noqa: BLE001 - told, and the others go on
                _log.exception("a check could not be worked on")
