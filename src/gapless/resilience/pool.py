"""A pool of connections for asyncio: at most so many, lent to one borrower at a time, in the order of asking.

    async with Pool(connect, name="orders-db", max_size=10, check=ping, close=shut, world=world) as pool:
        async with pool.acquire() as connection:
            ...

What a borrower's cancellation could interrupt is made impossible instead of repaired: lending and returning have no
await, and connections are opened, checked and closed by tasks of the pool's own. A borrower only ever waits for one
future; whoever gives up waiting leaves the queue, and what was being opened for him serves the next one.

The decisions are in `pool_state.py`. One event loop at a time; not for threads.
"""

from __future__ import annotations

import asyncio
import logging
import math
import sys
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from gapless.core.ports import World
from gapless.resilience import deadline
from gapless.resilience.errors import DeadlineExceeded
from gapless.resilience.pool_errors import PoolClosed, not_connected, too_late
from gapless.resilience.pool_figures import Counts, PoolFigures
from gapless.resilience.pool_limits import PoolLimits, broken_by, let_go
from gapless.resilience.pool_state import Place, PoolState, Slot, line_of

if TYPE_CHECKING:
    from gapless.resilience.events import GuardHook

C = TypeVar("C")

_log = logging.getLogger("gapless.pool")

Turn = asyncio.Future[Slot[C]]


