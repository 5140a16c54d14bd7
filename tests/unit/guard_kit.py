"""What tests of guards share: calls that end as a script says, and a driver that cancels at every await."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from typing import Any

from gapless.core.ports import World
from gapless.resilience.guard import Guard
from gapless.resilience.policy import Policy
from gapless.testing import FakeWorld


def guarded(world: World, *policies: Policy) -> Guard:
    return Guard("payments", *policies, world=world)


class Script:
    """Ends call after call as told: an exception, seconds to take (a float), or a result; the last one for ever."""

    def __init__(self, world: FakeWorld, *ends: Any) -> None:
        self.world, self.ends, self.calls = world, list(ends), 0
        self.at: list[float] = []

    def _next(self) -> Any:
        self.calls += 1
        self.at.append(self.world.now())
        return self.ends.pop(0) if len(self.ends) > 1 else self.ends[0]

    async def ask(self, user: str = "u", idempotency_key: str = "k") -> Any:
        end = self._next()
        if isinstance(end, BaseException):
            raise end
        if isinstance(end, float):
            await self.world.sleep(end)
        return end

    def ask_sync(self, user: str = "u", idempotency_key: str = "k") -> Any:
        end = self._next()
        if isinstance(end, BaseException):
            raise end
        if isinstance(end, float):
            self.world.pause(end)
        return end


async def outcome(world: FakeWorld, call: Awaitable[Any], within_s: float = 1000.0, step_s: float = 0.5) -> Any:
    """What a call ends with, an exception too, while the world's time passes."""
    task = asyncio.ensure_future(call)
    for _ in range(int(within_s / step_s)):
        await world.settle()
        if task.done():
            break
        await world.advance(step_s)
    assert task.done(), "it never ends"
    try:
        return task.result()
    except asyncio.CancelledError as error:
        return error
    except Exception as error:  # noqa: BLE001 - it is what is asked for
        return error


class CancelAt:
    """Awaits `call`, and cancels the task that does when it waits for the k-th time: at once, or (`granted`) in the
    very moment in which what it waits for comes true."""

    def __init__(self, call: Awaitable[Any], k: int, granted: bool) -> None:
        self.call, self.k, self.granted, self.waits = call, k, granted, 0

    def __await__(self) -> Generator[Any, Any, Any]:
        inner, task = self.call.__await__(), asyncio.current_task()
        assert task is not None
        thrown: BaseException | None = None
        while True:
            try:
                waited_for = next(inner) if thrown is None else inner.throw(thrown)  # type: ignore[attr-defined]
            except StopIteration as end:
                return end.value
            self.waits += 1
            if self.waits == self.k:
                self._cancel(task, waited_for)
            try:
                yield waited_for
                thrown = None
            except BaseException as error:  # noqa: BLE001 - it goes to what is driven
                thrown = error

    def _cancel(self, task: asyncio.Task[Any], waited_for: Any) -> None:
        if self.granted and waited_for is not None:
            waited_for.add_done_callback(lambda _: task.cancel())
        else:
            asyncio.get_running_loop().call_soon(task.cancel)


async def cancel_everywhere(
    start: Callable[[], tuple[FakeWorld, Awaitable[Any], Callable[[], None]]], most: int = 50
) -> int:
    """Run what `start` makes again and again, cancelled at its first await, its second one, … until it ends by itself;
    after each run its check is called. Returns how many awaits there were."""
    for k in range(1, most):
        for granted in (False, True):
            world, call, check = start()
            cancelling = CancelAt(call, k, granted)

            async def run(it: CancelAt = cancelling) -> Any:
                return await it

            await outcome(world, run())
            await world.advance(100.0)
            check()
        if cancelling.waits < k:
            return k - 1
    raise AssertionError("it waits for ever")
