"""breaker(…): stop asking a side that fails or hangs, and find out carefully when it is back.

    breaker(rate=0.5, window=last("10s"), minimum=20)          # the classic: 20 requests in 10 s, half of them failed
    breaker(rate=0.5, slow=1.0, slow_rate=0.8, window=last(100), probes=3)

What counts as failed: exceptions that `record` names, results that `result` says are bad, and calls that a deadline or
an outer timeout cut. What counts as slow: whatever took `slow` seconds or longer, however it ended. What does not
count: a client's cancellation before that, and refusals by the guard's own inner policies.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

from gapless.core.errors import ConfigError
from gapless.core.value import Value
from gapless.resilience import deadline
from gapless.resilience.breaker_state import BreakerState, Growing, Mode, Thresholds
from gapless.resilience.breaker_window import FAILED, SLOW, Last, last
from gapless.resilience.cuts import tell_later
from gapless.resilience.errors import BreakerOpen, DeadlineExceeded, Rejected
from gapless.resilience.events import BreakerChanged, CallRejected
from gapless.resilience.memory import Memory
from gapless.resilience.policy import Args, AsyncCall, Binding, Call, Gate, Kwargs, Layer, Site, Statistics

__all__ = ["Breaker", "BreakerLayer", "Growing", "Last", "breaker", "growing", "last"]

MINIMUM = 20
"""Calls below which a share says nothing: with 20, a side that fails in 10 % of calls opens a 50 % breaker by chance
once in 140,000 windows."""

Errors = type[BaseException] | tuple[type[BaseException], ...] | Callable[[BaseException], bool]
FORCED = {"open": Mode.FORCED_OPEN, "closed": Mode.FORCED_CLOSED, "disabled": Mode.DISABLED, "automatic": None}
"""What an operator may say. "closed" goes on counting, "disabled" does not even that."""


def growing(first_s: float = 1.0, most_s: float = 60.0, *, factor: float = 2.0, jitter: float = 0.2) -> Growing:
    """Open for `first_s`, `factor` times as long at each failed recovery, at most `most_s`; up to the share `jitter`
    shorter. `growing(5, 5)` is always five seconds."""
    if not 0 < first_s <= most_s or factor < 1 or not 0 <= jitter < 1:
        raise ConfigError(
            f"growing({first_s}, {most_s}, factor={factor}, jitter={jitter}) does not grow",
            "0 < first_s <= most_s, factor >= 1, 0 <= jitter < 1.",
        )
    return Growing(first_s, most_s, factor, jitter)


class Breaker(Value):
    """See `breaker`."""

    kind: ClassVar[str] = "breaker"
    rate: float
    slow_s: float
    slow_rate: float
    window: Last
    minimum: int
    probes: int
    open_for: Growing
    record: Errors = Exception
    result: Callable[[Any], bool] | None = None
    shadow: bool = False

    def bind(self, binding: Binding) -> BreakerLayer:
        return BreakerLayer(self, binding)

    @property
    def thresholds(self) -> Thresholds:
        return Thresholds(
            rate=self.rate,
            slow_rate=self.slow_rate,
            window=self.window,
            minimum=self.minimum,
            probes=self.probes,
            open_for=self.open_for,
        )


def breaker(
    rate: float = 0.5,
    slow: float | None = None,
    *,
    slow_rate: float = 0.5,
    window: Last | int | str = 100,
    minimum: int | None = None,
    probes: int = 3,
    open_for: Growing | float | None = None,
    record: Errors = Exception,
    result: Callable[[Any], bool] | None = None,
    shadow: bool = False,
) -> Breaker:
    """Open when, among at least `minimum` calls of the `window`, a share of `rate` failed or of `slow_rate` took `slow`
    seconds or longer. After `open_for` exactly `probes` calls are let through; by the same shares they decide.

    `record`: exceptions that are failures (types, or a function); `result`: True for an answer that is one.
    `shadow`: count and tell, but refuse nothing. Raises ConfigError for numbers that cannot be meant.
    """
    span = window if isinstance(window, Last) else last(window)
    least = minimum if minimum is not None else min(MINIMUM, span.calls or MINIMUM)
    opens = open_for if isinstance(open_for, Growing) else growing(*([open_for] * 2 if open_for else []))
    _check(rate, slow, slow_rate, span, least, probes)
    return Breaker(
        rate=rate,
        slow_s=math.inf if slow is None else slow,
        slow_rate=slow_rate,
        window=span,
        minimum=least,
        probes=probes,
        open_for=opens,
        record=record,
        result=result,
        shadow=shadow,
    )


def _check(rate: float, slow: float | None, slow_rate: float, span: Last, minimum: int, probes: int) -> None:
    wrong = [
        (not 0 < rate <= 1, f"rate={rate} is no share", "Give a share in (0, 1], for instance 0.5."),
        (not 0 < slow_rate <= 1, f"slow_rate={slow_rate} is no share", "Give a share in (0, 1], for instance 0.5."),
        (
            slow is not None and slow <= 0,
            f"slow={slow} makes every call slow",
            "Give seconds above 0, or leave it out.",
        ),
        (probes < 1, f"probes={probes} never closes again", "Give at least 1."),
        (minimum < 1, f"minimum={minimum} decides on nothing", "Give at least 1."),
        (
            0 < span.calls < minimum,
            f"minimum={minimum} is never reached in a window of {span.calls} calls",
            "Make the window longer or the minimum smaller.",
        ),
    ]
    for is_wrong, what, remedy in wrong:
        if is_wrong:
            raise ConfigError(f"breaker: {what}", remedy)


class BreakerLayer(Layer):
    kind = "breaker"

    def __init__(self, policy: Breaker, binding: Binding) -> None:
        self.policy = policy
        self.state = BreakerState(policy.thresholds, binding.world.random())
        self._binding = binding
        self._now = binding.now

    # The two closures below differ in `await`. A good call of a closed breaker ends without a lock: no call and no jump
    # backwards lies between the look at the window and the new total, so that no other thread runs in between.

    def around(self, call: AsyncCall, site: Site) -> AsyncCall:
        state, now, slow_s, bad = self.state, self._now, self.policy.slow_s, self.policy.result
        admit, answered, raised = self._admit, self._answered, self._raised

        async def broken(args: Args, kwargs: Kwargs) -> Any:
            ticket = state.ticket or admit()
            began = now()
            try:
                result = await call(args, kwargs)
                failed = bad is not None and bad(result)
            except BaseException as error:
                raised(ticket, began, error)
                raise
            ended = now()
            view = state.window
            total = view.total + 1
            if (
                failed
                or ended - began >= slow_s
                or ticket != state.number
                or total >= view.due
                or ended >= view.turn_at
            ):
                answered(ticket, failed, ended - began, ended)
            else:
                view.total = total
            return result

        return broken

    def around_sync(self, call: Call, site: Site) -> Call:
        state, now, slow_s, bad = self.state, self._now, self.policy.slow_s, self.policy.result
        admit, answered, raised = self._admit, self._answered, self._raised

        def broken(args: Args, kwargs: Kwargs) -> Any:
            ticket = state.ticket or admit()
            began = now()
            try:
                result = call(args, kwargs)
                failed = bad is not None and bad(result)
            except BaseException as error:
                raised(ticket, began, error)
                raise
            ended = now()
            view = state.window
            total = view.total + 1
            if (
                failed
                or ended - began >= slow_s
                or ticket != state.number
                or total >= view.due
                or ended >= view.turn_at
            ):
                answered(ticket, failed, ended - began, ended)
            else:
                view.total = total
            return result

        return broken

    def gate(self, site: Site) -> Gate:
        return self

    async def acquire(self, kwargs: Kwargs) -> tuple[int, float]:
        return self.acquire_sync(kwargs)

    def acquire_sync(self, kwargs: Kwargs) -> tuple[int, float]:
        return self.state.ticket or self._admit(), self._now()

    def release(self, held: tuple[int, float], error: BaseException | None) -> BaseException | None:
        ticket, began = held
        if error is None:
            self._settle(ticket, SLOW if self._now() - began >= self.policy.slow_s else 0)
        else:
            self._raised(ticket, began, error)
        return None

    def adopt(self, old: Layer) -> None:
        if isinstance(old, BreakerLayer):
            self.state = old.state
            self.state.adjust(self.policy.thresholds)

    def dump(self, now: float) -> Memory:
        return Memory(form="breaker", facts=self.state.dump(now))

    def load(self, memory: Memory, then: float) -> None:
        self.state.load(dict(memory.facts), then, self._now())
        self._tell()

    def force(self, mode: str) -> None:
        """ "open", "closed" or "disabled" until told otherwise; "automatic": it decides again. An order holds in shadow
        mode, too: nobody has to find numbers for it. Raises ConfigError."""
        if mode not in FORCED:
            raise ConfigError(f"a breaker cannot be forced {mode!r}", f"One of {', '.join(FORCED)}.")
        self.state.force(FORCED[mode], self._now())
        self._tell()

    def statistics(self) -> Statistics:
        return self.state.statistics()

    def _admit(self) -> int:
        """Ask the state, which is not simply closed. Raises BreakerOpen."""
        state, now = self.state, self._now()
        ticket = state.admit(now)
        if state.moves:
            self._tell()
        if not ticket:
            self._refuse(state.retry_after_s(now))
        return ticket

    def _refuse(self, retry_after_s: float | None) -> None:
        binding, mode = self._binding, self.state.mode
        shadow = self.policy.shadow and mode is not Mode.FORCED_OPEN
        if binding.hooks:
            binding.emit(
                CallRejected(
                    guard=binding.guard, policy="breaker", reason=mode, retry_after_s=retry_after_s, shadow=shadow
                )
            )
        if not shadow:
            raise BreakerOpen(
                f"{binding.guard}: the breaker is {mode}",
                "Answer without it (fallback), or ask again when `retry_after_s` has passed.",
                policy="breaker",
                guard=binding.guard,
                retry_after_s=retry_after_s,
            )

    def _answered(self, ticket: int, failed: bool, took_s: float, now: float) -> None:
        slow = SLOW if took_s >= self.policy.slow_s else 0
        if self.state.settle(ticket, slow | FAILED if failed else slow, now):
            self._tell()

    def _raised(self, ticket: int, began: float, error: BaseException) -> None:
        """The call ended with an exception: what does it say about the other side?"""
        now = self._now()
        slow = SLOW if now - began >= self.policy.slow_s else 0
        cancelled = isinstance(error, asyncio.CancelledError)
        if isinstance(error, DeadlineExceeded):
            self._settle(ticket, FAILED | SLOW) if error.started else self.state.give_back(ticket)
        elif isinstance(error, Rejected):
            self.state.give_back(ticket)
        elif isinstance(error, Exception):
            self._settle(ticket, slow | FAILED if self._is_failure(error) else slow)
        elif cancelled and deadline.cut(now):
            self._settle(ticket, FAILED | SLOW)
        elif slow:
            self._settle(ticket, slow)
        elif isinstance(error, asyncio.CancelledError):
            tell_later(error, self._binding.world, partial(self._cut, ticket))
        else:
            self.state.give_back(ticket)

    def _is_failure(self, error: Exception) -> bool:
        record = self.policy.record
        return isinstance(error, record) if isinstance(record, (type, tuple)) else record(error)

    def _cut(self, ticket: int, timed_out: bool) -> None:
        if timed_out:
            self._settle(ticket, FAILED | SLOW)
        else:
            self.state.give_back(ticket)

    def _settle(self, ticket: int, outcome: int) -> None:
        if self.state.settle(ticket, outcome, self._now()):
            self._tell()

    def _tell(self) -> None:
        """Pass the transitions on; the state is free meanwhile, so that a subscriber may ask it."""
        binding, moves = self._binding, self.state.moves
        while moves:
            try:
                before, after, reason = moves.popleft()
            except IndexError:
                return  # another thread was quicker
            if binding.hooks:
                binding.emit(
                    BreakerChanged(guard=binding.guard, policy="breaker", before=before, after=after, reason=reason)
                )
