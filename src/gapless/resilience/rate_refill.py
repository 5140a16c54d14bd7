"""Who runs the rounds of `Leases`: a task or a thread, and only while calls come."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, Protocol

from gapless.core.ports import World
from gapless.resilience import deadline
from gapless.resilience.rate_leases import ANSWER_S, Leases
from gapless.resilience.rate_redis import LEND, Away, BlockingScripts, Scripts


class Refill(Protocol):
    def wake(self) -> None:
        """A round is wanted."""
        ...

    def close(self) -> None: ...


class Background:
    """The one task, or short-lived thread, that something has under way."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def task(self, work: Coroutine[Any, Any, None]) -> None:
        """In a context of its own: the deadline of the call that was the occasion is none of its business."""
        self._loop = asyncio.get_running_loop()
        self.task_on(self._loop, work)

    def running(self) -> bool:
        """In this event loop."""
        return self._task is not None and not self._task.done() and self._loop is asyncio.get_running_loop()

    def thread(self, work: Callable[[], None]) -> None:
        threading.Thread(target=work, name="gapless-rate", daemon=True).start()

    def finish(self, work: Coroutine[Any, Any, None]) -> None:
        """On the loop of the calls, if it is still there."""
        if self._loop is not None and self._loop.is_running():
            self._loop.call_soon_threadsafe(self.task_on, self._loop, work)
        else:
            work.close()

    def task_on(self, loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, None]) -> None:
        self._task = loop.create_task(work, context=Context())

    def close(self) -> None:
        if self._task is not None and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._task.cancel)


class TaskRefill:
    """On the event loop of the calls; it ends when nothing is wanted."""

    def __init__(self, leases: Leases, scripts: Scripts, world: World) -> None:
        self._leases, self._scripts, self._world = leases, scripts, world
        self._background = Background()

    def wake(self) -> None:
        if not self._background.running():
            self._background.task(self._refill())

    def close(self) -> None:
        self._background.close()

    async def _refill(self) -> None:
        leases, now = self._leases, self._world.now
        while (wanted := leases.begin(now())) is not None:
            try:
                async with deadline.within(self._world, ANSWER_S):
                    reply = await self._scripts.run(LEND, wanted.keys, wanted.args)
            except (Away, TimeoutError) as error:
                leases.lost(wanted, str(error) or "no answer in time", now())
            else:
                leases.finish(wanted, reply, now())
            await self._world.sleep(leases.pause_s)


class ThreadRefill:
    """In one thread, for calls from threads; it sleeps when nothing is wanted."""

    def __init__(self, leases: Leases, scripts: BlockingScripts, world: World) -> None:
        self._leases, self._scripts, self._world = leases, scripts, world
        self._wanted = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False

    def wake(self) -> None:
        if not self._wanted.is_set():
            self._wanted.set()
            if self._thread is None:
                self._start()

    def close(self) -> None:
        self._closed = True
        self._wanted.set()

    def _start(self) -> None:
        with self._lock:
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="gapless-rate", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        try:
            self._refill()
        except Exception:
            if not self._closed:  # otherwise its owner has closed the client meanwhile, as he may
                raise
        finally:
            self._scripts.close()

    def _refill(self) -> None:
        leases, now = self._leases, self._world.now
        while not self._closed:
            self._wanted.clear()
            wanted = leases.begin(now())
            if wanted is None:
                self._wanted.wait()
                continue
            try:
                reply = self._scripts.run(LEND, wanted.keys, wanted.args)
            except Away as error:
                leases.lost(wanted, str(error), now())
            else:
                leases.finish(wanted, reply, now())
            self._world.pause(leases.pause_s)
