"""Ends tasks whose time is up, with one timer of the loop instead of one per call.

Calls with the same limit end in the order in which they began: the oldest one decides when to look again, and a call
that returns in time costs one entry in a dict. Ends that were inherited come in any order and share buckets of
5 ms, so that they fire at most so much late.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gapless.core.ports import World


TICKS_PER_S = 200
"""Coarse enough that busy services share buckets, fine enough beside the 10 ms that a deadline may be late."""


LEAST_S = 0.001
"""Between two looks: a timer that rings a rounding error too early must not ring for ever."""

LATE_S = 1 / TICKS_PER_S + LEAST_S
"""The most that the wheel is late by itself: a bucket, and a look just before. (The promise is 10 ms: the rest is the
loop's.)"""

Entry = tuple[asyncio.Task[Any], float, int]
"""A call under way: its task, its end, and how many cancellations had been asked for before (`Task.cancelling`), so
that a client's own is told apart. A tuple, because it is made for every call."""
Bucket = dict[object, Entry]
"""Calls by a token that is theirs alone. Whose token is gone before it removes it itself was ended by the wheel."""


class Wheel:
    """The calls of one guard in one event loop."""

    __slots__ = ("_buckets", "_cancel", "_ticks", "_world", "armed_at", "loop", "queue", "thread")

    def __init__(self, world: World, loop: asyncio.AbstractEventLoop | None = None, thread: int = -1) -> None:
        self.loop, self.thread = loop, thread
        """A thread has at most one running loop, so that both together tell whether this is the wheel to use."""
        self.queue: Bucket = {}
        """With ends that only rise. Whoever adds to it arms the wheel when `armed_at` is later."""
        self.armed_at = math.inf
        self._world = world
        self._buckets: dict[int, Bucket] = {}
        self._ticks: list[int] = []
        self._cancel: Callable[[], None] | None = None

    def task(self) -> asyncio.Task[Any]:
        """The running one. Raises RuntimeError outside of a task, where nothing could be ended."""
        task = asyncio.current_task(self.loop)
        if task is None:
            raise RuntimeError("a deadline needs a task to end: call the guarded function from a coroutine of the loop")
        return task

    def bucket(self, end: float) -> Bucket:
        """The place of a call whose end was inherited."""
        tick = int(end * TICKS_PER_S) + 1
        bucket = self._buckets.get(tick)
        if bucket is None:
            bucket = self._buckets[tick] = {}
            heapq.heappush(self._ticks, tick)
            if tick / TICKS_PER_S < self.armed_at:
                self.arm(tick / TICKS_PER_S)
        return bucket

    def arm(self, end: float) -> None:
        if self._cancel is not None:
            self._cancel()
        self.armed_at = end
        self._cancel = self._world.after(max(end - self._world.now(), 0.0), self._ring)

    def _ring(self) -> None:
        """End what is due; look again when the next one may be. With nothing under way there is no timer."""
        self.armed_at, self._cancel = math.inf, None
        now = self._world.now()
        for task, _, _ in self._due(now):
            task.cancel()
        if (following := self._next()) < math.inf:
            self.arm(max(following, now + LEAST_S))

    def _due(self, now: float) -> list[Entry]:
        queue, due = self.queue, []
        while queue and queue[token := next(iter(queue))][1] <= now:
            due.append(queue.pop(token))
        while self._ticks and self._ticks[0] <= now * TICKS_PER_S:
            bucket = self._buckets.pop(heapq.heappop(self._ticks))
            due += bucket.values()
            bucket.clear()
        return due

    def _next(self) -> float:
        while self._ticks and not self._buckets[self._ticks[0]]:
            del self._buckets[heapq.heappop(self._ticks)]
        inherited = self._ticks[0] / TICKS_PER_S if self._ticks else math.inf
        return min(inherited, next((end for _, end, _ in self.queue.values()), math.inf))


def left(bucket: Bucket, token: object, entry: Entry, error: BaseException | None) -> bool:
    """A call ends: take it out. True when it was the deadline that ended it, and nobody else besides."""
    if bucket.pop(token, None) is not None:
        return False
    task, _, before = entry
    return task.uncancel() <= before and isinstance(error, asyncio.CancelledError)
