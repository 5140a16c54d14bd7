"""One call per key at a time, whoever asks for it meanwhile.

The call runs in a task of its own. A caller waits for its end until his own deadline; he may be cancelled without
taking the call, or the others, with him. (That is why cashews' `protected` is not used: there, cancelling one of the
callers cancels the call, and with it all the others.)
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Coroutine, Hashable
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from gapless.resilience import deadline
from gapless.resilience.errors import DeadlineExceeded, Transient

if TYPE_CHECKING:
    from gapless.core.ports import World

_log = logging.getLogger("gapless.cache")

Work = Callable[[], Coroutine[Any, Any, Any]]


class Flight:
    """A call under way and those who wait for it."""

    __slots__ = ("background", "loop", "task", "turns")

    def __init__(self, loop: asyncio.AbstractEventLoop, background: bool) -> None:
        self.loop, self.background = loop, background
        self.turns: dict[asyncio.Future[Any], None] = {}
        self.task: asyncio.Task[None] | None = None


class Flights:
    """The calls under way, by name."""

    def __init__(self) -> None:
        self._flights: dict[Hashable, Flight] = {}
        self.joined = self.failed_alone = 0
        """Callers who found a call under way; calls that failed while nobody waited for them."""

    def __contains__(self, name: Hashable) -> bool:
        return name in self._flights

    def __len__(self) -> int:
        return len(self._flights)

    async def fly(self, name: Hashable, work: Work, world: World, limit_s: float) -> Any:
        """The result of the call that is under way, or of this one."""
        loop, now = asyncio.get_running_loop(), world.now()
        if deadline.current.get() <= now:
            raise _late("the deadline passed before the call began", started=False)
        flight, turn = self._flights.get(name), loop.create_future()
        if flight is None or flight.loop is not loop:  # another loop's future cannot be awaited here
            flight = self.begin(name, work, world, max(limit_s, deadline.remaining(now)), turn=turn)
        else:
            self.joined += 1
            flight.turns[turn] = None
        return await _wait(flight, turn, world)

    def begin(
        self, name: Hashable, work: Work, world: World, limit_s: float, *, turn: asyncio.Future[Any] | None = None
    ) -> Flight:
        """Start a call; without `turn` nobody waits for it. It ends after `limit_s` at the latest, and sees that as its
        deadline: it is work for everybody, not bound to the deadline of who happened to be first."""
        loop = asyncio.get_running_loop()
        flight = Flight(loop, background=turn is None)
        if turn is not None:
            flight.turns[turn] = None  # before the task: an eager one may end at once
        context = copy_context()
        context.run(deadline.current.set, world.now() + limit_s)
        self._flights[name] = flight
        flight.task = loop.create_task(self._run(name, flight, work, world, limit_s), context=context)
        return flight

    def cancel(self) -> None:
        """Those that nobody waits for."""
        for flight in list(self._flights.values()):
            if flight.task is not None and not flight.turns and not flight.loop.is_closed():
                flight.loop.call_soon_threadsafe(flight.task.cancel)

    async def _run(self, name: Hashable, flight: Flight, work: Work, world: World, limit_s: float) -> None:
        try:
            async with deadline.within(world, limit_s):
                result = await work()
        except BaseException as error:
            self._land(name, flight)
            self._tell(name, flight, _told(error, world))
            if not isinstance(error, Exception):
                raise
        else:
            self._land(name, flight)
            for turn in flight.turns:
                if not turn.done():
                    turn.set_result(result)

    def _land(self, name: Hashable, flight: Flight) -> None:
        if self._flights.get(name) is flight:
            del self._flights[name]

    def _tell(self, name: Hashable, flight: Flight, error: Exception) -> None:
        waiting = [turn for turn in flight.turns if not turn.done()]
        for turn in waiting:
            turn.set_exception(error)
        if not waiting:
            self.failed_alone += 1
            what = "refresh" if flight.background else "call"
            _log.warning("the %s for %r failed and nobody waited for it: %r", what, name, error)


async def _wait(flight: Flight, turn: asyncio.Future[Any], world: World) -> Any:
    left_s = deadline.remaining(world.now())
    cancel = world.after(left_s, lambda: _expire(turn)) if left_s < math.inf else None
    try:
        return await turn
    finally:
        flight.turns.pop(turn, None)
        if cancel is not None:
            cancel()
        if turn.done() and not turn.cancelled():
            turn.exception()  # seen: a caller who was cancelled in the same moment does not miss it


def _expire(turn: asyncio.Future[Any]) -> None:
    if not turn.done():
        turn.set_exception(_late("the deadline passed while the call for the same key was under way", started=True))


def _late(what: str, *, started: bool) -> DeadlineExceeded:
    return DeadlineExceeded(what, policy="cache", started=started)


def _told(error: BaseException, world: World) -> Exception:
    """What those who wait are told: never a cancellation, which they would take for their own."""
    if not isinstance(error, Exception):
        return Transient("the call for the same key was cancelled", "Ask again.")
    if type(error) is TimeoutError and deadline.cut(world.now()):
        return _late("the call for the same key took too long", started=True)
    return error
