"""A level-triggered loop: look, act, wait until something changed or a little time has passed, look again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from gapless.core.errors import Conflict, GaplessError
from gapless.core.ports import World

_log = logging.getLogger("gapless.control")


class Loop:
    """Repeats `step`. What a step raises is logged, and the next look tries again: one wrong record or a full disk must
    not end the supervision of all the others."""

    def __init__(
        self, name: str, step: Callable[[], Awaitable[None]], every_s: float, world: World, *, woken: bool = True
    ) -> None:
        self.name = name
        self._wakes = woken
        self._step = step
        self._every_s = every_s
        self._world = world
        self._woken = asyncio.Event()
        self._last_error = ""

    def wake(self) -> None:
        """Look again now."""
        self._woken.set()

    def changed(self) -> None:
        """The records have changed; a loop that only keeps its own beat does not mind."""
        if self._wakes:
            self._woken.set()

    async def run(self) -> None:
        """For ever, until cancelled."""
        while True:
            self._woken.clear()
            await self._look()
            cancel = self._world.after(self._every_s, self._woken.set)
            try:
                await self._woken.wait()
            finally:
                cancel()

    async def _look(self) -> None:
        try:
            await self._step()
            self._last_error = ""
        except Conflict:
            self._woken.set()  # somebody wrote first: decide again on what they wrote
        except GaplessError as error:
            self._report(str(error))
        except Exception:  # noqa: BLE001 the loop outlives a defect in one look; the log has its trace
            _log.exception("%s: a look failed; the next one tries again", self.name)

    def _report(self, text: str) -> None:
        if text != self._last_error:  # a lasting fault is said once, not four times a second
            _log.warning("%s: %s", self.name, text)
        self._last_error = text


class Jobs:
    """Long acts, one at a time for each name, that a loop starts and does not wait for."""

    def __init__(self, done: Callable[[], None]) -> None:
        self._done = done
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, name: str, act: Callable[[], Awaitable[None]]) -> None:
        """Begin, unless a job of that name is under way."""
        if name not in self._tasks:
            self._tasks[name] = asyncio.create_task(self._run(name, act), name=name)

    def __contains__(self, name: object) -> bool:
        return name in self._tasks

    async def _run(self, name: str, act: Callable[[], Awaitable[None]]) -> None:
        try:
            await act()
        except GaplessError as error:
            _log.warning("%s: %s", name, error)
        except Exception:  # noqa: BLE001 see Loop._look
            _log.exception("%s failed", name)
        finally:
            self._tasks.pop(name, None)
            self._done()

    async def cancel(self) -> None:
        """End them all; what they were doing is found half-done by the next control plane, which goes on with it."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
