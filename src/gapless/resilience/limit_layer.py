"""A limit at work: takes and gives back places, waits for them, wakes those whose turn it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any

from gapless.core.errors import ConfigError
from gapless.resilience import deadline
from gapless.resilience.errors import Overloaded
from gapless.resilience.events import CallRejected, LimitChanged
from gapless.resilience.limit_adaptive import Adaptive, Gradient
from gapless.resilience.limit_shed import Fate, Priority, Queue, Waiter, priority
from gapless.resilience.limit_state import LimitState
from gapless.resilience.memory import Memory
from gapless.resilience.policy import Args, AsyncCall, Binding, Call, Gate, Kwargs, Layer, Site, Statistics

if TYPE_CHECKING:
    from gapless.resilience.limit import Limit

Rank = Callable[[Args, Kwargs], int]


class Held:
    """A place that `guard.enter` has; it can be given back once."""

    __slots__ = ("began", "open")

    def __init__(self, began: float) -> None:
        self.began = began
        self.open = True


class LimitLayer(Layer):
    kind = "limit"

    def __init__(self, policy: Limit, binding: Binding) -> None:
        self.policy = policy
        most = policy.most
        gradient = Gradient(most, binding.now()) if isinstance(most, Adaptive) else None
        self.state = LimitState(
            policy.first, Queue(policy.queue, policy.codel, lifo=policy.order == "adaptive"), gradient
        )
        self._binding = binding
        self.now = binding.now

    def around(self, call: AsyncCall, site: Site) -> AsyncCall:
        return self._bulkhead(call, site) if self.state.gradient is None else self._adapting(call, site)

    def around_sync(self, call: Call, site: Site) -> Call:
        return self._bulkhead_sync(call, site) if self.state.gradient is None else self._adapting_sync(call, site)

    # The four closures below differ in `await` and in taking the time. They are the hot path: a function call more in
    # each would cost as much as all that they do.

    def _bulkhead(self, call: AsyncCall, site: Site) -> AsyncCall:
        state, rank, turn, hand_on = self.state, self._rank(site), self.turn, self._hand_on
        take, give = state.places.pop, state.places.append

        async def limited(args: Args, kwargs: Kwargs) -> Any:
            try:
                take()
            except IndexError:
                await turn(rank(args, kwargs))
            else:
                state.admitted += 1
            try:
                return await call(args, kwargs)
            finally:
                give(None)
                if state.attention:
                    hand_on()

        return limited

    def _adapting(self, call: AsyncCall, site: Site) -> AsyncCall:
        state, rank, turn, now, hand_on = self.state, self._rank(site), self.turn, self.now, self._hand_on
        take, give, leave, look = state.places.pop, state.places.append, self.leave, self._look
        gradient = state.gradient
        assert gradient is not None

        async def adapting(args: Args, kwargs: Kwargs) -> Any:
            try:
                take()
            except IndexError:
                await turn(rank(args, kwargs))
            else:
                state.admitted += 1
            began = now()
            try:
                result = await call(args, kwargs)
            except BaseException as error:
                leave(began, error)
                raise
            ended = now()
            give(None)
            gradient.took_s += ended - began  # two threads may lose a sample here; it is a sample
            gradient.samples += 1
            if state.attention:
                hand_on()
            if ended >= gradient.look_at:
                look(ended)
            return result

        return adapting

    def _bulkhead_sync(self, call: Call, site: Site) -> Call:
        state, rank, turn, hand_on = self.state, self._rank(site), self.turn_sync, self._hand_on
        take, give = state.places.pop, state.places.append

        def limited(args: Args, kwargs: Kwargs) -> Any:
            try:
                take()
            except IndexError:
                turn(rank(args, kwargs))
            else:
                state.admitted += 1
            try:
                return call(args, kwargs)
            finally:
                give(None)
                if state.attention:
                    hand_on()

        return limited

    def _adapting_sync(self, call: Call, site: Site) -> Call:
        state, rank, turn, now, hand_on = self.state, self._rank(site), self.turn_sync, self.now, self._hand_on
        take, give, leave, look = state.places.pop, state.places.append, self.leave, self._look
        gradient = state.gradient
        assert gradient is not None

        def adapting(args: Args, kwargs: Kwargs) -> Any:
            try:
                take()
            except IndexError:
                turn(rank(args, kwargs))
            else:
                state.admitted += 1
            began = now()
            try:
                result = call(args, kwargs)
            except BaseException as error:
                leave(began, error)
                raise
            ended = now()
            give(None)
            gradient.took_s += ended - began  # two threads may lose a sample here; it is a sample
            gradient.samples += 1
            if state.attention:
                hand_on()
            if ended >= gradient.look_at:
                look(ended)
            return result

        return adapting

    def gate(self, site: Site) -> Gate:
        return _LimitGate(self, self._rank(site))

    def adopt(self, old: Layer) -> None:
        """The places that are taken stay taken; a smaller limit is reached when enough have left."""
        if not isinstance(old, LimitLayer):
            return
        state, fresh = old.state, self.state
        learnt = state.gradient
        if learnt is not None and isinstance(self.policy.most, Adaptive):
            learnt.adjust(self.policy.most)
        else:
            state.gradient = fresh.gradient
        state.queue.adjust(fresh.queue)
        self.state = state
        limit = int(state.gradient.limit) if state.gradient is not None else fresh.limit
        self._wake(state.resize(limit, self.now()))

    def dump(self, now: float) -> Memory | None:
        gradient = self.state.gradient
        return None if gradient is None else Memory(form="limit.adaptive", facts=gradient.dump())

    def load(self, memory: Memory, then: float) -> None:
        gradient, now = self.state.gradient, self.now()
        if gradient is not None:
            gradient.load(memory.facts, now)
            self._wake(self.state.resize(int(gradient.limit), now))

    def statistics(self) -> Statistics:
        state, fates = self.state, self.state.fates
        refused = (Fate.FULL, Fate.SHED, Fate.EVICTED, Fate.LATE)
        return {
            "limit": state.limit,
            "busy": state.busy,
            "waiting": state.queue.waiting,
            "admitted": state.admitted + fates[Fate.GRANTED],
            "queued": state.queued,
            "rejected": sum(fates[fate] for fate in refused),
            "shed": fates[Fate.SHED],
            "evicted": fates[Fate.EVICTED],
            "late": fates[Fate.LATE],
        }

    def enter(self) -> bool:
        """Take a place if there is one."""
        try:
            self.state.places.pop()
        except IndexError:
            return False
        self.state.admitted += 1
        return True

    def leave(self, began: float, error: BaseException | None) -> None:
        """A call ended and gives its place back."""
        state, now = self.state, self.now()
        gradient = state.gradient
        # Failures may be quick; only what was cut tells how long it takes: at least so long.
        tells = (
            error is None
            or isinstance(error, TimeoutError)
            or (isinstance(error, asyncio.CancelledError) and deadline.cut(now))
        )
        state.places.append(None)
        if gradient is not None and tells:
            gradient.took_s += now - began
            gradient.samples += 1
        if state.attention:
            self._hand_on()
        if gradient is not None and now >= gradient.look_at:
            self._look(now)

    def _hand_on(self) -> None:
        self._wake(self.state.hand_on(self.now()))

    def _look(self, now: float) -> None:
        state, binding = self.state, self._binding
        before = state.limit
        self._wake(state.look(now))
        if binding.hooks and state.limit != before:
            binding.emit(LimitChanged(guard=binding.guard, policy="limit", before=before, after=state.limit))

    def _rank(self, site: Site) -> Rank:
        key = self.policy.priority
        if key is None:
            return lambda args, kwargs: priority.get()
        found = site.key(key)
        return lambda args, kwargs: _as_rank(found(args, kwargs))

    async def turn(self, rank: int) -> None:
        """Wait for a place; returns when it has one. Cancelled, it has none."""
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[None] = loop.create_future()
        waiter, left_s = self._join(rank, partial(_wake_in, loop, woken))
        if waiter.fate is Fate.WAITING:
            stop = self._binding.world.after(left_s, partial(self._late, waiter))
            try:
                await woken
            except BaseException:
                self._wake(self.state.abandon(waiter, Fate.GONE, self.now()))
                raise
            finally:
                stop()
        self._admitted(waiter)

    def turn_sync(self, rank: int) -> None:
        woken = Lock()
        woken.acquire()
        waiter, left_s = self._join(rank, woken.release)
        if waiter.fate is Fate.WAITING:
            try:
                in_time = woken.acquire(timeout=left_s)
            except BaseException:
                self._wake(self.state.abandon(waiter, Fate.GONE, self.now()))
                raise
            if not in_time:
                self.state.abandon(waiter, Fate.LATE, self.now())
        self._admitted(waiter)

    def _join(self, rank: int, wake: Callable[[], None]) -> tuple[Waiter, float]:
        """A waiter and the seconds that it may wait."""
        deadline.check(self._binding, "limit")
        now = self.now()
        waiter = Waiter(rank, now, wake)
        self._wake(self.state.join(waiter, now))
        return waiter, min(self.policy.wait_s, deadline.remaining(now))

    def _late(self, waiter: Waiter) -> None:
        self.state.abandon(waiter, Fate.LATE, self.now())
        waiter.wake()

    def _admitted(self, waiter: Waiter) -> None:
        """Raises Overloaded or DeadlineExceeded unless it has a place and time to use it."""
        now = self.now()
        if deadline.cut(now):
            self._wake(self.state.abandon(waiter, Fate.GONE, now))
            deadline.check(self._binding, "limit")
        if waiter.fate is not Fate.GRANTED:
            self._refuse(waiter.fate)

    def _refuse(self, fate: Fate) -> None:
        binding, state = self._binding, self.state
        retry_after_s = state.retry_after_s()
        if binding.hooks:
            binding.emit(CallRejected(guard=binding.guard, policy="limit", reason=fate, retry_after_s=retry_after_s))
        raise Overloaded(
            f"{binding.guard}: {state.busy} calls under way, {state.queue.waiting} waiting; {fate}",
            "Ask again when `retry_after_s` has passed; raise the limit if the other side is not busy.",
            policy="limit",
            guard=binding.guard,
            retry_after_s=retry_after_s,
        )

    def _wake(self, sealed: list[Waiter]) -> None:
        for waiter in sealed:
            try:
                waiter.wake()
            except RuntimeError:  # its event loop is closed: nobody is there to use the place
                sealed += self.state.abandon(waiter, Fate.GONE, self.now())


class _LimitGate:
    """The limit's part in `guard.enter`."""

    def __init__(self, layer: LimitLayer, rank: Rank) -> None:
        self._layer = layer
        self._rank = rank

    async def acquire(self, kwargs: Kwargs) -> Held:
        if not self._layer.enter():
            await self._layer.turn(self._rank((), kwargs))
        return Held(self._layer.now())

    def acquire_sync(self, kwargs: Kwargs) -> Held:
        if not self._layer.enter():
            self._layer.turn_sync(self._rank((), kwargs))
        return Held(self._layer.now())

    def release(self, held: Held, error: BaseException | None) -> BaseException | None:
        if held.open:
            held.open = False
            self._layer.leave(held.began, error)
        return None


def _as_rank(value: Any) -> int:
    if isinstance(value, int):
        return value
    try:
        return Priority[str(value).upper()]
    except KeyError:
        raise ConfigError(
            f"{value!r} is no priority", f"One of {', '.join(each.name.lower() for each in Priority)}, or 0, 1, 2."
        ) from None


def _wake_in(loop: asyncio.AbstractEventLoop, woken: asyncio.Future[None]) -> None:
    """Raises RuntimeError when the loop is closed."""
    try:
        here = asyncio.get_running_loop() is loop
    except RuntimeError:
        here = False  # in a thread without a loop
    if here:
        _resolve(woken)
    else:
        loop.call_soon_threadsafe(_resolve, woken)


def _resolve(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)
