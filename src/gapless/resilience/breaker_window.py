"""What a breaker remembers of the calls before: the last n of them, or those of the last seconds.

Both are rings of small integers with running sums, so that a call costs the same whatever the window holds.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Protocol

from gapless.core.errors import ConfigError

OK, FAILED, SLOW = 0, 1, 2
"""Bits of an outcome: a call that took too long and then failed is both."""

SLICES = 10
"""Slices of a window in seconds: what is forgotten at once is never more than a tenth."""

_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)")
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True)
class Last:
    """How far back a breaker looks: a number of calls, or (`calls` = 0) of seconds."""

    calls: int = 0
    seconds: float = 0.0


def last(span: int | str) -> Last:
    """`last(100)`: the last hundred calls. `last("10s")`: those of the last ten seconds."""
    text = _SPAN.fullmatch(span.strip()) if isinstance(span, str) else None
    found = (
        Last(seconds=float(text[1]) * _UNITS_S[text[2]]) if text else Last(calls=span if isinstance(span, int) else 0)
    )
    if found.calls <= 0 and found.seconds <= 0:
        raise ConfigError(f"last({span!r}) is no window", 'Give a number of calls, or a span such as "10s" or "500ms".')
    return found


class Window(Protocol):
    """Counts of what is remembered; `add` forgets what has become too old."""

    count: int
    failed: int
    slow: int

    def add(self, outcome: int, now: float) -> None: ...


class CallWindow:
    """The last `size` calls."""

    __slots__ = ("_at", "_ring", "count", "failed", "size", "slow")

    def __init__(self, size: int) -> None:
        self.size = size
        self._ring = bytearray(size)
        self._at = self.count = self.failed = self.slow = 0

    def add(self, outcome: int, now: float) -> None:
        at = self._at
        if self.count < self.size:
            self.count += 1
        gone = self._ring[at]
        if gone != outcome:
            self._ring[at] = outcome
            self.failed += (outcome & FAILED) - (gone & FAILED)
            self.slow += (outcome >> 1) - (gone >> 1)
        self._at = at + 1 if at + 1 < self.size else 0

    def remembered(self) -> list[int]:
        """The outcomes, oldest first."""
        ring = list(self._ring)
        return ring[self._at :] + ring[: self._at] if self.count == self.size else ring[: self.count]


class TimeWindow:
    """The calls of the last `span_s` seconds, in slices of a tenth of it."""

    __slots__ = ("_at", "_failed", "_slow", "_total", "_until", "count", "failed", "slow", "width_s")

    def __init__(self, span_s: float) -> None:
        self.width_s = span_s / SLICES
        self._total, self._failed, self._slow = [0] * SLICES, [0] * SLICES, [0] * SLICES
        self._at = 0
        """The slice that is being written, and in `_until` the moment at which the next one begins."""
        self._until = -math.inf
        self.count = self.failed = self.slow = 0

    def add(self, outcome: int, now: float) -> None:
        if now >= self._until:
            self._turn(now)
        at = self._at
        self._total[at] += 1
        self.count += 1
        if outcome:
            self._failed[at] += outcome & FAILED
            self.failed += outcome & FAILED
            self._slow[at] += outcome >> 1
            self.slow += outcome >> 1

    def _turn(self, now: float) -> None:
        """Forget the slices that have become too old; their places are written next."""
        if now - self._until >= (SLICES - 1) * self.width_s:
            self._until = now
            for _ in range(SLICES - 1):
                self._forget()
        while now >= self._until:
            self._forget()
            self._until += self.width_s

    def _forget(self) -> None:
        at = self._at = (self._at + 1) % SLICES
        self.count -= self._total[at]
        self.failed -= self._failed[at]
        self.slow -= self._slow[at]
        self._total[at] = self._failed[at] = self._slow[at] = 0


def window(span: Last) -> Window:
    return CallWindow(span.calls) if span.calls else TimeWindow(span.seconds)


def resized(old: Window, span: Last) -> Window:
    """A window of another length that still knows what fits of the old one; one of another kind begins anew."""
    new = window(span)
    if isinstance(old, CallWindow) and isinstance(new, CallWindow):
        for outcome in old.remembered()[-new.size :]:
            new.add(outcome, 0.0)
    return new
