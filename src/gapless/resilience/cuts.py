"""Who cancelled? A call that an outer timeout cuts says that the other side is slow; one whose client went away says
nothing. Both look alike from within: a CancelledError.

`asyncio.timeout` (and what is built on it: `wait_for` since Python 3.12, anyio's scopes, our deadlines) takes its
cancellation back with `Task.uncancel` when it turns it into a TimeoutError, and the task goes on. A client's
cancellation ends the task. So the answer is known as soon as the task has gone on, one turn of the loop later.

`wait_for` on Python 3.11 runs the call in a task of its own and cancels that one, for either reason. There the task
that waits for it must be looked at: was it asked to stop?
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gapless.core.ports import World


BEATEN = "gapless: another attempt was faster"
"""The message of a cancellation by a hedge: it says nothing about the attempt that it ends."""


SOON = 8
"""Turns of the loop in which nearly every task is out of its timeout."""
FIRST_S, MOST_S, LOOKS = 0.02, 5.0, 60
"""Then it still waits for something on its way out (a `finally` with an await): looked at ever more rarely, and after
some minutes no more."""


def tell_later(error: asyncio.CancelledError, world: World, verdict: Callable[[bool], None]) -> None:
    """Call `verdict(timed_out)` once: at once if it is known, or as soon as it shows."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None  # a coroutine that is driven by hand
    if task is None or not task.cancelling() or BEATEN in error.args:
        return verdict(False)
    waiting = _waiting_for(task)
    if waiting is not None and not waiting.cancelling():
        return verdict(True)
    return _Look(waiting or task, world, verdict).later()


class _Look:
    """Has the task gone on since it was cancelled, or has it ended?"""

    __slots__ = ("_level", "_looks", "_task", "_verdict", "_world")

    def __init__(self, task: asyncio.Task[Any], world: World, verdict: Callable[[bool], None]) -> None:
        self._task, self._world, self._verdict = task, world, verdict
        self._level = task.cancelling()
        self._looks = 0

    def later(self) -> None:
        if self._looks < SOON:
            asyncio.get_running_loop().call_soon(self._look)
        else:
            self._world.after(min(FIRST_S * 2.0 ** (self._looks - SOON), MOST_S), self._look)

    def _look(self) -> None:
        self._looks += 1
        task = self._task
        if task.done():
            self._verdict(not task.cancelled())
        elif task.cancelling() < self._level:
            self._verdict(True)
        elif self._looks == LOOKS:
            self._verdict(False)
        else:
            self.later()


def _waiting_for(task: asyncio.Task[Any]) -> asyncio.Task[Any] | None:
    """Who waits in Python 3.11's `wait_for` until this task, which it has cancelled, is over."""
    if sys.version_info >= (3, 12):
        return None
    # No public way leads there; the names are those of a version that does not change any more.
    release = getattr(asyncio.tasks, "_release_waiter", None)
    for callback, _ in getattr(task, "_callbacks", None) or ():
        if isinstance(callback, partial) and callback.func is release:
            for wake, _ in getattr(callback.args[0], "_callbacks", None) or ():
                if isinstance(waiting := getattr(wake, "__self__", None), asyncio.Task):
                    return waiting
    return None
