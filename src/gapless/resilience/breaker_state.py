"""The breaker as a state machine: every moment is an argument, nothing here waits or looks at a clock.

    closed ──too many failed or slow──► open ──open time over──► half-open ──k good probes──► closed
                                          ▲                          │
                                          └────── longer now ◄───────┘ too many bad ones, or no answer

`ticket` is what makes it cheap and exact. Each stay in a state has a number of its own, which a call receives when it
is admitted and shows when it ends: a result that belongs to an earlier stay (a slow call from before the breaker
opened) changes nothing. While everybody is admitted it can be read without asking (`state.ticket or state.admit(now)`).
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from threading import Lock

from gapless.resilience.breaker_window import FAILED, Last, resized, window

GOLDEN = 0.6180339887498949
"""Steps of the golden ratio modulo 1 spread evenly (Weyl): jitter that differs each time without new dice."""


class Mode(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"
    FORCED_OPEN = "forced open"
    """Refuses everything until it is told otherwise."""
    FORCED_CLOSED = "forced closed"
    """Admits everything; goes on counting, so that the figures can be watched."""
    DISABLED = "disabled"
    """Admits everything and counts nothing."""


@dataclass(frozen=True, slots=True)
class Growing:
    """How long the breaker stays open: `first_s`, and `factor` times as long at each failed recovery, up to `most_s`.
    `jitter` takes away up to this share, so that the breakers of a fleet do not probe at the same moment."""

    first_s: float = 1.0
    most_s: float = 60.0
    factor: float = 2.0
    jitter: float = 0.2

    def open_s(self, relapses: int, dice: float) -> float:
        longest = min(self.most_s, self.first_s * self.factor ** min(relapses, 64))
        return longest * (1.0 - self.jitter * dice)


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """When to open, and how to come back."""

    rate: float
    slow_rate: float
    window: Last
    minimum: int
    probes: int
    open_for: Growing


class BreakerState:
    """Everything that a breaker knows. Calls are never made under its lock, held for some instructions."""

    __slots__ = (
        "_answered",
        "_bad",
        "_closed_at",
        "_dice",
        "_lock",
        "_number",
        "_relapses",
        "_slow",
        "_taken",
        "calls",
        "failed",
        "mode",
        "moves",
        "open_s",
        "opened",
        "rejected",
        "rules",
        "slow",
        "ticket",
        "until",
        "window",
    )

    def __init__(self, rules: Thresholds, dice: float = 0.0) -> None:
        """`dice` in [0, 1) sets where the jitter of the open times begins."""
        self.rules = rules
        self.mode = Mode.CLOSED
        self.ticket = 1
        """Above 0: every call is admitted, with this number."""
        self.until = 0.0
        """Open: when probes are admitted. Half-open: when a missing answer counts as a failed one."""
        self.open_s = 0.0
        self.window = window(rules.window)
        self.calls = self.failed = self.slow = self.rejected = self.opened = 0
        self.moves: deque[tuple[Mode, Mode, str]] = deque(maxlen=16)
        """Transitions that nobody has been told of yet: from, to, reason."""
        self._number = 1
        self._dice = dice
        self._relapses = self._taken = self._answered = self._bad = self._slow = 0
        self._closed_at = -math.inf
        self._lock = Lock()

    def admit(self, now: float) -> int:
        """The ticket of a call that may begin, 0 for one that may not. -1: admitted, and counts nothing."""
        with self._lock:
            mode = self.mode
            if mode is Mode.OPEN and now >= self.until:
                self._probe(now)
            if self.mode is Mode.HALF_OPEN and self._take(now):
                return self._number
            if self.ticket:
                return self.ticket
            self.rejected += 1
            return 0

    def settle(self, ticket: int, outcome: int, now: float) -> bool:
        """A call ended: `outcome` is made of FAILED and SLOW. True when the state changed (see `moves`)."""
        with self._lock:
            if ticket != self._number:
                return False
            self.calls += 1
            if outcome:
                self.failed += outcome & FAILED
                self.slow += outcome >> 1
            if self.mode is Mode.HALF_OPEN:
                return self._answer(outcome, now)
            view = self.window
            view.add(outcome, now)
            return bool(view.failed or view.slow) and self._judge(now)

    def give_back(self, ticket: int) -> None:
        """A call ended without telling anything (the client went away, our own limit refused it): as if never made."""
        with self._lock:
            if ticket == self._number and self.mode is Mode.HALF_OPEN:
                self._taken -= 1

    def force(self, mode: Mode | None, now: float) -> bool:
        """Keep it in a forced mode; None lets it decide again, from closed with an empty window."""
        with self._lock:
            self._relapses = 0
            self.until = math.inf
            return self._enter(mode or Mode.CLOSED, "forced" if mode else "no longer forced", now)

    def retry_after_s(self, now: float) -> float | None:
        """When asking again may help; None when nobody knows."""
        return max(self.until - now, 0.0) if self.until < math.inf else None

    def adjust(self, rules: Thresholds) -> None:
        """New rules for the same state (after a reload)."""
        with self._lock:
            if rules.window != self.rules.window:
                self.window = resized(self.window, rules.window)
            self.rules = rules

    def _judge(self, now: float) -> bool:
        view, rules = self.window, self.rules
        if view.count < rules.minimum or self.mode is not Mode.CLOSED:
            return False
        # A quotient of ints is rounded once, as the literal of the rate was: 3/30 reaches 0.1 exactly.
        if view.failed / view.count >= rules.rate:
            return self._open(now, f"{view.failed} of {view.count} calls failed")
        if view.slow / view.count >= rules.slow_rate:
            return self._open(now, f"{view.slow} of {view.count} calls were slow")
        return False

    def _answer(self, outcome: int, now: float) -> bool:
        self._answered += 1
        self._bad += outcome & FAILED
        self._slow += outcome >> 1
        rules = self.rules
        if self._bad / rules.probes >= rules.rate:
            return self._open(now, f"{self._bad} of {rules.probes} probes failed")
        if self._slow / rules.probes >= rules.slow_rate:
            return self._open(now, f"{self._slow} of {rules.probes} probes were slow")
        if self._answered >= rules.probes:
            self._closed_at = now
            return self._enter(Mode.CLOSED, f"{self._answered} probes answered", now)
        return False

    def _probe(self, now: float) -> None:
        self._taken = self._answered = self._bad = self._slow = 0
        self._enter(Mode.HALF_OPEN, f"open for {self.open_s:.3g} s", now)

    def _take(self, now: float) -> bool:
        """A place among the probes, if there is one. Probes that never answer must not keep it half-open for ever."""
        if self._taken < self.rules.probes:
            self._taken += 1
            self.until = now + self.open_s
            return True
        if now >= self.until:
            self._open(now, f"{self._taken - self._answered} probes did not answer within {self.open_s:.3g} s")
        return False

    def _open(self, now: float, reason: str) -> bool:
        # Closing for less than the last open time was no recovery: the next open time goes on growing.
        relapse = self.mode is Mode.HALF_OPEN or now - self._closed_at < self.open_s
        self._relapses = self._relapses + 1 if relapse else 0
        self._dice = (self._dice + GOLDEN) % 1.0
        self.open_s = self.rules.open_for.open_s(self._relapses, self._dice)
        self.until = now + self.open_s
        self.opened += 1
        return self._enter(Mode.OPEN, reason, now)

    def _enter(self, mode: Mode, reason: str, now: float) -> bool:
        self.moves.append((self.mode, mode, reason))
        self.mode = mode
        self._number += 1
        if mode is Mode.CLOSED or mode is Mode.FORCED_CLOSED:
            self.window = window(self.rules.window)
        admits = {Mode.CLOSED: self._number, Mode.FORCED_CLOSED: self._number, Mode.DISABLED: -1}
        self.ticket = admits.get(mode, 0)
        return True
