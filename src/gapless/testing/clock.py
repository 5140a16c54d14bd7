"""Time, pauses and jitter in the hands of a test: for code under guards, without a word in that code.

with fake_clock(payments) as clock:
    call = asyncio.create_task(charge("ada", 5))
    await clock.advance(2.0)
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from gapless.core.ports import World
from gapless.core.world import RealWorld
from gapless.resilience.guard import Guard
from gapless.testing.world import FakeWorld

MOVED = ("now", "time", "random", "sleep", "pause", "after")
"""What of the real world is replaced; processes and ports are not."""


class FakeClock:
    """`world` can be given to whatever takes a World."""

    def __init__(self, seed: int) -> None:
        self.world = FakeWorld(seed)

    def now(self) -> float:
        return self.world.now()

    async def advance(self, seconds: float) -> None:
        """Let time pass; whatever falls due on the way runs at its moment (`FakeWorld.advance`)."""
        await self.world.advance(seconds)

    def skip(self, seconds: float) -> None:
        """Let time pass for code that is not async; what was due rings late."""
        self.world.stall(seconds)

    async def run(self, work: Awaitable[Any], *, limit_s: float = 3600.0) -> Any:
        """The result of `work`, with time passing from one due moment to the next for as long as it waits. Raises
        TimeoutError after `limit_s` of pretended time."""
        task = asyncio.ensure_future(work)
        end = self.now() + limit_s
        await self.world.advance(0)
        while not task.done() and self.now() < end:
            await self.world.advance(STEP_S)
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
            raise TimeoutError(f"it still waits after {limit_s:g} s of pretended time")
        return await task


STEP_S = 0.005
"""Time goes on in such steps while somebody waits."""


@contextmanager
def fake_clock(*guards: Guard, seed: int = 0) -> Iterator[FakeClock]:
    """From here to the end of the block time stands still unless the test moves it, and dice fall by `seed`.

    It holds for every guard that is made in the block, for the given ones that were made before (they begin with empty
    windows and full buckets, and again after the block), and for `asyncio.sleep`. `time.monotonic` and the loop's own
    timers go on: `asyncio.timeout` is not moved, `deadline` is. Not for several threads at once.
    """
    clock = FakeClock(seed)
    real = {name: RealWorld.__dict__[name] for name in MOVED}
    real_sleep, asyncio.sleep = asyncio.sleep, _sleep(clock.world, asyncio.sleep)  # type: ignore[assignment]
    worlds = [(guard, guard._world) for guard in guards]  # noqa: SLF001 the one friend that a guard has
    try:
        for name in MOVED:
            setattr(RealWorld, name, staticmethod(getattr(clock.world, name)))
        for guard in guards:
            _move(guard, clock.world)
        yield clock
    finally:
        asyncio.sleep = real_sleep
        for name, value in real.items():
            setattr(RealWorld, name, value)
        for guard, world in worlds:
            _move(guard, world)


def _sleep(world: FakeWorld, real: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def sleep(delay: float, result: Any = None) -> Any:
        if delay <= 0:
            return await real(0, result)
        await world.sleep(delay)
        return result

    return sleep


def _move(guard: Guard, world: World) -> None:
    """Begin anew on another clock: moments of one mean nothing on the other."""
    guard.close()
    guard._world = world  # noqa: SLF001
    guard._layers = ()  # noqa: SLF001
    guard._common.budget = None  # noqa: SLF001
    guard._swap(guard.policies)  # noqa: SLF001
