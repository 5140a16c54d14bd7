"""What a service holds while it runs: opened in order, closed in reverse.

Each resource lives in a task of its own: context managers that bind themselves to a task (task groups, cancel scopes)
may be opened by one caller and closed by another, and one that hangs can be cancelled without touching the rest.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any

from gapless.resilience.deadline import within

if TYPE_CHECKING:
    from gapless.core.ports import World

Opener = Callable[[], AbstractAsyncContextManager[Any]]


def opener(function: Callable[..., Any]) -> Opener:
    """A resource as it may be written: an async generator function that yields once, or anything that returns an async
    context manager when called. Raises TypeError with what was given."""
    if inspect.isasyncgenfunction(function):
        made: Callable[[], AsyncGenerator[Any]] = function
        return asynccontextmanager(made)
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise TypeError(f"resource {function.__qualname__} must be an async generator function (async def … yield)")
    return function


class Resource:
    """One opened context manager and the task that it lives in."""

    def __init__(self, name: str, open_it: Opener) -> None:
        self.name = name
        self._open_it = open_it
        self._closing = asyncio.Event()
        self._opened: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> Any:
        """Its value. What its opening raises is raised here; when the opening is cancelled, so is the resource."""
        self._task = asyncio.create_task(self._live(), name=f"resource {self.name}")
        try:
            await asyncio.wait({self._task, self._opened}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await self._cancel()
            raise
        if not self._opened.done():
            self._task.result()
            raise RuntimeError(f"resource {self.name} ended while it was being opened")
        return self._opened.result()

    async def close(self, world: World, limit_s: float) -> None:
        """Raises what its closing raises; TimeoutError when that takes too long (it is cancelled then)."""
        assert self._task is not None
        self._closing.set()
        try:
            async with within(world, limit_s):
                await asyncio.wait({self._task})
        except TimeoutError:
            await self._cancel()
            raise TimeoutError(f"resource {self.name} did not close within {limit_s:.1f} s") from None
        self._task.result()

    async def _live(self) -> None:
        async with self._open_it() as value:
            self._opened.set_result(value)
            await self._closing.wait()

    async def _cancel(self) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait({self._task}, timeout=1.0)
        if self._task.done() and not self._task.cancelled():
            self._task.exception()  # marks it as seen: the cancellation's cause is what is reported


class Resources:
    """The opened ones, in order. `values` are what they yielded, by name."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._open: list[Resource] = []
        self.values: dict[str, Any] = {}

    async def open(self, name: str, open_it: Opener) -> None:
        """Open the next one."""
        resource = Resource(name, open_it)
        self.values[name] = await resource.open()
        self._open.append(resource)

    async def close(self, limit_s: float) -> None:
        """Close all in reverse, going on after errors; each may take an equal share of what is left of the limit.
        Raises an ExceptionGroup of what went wrong."""
        end = self._world.now() + limit_s
        errors: list[Exception] = []
        while self._open:
            share_s = max(end - self._world.now(), 0.0) / len(self._open)
            resource = self._open.pop()
            try:
                await resource.close(self._world, share_s)
            except Exception as error:  # noqa: BLE001 - collected, and raised below
                error.add_note(f"while resource {resource.name!r} was being closed")
                errors.append(error)
        self.values.clear()
        if errors:
            raise ExceptionGroup("resources could not be closed", errors)
