"""Rings for calls that take too long, with one timer of the loop instead of one per call."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gapless.resilience.hedge_delay import EVERY, Fixed, Quantile
from gapless.resilience.hedge_race import Race

if TYPE_CHECKING:
    from gapless.core.ports import World

DUE, TASK, BEFORE, BEGAN, END, ARGS, KWARGS, CONTEXT, RACE = range(9)
Entry = list[Any]
"""A call under way, as a list because it is made for every call: when its hedge is due; its task and how many
cancellations had been asked for; when it began and must end; arguments and context; and its race, once there is one."""


class Timer:
    """The calls of one function in one event loop."""

    __slots__ = ("_cancel", "_delay", "_race", "_world", "armed_at", "loop", "thread", "waiting")

    def __init__(
        self,
        world: World,
        delay: Quantile | Fixed,
        race: Callable[[Entry], Race] | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
        thread: int = -1,
    ) -> None:
        """`race` starts a hedge, if there may be one."""
        self.loop, self.thread = loop, thread
        """A thread has at most one running loop, so that both together tell whether this is the timer to use."""
        self.waiting: dict[int, Entry] = {}
        """In the order in which they began, which is nearly that in which they are due: the quantile moves slowly.
        Whoever adds to it arms the timer when `armed_at` is later. Whose entry is gone was rung for."""
        self.armed_at = math.inf
        self._world, self._delay, self._race = world, delay, race
        self._cancel: Callable[[], None] | None = None

    def task(self) -> asyncio.Task[Any]:
        """The running one. Raises RuntimeError outside of a task, where nothing could be cancelled."""
        task = asyncio.current_task(self.loop)
        if task is None:
            raise RuntimeError("a hedge needs a task: call the guarded function from a coroutine of the loop")
        return task

    def arm(self, at: float) -> None:
        if self._cancel is not None:
            self._cancel()
        self.armed_at = at
        self._cancel = self._world.after(max(at - self._world.now(), 0.0), self._ring)

    def _ring(self) -> None:
        """Hedge what is due; look again when the next one may be. With nothing under way there is no timer. What the
        calls have taken is learnt here, too, so that they do not have to."""
        self.armed_at, self._cancel = math.inf, None
        now, waiting = self._world.now(), self.waiting
        while waiting and waiting[token := next(iter(waiting))][DUE] <= now:
            entry = waiting.pop(token)
            entry[RACE] = self._race(entry) if self._race else None
        if waiting:
            self.arm(next(iter(waiting.values()))[DUE])
        if len(self._delay.fresh) >= EVERY:
            self._delay.learn()
