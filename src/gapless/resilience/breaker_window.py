"""What a breaker remembers of the calls before: the last n of them, or those of the last seconds.

A call that went well only raises `total`, which whoever makes it may do by itself (`breaker.BreakerLayer`), unless
the window must be looked at: from `due` calls on, and from the moment `turn_at` on. All else goes through `add`.
"""

from __future__ import annotations

import math
import re
from collections import deque
from typing import Any, Protocol

from gapless.core.errors import ConfigError
from gapless.core.value import Value
from gapless.resilience.memory import number, whole

OK, FAILED, SLOW = 0, 1, 2
"""Bits of an outcome: a call that took too long and then failed is both."""

SLICES = 10
"""Slices of a window in seconds: what is forgotten at once is never more than a tenth."""

MOST_DUMPED = 10_000
"""Calls of a window that another process is told of: shares hardly differ by more."""
WITHIN = 1e-3
"""Of a slice: a moment that is surely in it, whatever has been rounded."""

_SPAN = r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)"
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class Last(Value, kw_only=False):
    """How far back a breaker looks: a number of calls, or (`calls` = 0) of seconds."""

    calls: int = 0
    seconds: float = 0.0


def last(span: int | str) -> Last:
    """`last(100)`: the last hundred calls. `last("10s")`: those of the last ten seconds."""
    text = re.fullmatch(_SPAN, span.strip()) if isinstance(span, str) else None
    found = (
        Last(seconds=float(text[1]) * _UNITS_S[text[2]]) if text else Last(calls=span if isinstance(span, int) else 0)
    )
    if found.calls <= 0 and found.seconds <= 0:
        raise ConfigError(f"last({span!r}) is no window", 'Give a number of calls, or a span such as "10s" or "500ms".')
    return found


NEVER = 1 << 62
"""No number of calls gets there."""


class Window(Protocol):
    """Counts of what is remembered; `add` forgets what has become too old, and so does `forget`."""

    total: int
    """Calls since it began."""
    due: int
    """The `total` from which on a call must go through `add`, however it ended. 0: the next one."""
    turn_at: float
    """The same in time."""
    failed: int
    slow: int

    @property
    def count(self) -> int: ...

    def add(self, outcome: int, now: float) -> None: ...

    def forget(self) -> None:
        """Bring the counts up to date with the calls that only raised `total`."""

    def dump(self, now: float) -> Any:
        """For another process; `after` makes a window of it."""
        ...


class CallWindow:
    """The last `size` calls: what matters are the bad ones among them, and how long ago they were."""

    __slots__ = ("_bad", "due", "failed", "size", "slow", "total", "turn_at")

    def __init__(self, size: int) -> None:
        self.size = size
        self.total = self.due = self.failed = self.slow = 0
        self.turn_at = math.inf
        self._bad: deque[tuple[int, int]] = deque()
        """Which call (by `total`) ended how."""

    @property
    def count(self) -> int:
        return min(self.total, self.size)

    def add(self, outcome: int, now: float) -> None:
        self.total = total = self.total + 1
        if outcome:
            self._bad.append((total, outcome))
            self.failed += outcome & FAILED
            self.slow += outcome >> 1
        self.forget()

    def forget(self) -> None:
        bad, oldest = self._bad, self.total - self.size
        while bad and bad[0][0] <= oldest:
            _, gone = bad.popleft()
            self.failed -= gone & FAILED
            self.slow -= gone >> 1

    def remembered(self) -> list[int]:
        """The outcomes, oldest first."""
        outcomes = [OK] * self.count
        for place, outcome in self._bad:
            if place > self.total - len(outcomes):
                outcomes[place - self.total - 1] = outcome
        return outcomes

    def dump(self, now: float) -> bytes:
        return bytes(self.remembered()[-MOST_DUMPED:])


