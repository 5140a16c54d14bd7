"""Health checks: each runs by itself on its own beat with a time limit; probes only read the last results.

So a probe costs nothing however many ask, is never held up by a hanging dependency, and sees results that are at most
`every_s + timeout_s` old.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from gapless.resilience.deadline import within

if TYPE_CHECKING:
    from gapless.core.ports import World

TIMEOUT_S = 1.0
EVERY_S = 1.0
"""A broken dependency is told within two seconds, which is below what three failed probes take."""
FIRST_LOOK_S = 0.05
"""The beat before the service is ready: start-up should not wait a whole `every_s` for a dependency that came late."""

Function = Callable[[], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a check last said. `since_at` is when it began to say so, in seconds since the epoch."""

    passed: bool = False
    detail: str = "has not run yet"
    latency_s: float = 0.0
    since_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """`call` passes by returning None, True or a text (kept as detail); it fails by returning False or raising.
    A function that is not async runs in a thread, because it may block."""

    name: str
    call: Function
    timeout_s: float = TIMEOUT_S
    every_s: float = EVERY_S


def judged(before: Result, after: Result, now_at: float) -> Result:
    """The new result, with the moment of the last change kept while the verdict stays the same."""
    same = before.since_at > 0 and before.passed == after.passed
    return replace(after, since_at=before.since_at if same else now_at)


class Checks:
    """The checks of a service and their last results."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._checks: dict[str, Check] = {}
        self._threads: dict[str, asyncio.Future[Any]] = {}
        self.results: dict[str, Result] = {}

    def add(self, check: Check) -> None:
        """Raises ValueError when the name is taken."""
        if check.name in self._checks:
            raise ValueError(f"there is a check named {check.name!r} already")
        self._checks[check.name] = check
        self.results[check.name] = Result()

    @property
    def passing(self) -> bool:
        return all(result.passed for result in self.results.values())

    def failing(self) -> list[str]:
        """`name: detail` of each check that does not pass."""
        return [f"{name}: {result.detail}" for name, result in self.results.items() if not result.passed]

    def loops(self) -> list[tuple[str, Callable[[], Awaitable[None]]]]:
        """A named endless loop per check, to be supervised."""
        return [(f"check {check.name}", partial(self._beat, check)) for check in self._checks.values()]

    async def run_all(self) -> bool:
        """Each check once, at the same time; True when all pass."""
        await asyncio.gather(*(self.run(check) for check in self._checks.values()))
        return self.passing

    async def wait_passing(self) -> None:
        """Returns when all pass; never when they do not."""
        while not await self.run_all():
            await self._world.sleep(FIRST_LOOK_S)

    async def run(self, check: Check) -> Result:
        """One run within its limit. Never raises: whatever goes wrong is the result."""
        began = self._world.now()
        try:
            async with within(self._world, check.timeout_s):
                said = await self._call(check)
            found = Result(passed=said is not False, detail=said if isinstance(said, str) else "")
        except TimeoutError:
            found = Result(detail=f"no answer within {check.timeout_s:g} s")
        except Exception as error:  # noqa: BLE001 - the check's failure is its result
            found = Result(detail=f"{type(error).__name__}: {error}")
        found = replace(found, latency_s=self._world.now() - began)
        self.results[check.name] = judged(self.results[check.name], found, self._world.time())
        return self.results[check.name]

    async def _beat(self, check: Check) -> None:
        while True:
            await self._world.sleep(check.every_s)
            await self.run(check)

    async def _call(self, check: Check) -> Any:
        if inspect.iscoroutinefunction(check.call):
            return await cast("Callable[[], Awaitable[Any]]", check.call)()
        return await self._in_thread(check)

    async def _in_thread(self, check: Check) -> Any:
        """A thread cannot be cancelled: while a run hangs no further one is started, so that threads do not pile up."""
        running = self._threads.get(check.name)
        if running is not None and not running.done():
            raise TimeoutError
        thread = asyncio.ensure_future(asyncio.to_thread(check.call))
        self._threads[check.name] = thread
        thread.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        return await asyncio.shield(thread)
