"""`deadline(2.0)`: the smaller of a guard's own limit and what is left of the caller's time."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable
from contextvars import Token
from threading import get_ident
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

from gapless.core.errors import ConfigError
from gapless.core.value import Value
from gapless.resilience.deadline import current
from gapless.resilience.deadline_wheel import Bucket, Entry, Wheel, left
from gapless.resilience.errors import DeadlineExceeded
from gapless.resilience.events import DeadlineExpired
from gapless.resilience.policy import Args, AsyncCall, Binding, Call, Gate, Kwargs, Layer, Site, Statistics


class Deadline(Value, kw_only=False):
    kind: ClassVar[str] = "deadline"
    limit_s: float

    def bind(self, binding: Binding) -> DeadlineLayer:
        return DeadlineLayer(self, binding)


def deadline(limit_s: float = math.inf) -> Deadline:
    """At most `limit_s` seconds, and never beyond the deadline of the request being served.

    What runs inside sees the smaller one in `gapless.resilience.deadline.current`. An async call is cancelled when it
    passes; a sync one cannot be interrupted: what it returns too late becomes DeadlineExceeded.
    """
    if not limit_s > 0:
        raise ConfigError(f"deadline({limit_s!r}) leaves no time", "Give seconds above 0.")
    return Deadline(float(limit_s))


class _Counts:
    __slots__ = ("expired", "refused")

    def __init__(self) -> None:
        self.expired = self.refused = 0


class DeadlineLayer(Layer):
    kind = "deadline"

    def __init__(self, policy: Deadline, binding: Binding, speaker: str = "deadline") -> None:
        self._policy, self._binding, self._speaker = policy, binding, speaker
        self._counts = _Counts()
        self._wheels: WeakKeyDictionary[asyncio.AbstractEventLoop, Wheel] = WeakKeyDictionary()

    def adopt(self, old: Layer) -> None:
        assert isinstance(old, DeadlineLayer)
        self._counts = old._counts  # noqa: SLF001 not the wheels: their queues are in the order of one limit

    def statistics(self) -> Statistics:
        return {"expired": self._counts.expired, "refused": self._counts.refused}

    def around(self, call: AsyncCall, site: Site) -> AsyncCall:
        limit_s, now, here = self._policy.limit_s, self._binding.now, self._here
        get, set_, reset, task_of, thread = current.get, current.set, current.reset, asyncio.current_task, get_ident
        wheel = Wheel(self._binding.world)  # of the loop that called last: nearly always the only one

        async def timed(args: Args, kwargs: Kwargs) -> Any:
            nonlocal wheel
            mine, began = wheel, now()
            if mine.thread != thread() or (task := task_of(mine.loop)) is None:
                mine = wheel = here()
                task = mine.task()
            own, end = began + limit_s, get()
            if own < end:
                end, bucket = own, mine.queue
                if own < mine.armed_at:
                    mine.arm(own)
            else:
                bucket = self._inherited(mine, began, end)
            entry = (task, end, task.cancelling())
            token = set_(end)
            bucket[token_id := id(token)] = entry
            try:
                result = await call(args, kwargs)
            except BaseException as error:
                reset(token)
                if left(bucket, token_id, entry, error):
                    raise self._expired(end - began) from error
                raise
            reset(token)
            if bucket.pop(token_id, None) is None:
                task.uncancel()
            return result

        return self._unlimited(call, timed)

    def _unlimited(self, call: AsyncCall, timed: AsyncCall) -> AsyncCall:
        """Without a limit of its own or an inherited one there is nothing to do."""
        if self._policy.limit_s < math.inf:
            return timed
        get = current.get

        def passed(args: Args, kwargs: Kwargs) -> Awaitable[Any]:
            return timed(args, kwargs) if get() < math.inf else call(args, kwargs)

        return passed

    def around_sync(self, call: Call, site: Site) -> Call:
        limit_s, now = self._policy.limit_s, self._binding.now
        get, set_, reset = current.get, current.set, current.reset

        def timed(args: Args, kwargs: Kwargs) -> Any:
            began = now()
            end = min(began + limit_s, get())
            if end <= began:
                raise self._refused()
            token = set_(end)
            try:
                result = call(args, kwargs)
            finally:
                reset(token)
            if now() > end:
                raise self._expired(end - began)
            return result

        return timed

    def gate(self, site: Site) -> Gate:
        return _DeadlineGate(self)

    def begin(self) -> tuple[float, bool]:
        """When a call that begins now must end, and whether that is the guard's own limit."""
        began = self._binding.now()
        own, inherited = began + self._policy.limit_s, current.get()
        if inherited <= began:
            raise self._refused()
        return (own, True) if own < inherited else (inherited, False)

    def enter(self, token: object, end: float, own: bool) -> tuple[Bucket, Entry]:
        wheel = self._here()
        bucket = wheel.queue if own else wheel.bucket(end)
        if own and end < wheel.armed_at:
            wheel.arm(end)
        task = wheel.task()
        entry = bucket[token] = (task, end, task.cancelling())
        return bucket, entry

    def expired(self) -> DeadlineExceeded:
        return self._expired(self._policy.limit_s)

    def _here(self) -> Wheel:
        """The wheel of the running loop."""
        loop = asyncio.get_running_loop()
        wheel = self._wheels.get(loop)
        if wheel is None:
            wheel = self._wheels[loop] = Wheel(self._binding.world, loop, get_ident())
        wheel.thread = get_ident()
        return wheel

    def _inherited(self, wheel: Wheel, began: float, end: float) -> Bucket:
        if end <= began:
            raise self._refused()
        return wheel.bucket(end)

    def _refused(self) -> DeadlineExceeded:
        return self._error("its deadline had passed before it began", 0.0, started=False)

    def _expired(self, limit_s: float) -> DeadlineExceeded:
        return self._error(f"no answer within {limit_s:.3g} s", limit_s, started=True)

    def _error(self, what: str, limit_s: float, *, started: bool) -> DeadlineExceeded:
        guard, counts = self._binding.guard, self._counts
        if started:
            counts.expired += 1
        else:
            counts.refused += 1
        if self._binding.hooks:
            event = DeadlineExpired(guard=guard, policy=self._speaker, limit_s=limit_s, started=started)
            self._binding.emit(event)
        return DeadlineExceeded(f"{guard}: {what}", policy=self._speaker, guard=guard, started=started)


class _DeadlineGate:
    """`enter`: the block ends with the deadline."""

    def __init__(self, layer: DeadlineLayer) -> None:
        self._layer = layer

    async def acquire(self, kwargs: Kwargs) -> tuple[Token[float], Bucket, Entry] | None:
        end, own = self._layer.begin()
        if end == math.inf:
            return None
        token = current.set(end)
        return token, *self._layer.enter(id(token), end, own)

    def acquire_sync(self, kwargs: Kwargs) -> Token[float]:
        return current.set(self._layer.begin()[0])

    def release(
        self, held: tuple[Token[float], Bucket, Entry] | Token[float] | None, error: BaseException | None
    ) -> BaseException | None:
        if isinstance(held, Token):
            current.reset(held)
        elif held is not None:
            token, bucket, entry = held
            current.reset(token)
            if left(bucket, id(token), entry, error):
                return self._layer.expired()
        return None