class TimeWindow:
    """The calls of the last `span_s` seconds, in slices of a tenth of it."""

    __slots__ = ("_at", "_began", "_failed", "_slow", "due", "failed", "slow", "total", "turn_at", "width_s")

    def __init__(self, span_s: float) -> None:
        self.width_s = span_s / SLICES
        self._began, self._failed, self._slow = [0] * SLICES, [0] * SLICES, [0] * SLICES
        """Of each slice: `total` when it began, and what has been bad since."""
        self._at = 0
        """The slice that is being written, and in `turn_at` the moment at which the next one begins."""
        self.turn_at = -math.inf
        self.total = self.due = self.failed = self.slow = 0

    @property
    def count(self) -> int:
        return self.total - self._began[(self._at + 1) % SLICES]

    def add(self, outcome: int, now: float) -> None:
        if now >= self.turn_at:
            self._turn(now)
        self.total += 1
        if outcome:
            at = self._at
            self._failed[at] += outcome & FAILED
            self.failed += outcome & FAILED
            self._slow[at] += outcome >> 1
            self.slow += outcome >> 1

    def forget(self) -> None:
        """There is nothing to do: what is bad is forgotten with its slice."""

    def put(self, at: float, total: int, failed: int, slow: int) -> None:
        """Calls of a moment that is not before the last one."""
        self.add(OK, at)
        here = self._at
        self.total += total - 1
        self._failed[here] += failed
        self.failed += failed
        self._slow[here] += slow
        self.slow += slow

    def dump(self, now: float) -> list[tuple[float, int, int, int]]:
        """Of each slice, oldest first: when it began (seconds from now), calls, failed, slow."""
        found, ends = [], self.total
        for back in range(1, SLICES + 1):
            at = (self._at - back + 1) % SLICES
            if total := ends - self._began[at]:
                found.append((self.turn_at - back * self.width_s - now, total, self._failed[at], self._slow[at]))
            ends = self._began[at]
        return found[::-1]

    def _turn(self, now: float) -> None:
        """Forget the slices that have become too old; their places are written next."""
        if now - self.turn_at >= (SLICES - 1) * self.width_s:
            self.turn_at = now
            for _ in range(SLICES - 1):
                self._forget()
        while now >= self.turn_at:
            self._forget()
            self.turn_at += self.width_s

    def _forget(self) -> None:
        at = self._at = (self._at + 1) % SLICES
        self._began[at] = self.total
        self.failed -= self._failed[at]
        self.slow -= self._slow[at]
        self._failed[at] = self._slow[at] = 0


def window(span: Last) -> Window:
    return CallWindow(span.calls) if span.calls else TimeWindow(span.seconds)


def after(past: Any, present: Window, span: Last, then: float, now: float) -> Window:
    """A window that knows what another process has dumped at the moment `then`, and afterwards what is known here.
    Raises ValueError for a dump that it does not understand."""
    new = window(span)
    if isinstance(new, CallWindow) and isinstance(present, CallWindow):
        if not isinstance(past, bytes) or not set(past) <= {OK, FAILED, SLOW, FAILED | SLOW}:
            raise ValueError("these are no outcomes of calls")
        for outcome in [*past, *present.remembered()]:
            new.add(outcome, 0.0)
    elif isinstance(new, TimeWindow) and isinstance(present, TimeWindow):
        slices = [_slice(each, then) for each in past]
        slices += [(now + began, total, failed, slow) for began, total, failed, slow in present.dump(now)]
        for began, total, failed, slow in sorted(slices):
            new.put(began + new.width_s * WITHIN, total, failed, slow)
    return new


def _slice(dumped: Any, then: float) -> tuple[float, int, int, int]:
    began, total, failed, slow = dumped
    if not 1 <= whole(total) >= max(whole(failed), whole(slow)):
        raise ValueError(f"{failed} failed and {slow} slow of {total} calls")
    return then + number(began, most=0.0), total, failed, slow


def resized(old: Window, span: Last) -> Window:
    """A window of another length that still knows what fits of the old one; one of another kind begins anew."""
    new = window(span)
    if isinstance(old, CallWindow) and isinstance(new, CallWindow):
        for outcome in old.remembered()[-new.size :]:
            new.add(outcome, 0.0)
    return new
