"""What fails beside the requests fails alone: each failure is counted and logged with its traceback (and the request id
that the log's formatter adds), and nothing else notices."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from gapless.resilience.deadline import within

if TYPE_CHECKING:
    from gapless.core.ports import World

_log = logging.getLogger("gapless.tasks")

FIRST_BACKOFF_S = 0.1
LONGEST_BACKOFF_S = 30.0
"""einhorn's cap: a loop that always crashes must not fill the log, and must be back soon after its cause is gone."""
STEADY_S = 60.0
"""A loop that ran so long counts as healthy again: its next crash starts the backoff anew."""
CANCEL_S = 1.0
"""How long cancelled work may take to clean up before it is left behind."""

P = ParamSpec("P")
R = TypeVar("R")
Loop = Callable[[], Awaitable[Any]]


def backoff(crashes: int) -> float:
    """Seconds before the restart that follows the `crashes`-th crash in a row (from 1)."""
    return min(FIRST_BACKOFF_S * 2.0 ** min(crashes - 1, 30), LONGEST_BACKOFF_S)


class Isolation:
    """Keeps background tasks, callbacks and plugins from taking each other down.

    `counted` is told the name of each that failed. Only the end of the process (KeyboardInterrupt, SystemExit) and
    cancellation pass.
    """

    def __init__(self, world: World, *, counted: Callable[[str], None] | None = None) -> None:
        self._world = world
        self._counted = counted
        self._loops: set[asyncio.Task[None]] = set()
        self._spawned: set[asyncio.Task[Any]] = set()
        self.failures: Counter[str] = Counter()
        """By name, since the start."""
        self.crashes: dict[str, str] = {}
        """Loops that are down right now, with why."""

    def isolated(self, function: Callable[P, R], *, name: str = "") -> Callable[P, R | None]:
        """The same function, or coroutine function, that gives None where it would have raised."""
        title = name or getattr(function, "__qualname__", repr(function))

        @functools.wraps(function)
        def called(*args: P.args, **kwargs: P.kwargs) -> R | None:
            try:
                return function(*args, **kwargs)
            except Exception as error:  # noqa: BLE001 - logged with its traceback, counted
                self._failed(title, error)
                return None

        @functools.wraps(function)
        async def awaited(*args: P.args, **kwargs: P.kwargs) -> Any:
            try:
                return await cast("Awaitable[Any]", function(*args, **kwargs))
            except Exception as error:  # noqa: BLE001 - logged with its traceback, counted
                self._failed(title, error)

        return cast("Callable[P, R | None]", awaited) if inspect.iscoroutinefunction(function) else called

    def supervise(self, name: str, loop: Loop) -> None:
        """Run a loop until it returns; when it raises, log, count and restart it."""
        task = asyncio.create_task(self._supervised(name, loop), name=name)
        self._loops.add(task)
        task.add_done_callback(self._loops.discard)

    def spawn(self, work: Coroutine[Any, Any, Any], name: str = "") -> asyncio.Task[Any]:
        """Run once; a drain waits for it. What it raises is logged and counted."""
        task = asyncio.create_task(work, name=name or getattr(work, "__qualname__", "spawned"))
        self._spawned.add(task)
        task.add_done_callback(self._ended)
        return task

    async def wait_spawned(self) -> None:
        """Returns when no spawned work is left."""
        while self._spawned:
            await asyncio.wait(self._spawned)

    def unfinished(self) -> list[str]:
        """The names of spawned work that still runs."""
        return sorted(task.get_name() for task in self._spawned)

    async def cancel(self) -> None:
        """Cancel everything and wait briefly for its clean-up; never raises."""
        left = self._loops | self._spawned
        for task in left:
            task.cancel()
        if not left:
            return
        with contextlib.suppress(TimeoutError):
            async with within(self._world, CANCEL_S):
                await asyncio.wait(left)
        for task in left:
            if not task.done():
                _log.error("task %s ignores its cancellation and is left behind", task.get_name())

    async def _supervised(self, name: str, loop: Loop) -> None:
        crashes = 0
        while True:
            began = self._world.now()
            try:
                await loop()
            except Exception as error:  # noqa: BLE001 - logged with its traceback, counted, restarted
                steady = self._world.now() - began >= STEADY_S
                crashes = 1 if steady else crashes + 1
                self.crashes[name] = f"{type(error).__name__}: {error}"
                self._count(name)
                _log.exception("task %s crashed; restarting it in %.1f s", name, backoff(crashes))
            else:
                return
            await self._world.sleep(backoff(crashes))
            self.crashes.pop(name, None)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._spawned.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.failures[task.get_name()] += 1
            _log.error("spawned work %s failed", task.get_name(), exc_info=error)

    def _failed(self, name: str, error: Exception) -> None:
        self._count(name)
        _log.error("%s failed; everything else goes on", name, exc_info=error)

    def _count(self, name: str) -> None:
        self.failures[name] += 1
        if self._counted is not None:
            self._counted(name)