class Pool(Generic[C]):
    """See the module. Coroutine functions: `connect`; `check` raises or returns False for a connection that is not
    sound; `clean` makes one that came back fit for the next borrower, likewise; `close`. Functions that do not wait:
    `broken(connection, error)`, asked before each lending (error None) and after each return; `abort` drops a broken
    connection instead of `close`; `translate` makes ours of a vendor's error that leaves the block, or None."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[C]],
        *,
        name: str,
        world: World,
        limits: PoolLimits,
        check: Callable[[C], Awaitable[object]] | None = None,
        clean: Callable[[C], Awaitable[object]] | None = None,
        close: Callable[[C], Awaitable[object]] = let_go,
        broken: Callable[[C, BaseException | None], bool] = broken_by,
        abort: Callable[[C], object] | None = None,
        translate: Callable[[BaseException], Exception | None] | None = None,
        hooks: tuple[GuardHook, ...] = (),
    ) -> None:
        self.name, self.world, self.limits, self.hooks = name, world, limits, hooks
        self._now = world.now
        self._connect, self._check, self._clean, self._close = connect, check, clean, close
        self._broken, self._abort, self.translate = broken, abort, translate
        self._state: PoolState[C, Turn[C]] = PoolState(limits.max_size, limits.min_size)
        self._counts = Counts()
        self._tasks: set[asyncio.Task[None]] = set()
        self._openers: weakref.WeakSet[asyncio.Task[None]] = weakref.WeakSet()
        self._keeper: asyncio.Task[None] | None = None
        self._empty: asyncio.Event | None = None

    async def __aenter__(self) -> Self:
        self._open_wanted()
        self._keep()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    def acquire(self) -> Checkout[C]:
        """Enter it to borrow a connection. Raises PoolTimeout, DeadlineExceeded, ConnectFailed, PoolClosed."""
        frame = sys._getframe(1)  # noqa: SLF001 where the borrower asks, at a tenth of the price of a traceback
        return Checkout(self, (frame.f_code, frame.f_lasti))

    def statistics(self) -> PoolFigures:
        state, counts = self._state, self._counts
        oldest = state.oldest()
        return PoolFigures(
            name=self.name,
            max_size=state.max_size,
            size=state.size,
            idle=len(state.idle),
            in_use=len(state.out),
            waiting=len(state.waiters),
            oldest_checkout_age_s=state.oldest_age_s(self._now()),
            oldest_checkout_place=line_of(oldest.place) if oldest else "",
            wait_s_total=counts.wait_s,
            waits=tuple(counts.waits),
            **counts.totals(),
        )

    async def close(self, drain_s: float = 10.0) -> None:
        """Lend to no newcomer, wait until everything is back (who waits already is still served), then close. What is
        out after `drain_s` is closed under its borrower's hands, and named in the log."""
        state = self._state
        state.closed = True
        self._empty = self._empty or asyncio.Event()
        try:
            async with deadline.within(self.world, drain_s):
                while state.out or state.waiters:
                    self._empty.clear()
                    await self._empty.wait()
        except TimeoutError:
            self._give_up(drain_s)
        finally:
            self._close_all()
        while self._tasks:
            await asyncio.wait(self._tasks)
        if self._keeper is not None:
            await asyncio.wait((self._keeper,))

    # Lending: no await here but the one for the turn, so that there is nothing else to cancel.

    async def lend(self, place: Place | None) -> Slot[C]:
        """For adapters, whose callers borrow and return in two calls: `give_back` must follow, exactly once."""
        return self.take(place) or await self.queue(place)

    def take(self, place: Place | None) -> Slot[C] | None:
        """An idle connection, or None: then `queue`."""
        state, now = self._state, self._now()
        if state.closed:
            raise PoolClosed(f"pool {self.name!r} is closed", policy="pool", guard=self.name)
        if deadline.current.get() <= now:
            raise DeadlineExceeded(
                f"pool {self.name!r}: the deadline passed before a connection was lent",
                policy="pool",
                guard=self.name,
                started=False,
            )
        while (slot := state.take(now, place)) is not None:
            if not self._unfit(slot, None):
                self._counts.acquired += 1
                return slot
            self._discard(slot)
        return None

    async def queue(self, place: Place | None) -> Slot[C]:
        """Wait for a connection; cancelled or out of time, it holds none."""
        loop, state, begun = asyncio.get_running_loop(), self._state, self._now()
        turn: Turn[C] = loop.create_future()
        limit_s = min(self.limits.acquire_deadline_s, deadline.current.get() - begun)
        cancel = self.world.after(limit_s, lambda: self._expire(turn, limit_s)) if limit_s < math.inf else None
        state.queue(turn, place)
        self._open_wanted()
        self._keep()
        try:
            slot = await turn
        except BaseException:
            self._abandon(turn)
            raise
        finally:
            if cancel is not None:
                cancel()
            self._counts.waited(self._now() - begun)
        self._counts.acquired += 1
        return slot

    def give_back(self, slot: Slot[C], error: BaseException | None) -> None:
        """The borrower is done with it."""
        state = self._state
        if slot not in state.out:
            return  # closed under the borrower's hands
        if self._unfit(slot, error):
            self._discard(slot)
            if error is not None:
                self._suspect()
        elif self._clean is None:
            self._hand(state.give_back(slot, self._now()), slot)
        else:
            slot.idle_at = self._now()
            state.drop(slot)
            self._spawn(self._examine(slot, self._clean))
        self._wake_closer()

    def _unfit(self, slot: Slot[C], error: BaseException | None) -> bool:
        try:
            return self._broken(slot.connection, error)
        except Exception:  # noqa: BLE001 a slot must not be lost to a mistake in `broken`
            _log.exception("pool %r: `broken` failed; the connection is dropped", self.name)
            return True

    def _hand(self, turn: Turn[C] | None, slot: Slot[C]) -> None:
        while turn is not None and turn.done():  # cancelled, and has not yet come to leave the queue
            turn = self._state.give_back(slot, self._now())
        if turn is not None:
            turn.set_result(slot)
        elif self._state.closed:
            self._state.hold(slot)
            self._spawn(self._shut(slot))

    def _expire(self, turn: Turn[C], limit_s: float) -> None:
        if not turn.done():
            self._state.leave(turn)
            self._counts.timeouts += 1
            turn.set_exception(too_late(self.statistics(), limit_s))
            self._wake_closer()

    def _abandon(self, turn: Turn[C]) -> None:
        """Its waiter was cancelled. A connection that was lent to it in the same moment goes to the next one."""
        self._state.leave(turn)
        if turn.done() and not turn.cancelled() and turn.exception() is None:
            self.give_back(turn.result(), None)
        self._wake_closer()

    def _wake_closer(self) -> None:
        if self._empty is not None:
            self._empty.set()

    # Opening, checking and closing: tasks of the pool's own, which no borrower's cancellation reaches.

    def _open_wanted(self) -> None:
        for _ in range(self._state.wanted()):
            self._openers.add(self._spawn(self._open()))

    async def _open(self) -> None:
        try:
            async with deadline.within(self.world, self.limits.connect_s):
                connection = await self._connect()
        except BaseException as error:
            self._counts.failed += 1
            self._not_opened(error)
            if not isinstance(error, Exception):
                raise
            return
        self._counts.created += 1
        slot = Slot(connection, self._now())
        self._hand(self._state.opened(slot, self._now()), slot)

    def _not_opened(self, error: BaseException) -> None:
        turn = self._state.not_opened()
        failure = not_connected(self.name, error, self.limits.connect_s)
        if turn is None:
            _log.warning("%s", failure.what)
        elif not turn.done():
            turn.set_exception(failure)
        self._open_wanted()
        self._wake_closer()

    def _discard(self, slot: Slot[C]) -> None:
        """A lent connection is broken."""
        self._state.drop(slot)
        self._end(slot)

    def _end(self, slot: Slot[C]) -> None:
        """A held connection is broken: nothing polite is owed to it."""
        self._counts.discarded += 1
        if self._abort is None:
            self._spawn(self._shut(slot))
            return
        try:
            self._abort(slot.connection)
        except Exception:  # noqa: BLE001 what is broken may fail to be dropped
            _log.exception("pool %r: could not drop a broken connection", self.name)
        self._gone()

    async def _shut(self, slot: Slot[C]) -> None:
        try:
            async with deadline.within(self.world, self.limits.close_s):
                await self._close(slot.connection)
        except Exception:  # noqa: BLE001 it is given up, whatever its end is
            _log.warning("pool %r: a connection did not close properly", self.name, exc_info=True)
        finally:
            self._gone()

    def _gone(self) -> None:
        self._counts.closed += 1
        self._state.freed()
        self._open_wanted()
        self._wake_closer()

    def _suspect(self) -> None:
        """One has broken: its idle neighbours may have too, and nobody should find out by failing."""
        if self._check is not None:
            for slot in tuple(self._state.idle):
                self._begin(slot, self._check)

    def _begin(self, slot: Slot[C], check: Callable[[C], Awaitable[object]]) -> None:
        self._state.hold(slot)
        self._spawn(self._examine(slot, check))

    async def _examine(self, slot: Slot[C], check: Callable[[C], Awaitable[object]]) -> None:
        try:
            async with deadline.within(self.world, self.limits.check_s):
                sound = await check(slot.connection) is not False
        except Exception as error:  # noqa: BLE001 whatever it is, the connection is not sound
            _log.info("pool %r: a connection failed its check: %r", self.name, error)
            sound = False
        except BaseException:
            self._end(slot)
            raise
        if sound:
            self._hand(self._state.checked(slot, self._now()), slot)
        else:
            self._end(slot)

    # Housekeeping.

    def _keep(self) -> None:
        if self._keeper is None or self._keeper.done():
            self._keeper = asyncio.get_running_loop().create_task(self._housekeeping(), context=Context())

    async def _housekeeping(self) -> None:
        tick_s = self.limits.tick_s()
        while not self._state.closed and tick_s < math.inf:
            await self.world.sleep(tick_s)
            self._look(self._now())

    def _look(self, now: float) -> None:
        limits, state = self.limits, self._state
        for slot in state.expired(now, limits.idle_timeout_s):
            state.hold(slot)
            self._spawn(self._shut(slot))
        if self._check is not None:
            for slot in state.unchecked(now, limits.health_check_every_s):
                self._begin(slot, self._check)
        for slot in state.leaks(now, limits.leak_after_s):
            self._tell_leak(slot, now - slot.lent_at)
        self._open_wanted()

    def _tell_leak(self, slot: Slot[C], age_s: float) -> None:
        self._counts.leaked += 1
        place = line_of(slot.place)
        _log.warning("pool %r: a connection is out for %.1f s since %s and not given back", self.name, age_s, place)
        if self.hooks:
            from gapless.resilience.events import LeakFound, tell  # a third of this module's import time

            tell(self.hooks, LeakFound(guard=self.name, policy="pool", place=place, age_s=age_s))

    def _give_up(self, drain_s: float) -> None:
        state = self._state
        for turn in tuple(state.waiters):
            state.leave(turn)
            if turn.done():
                continue
            turn.set_exception(PoolClosed(f"pool {self.name!r} was closed", policy="pool", guard=self.name))
        for slot in tuple(state.out):
            _log.warning(
                "pool %r: closed after %.3g s with a connection out since %s", self.name, drain_s, line_of(slot.place)
            )
            self._discard(slot)

    def _close_all(self) -> None:
        for task in (*self._openers, *filter(None, [self._keeper])):
            task.cancel()
        for slot in tuple(self._state.idle):
            self._state.hold(slot)
            self._spawn(self._shut(slot))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        # A context of its own: the borrower's deadline does not bind what serves all of them.
        task = asyncio.get_running_loop().create_task(work, context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


class Checkout(Generic[C]):
    """One borrowing. Enter it once."""

    __slots__ = ("_place", "_pool", "_slot")

    def __init__(self, pool: Pool[C], place: Place) -> None:
        self._pool, self._place = pool, place
        self._slot: Slot[C] | None = None

    async def __aenter__(self) -> C:
        slot = self._pool.take(self._place)
        if slot is None:
            slot = await self._pool.queue(self._place)
        self._slot = slot
        return slot.connection

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        slot, self._slot = self._slot, None
        if slot is None:
            return
        pool = self._pool
        pool.give_back(slot, error)
        if error is not None and pool.translate is not None and (ours := pool.translate(error)):
            raise ours from error
