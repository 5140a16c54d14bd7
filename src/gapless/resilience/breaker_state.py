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
from enum import StrEnum
from threading import Lock
from typing import Any

from gapless.core.value import Value
from gapless.resilience.breaker_window import FAILED, NEVER, Last, Window, after, resized, window
from gapless.resilience.memory import number, whole

LONG_AGO_S = 1e9
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


OWN = (Mode.CLOSED, Mode.OPEN, Mode.HALF_OPEN)
"""Modes that a breaker chooses by itself."""


class Growing(Value, kw_only=False):
    """How long the breaker stays open: `first_s`, and `factor` times as long at each failed recovery, up to `most_s`.
    `jitter` takes away up to this share, so that the breakers of a fleet do not probe at the same moment."""

    first_s: float = 1.0
    most_s: float = 60.0
    factor: float = 2.0
    jitter: float = 0.2

    def open_s(self, relapses: int, dice: float) -> float:
        longest = min(self.most_s, self.first_s * self.factor ** min(relapses, 64))
        return longest * (1.0 - self.jitter * dice)


class Thresholds(Value):
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
        "_before",
        "_closed_at",
        "_dice",
        "_lock",
        "_relapses",
        "_slow",
        "_taken",
        "failed",
        "mode",
        "moves",
        "number",
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
        self.number = 1
        """Of the present stay: what a ticket must be to change anything."""
        self.until = 0.0
        """Open: when probes are admitted. Half-open: when a missing answer counts as a failed one."""
        self.open_s = 0.0
        self.window = window(rules.window)
        self.failed = self.slow = self.rejected = self.opened = 0
        self.moves: deque[tuple[Mode, Mode, str]] = deque(maxlen=16)
        """Transitions that nobody has been told of yet: from, to, reason."""
        self._before = 0
        """Calls that are not in the total of the window."""
        self._dice = dice
        self._relapses = self._taken = self._answered = self._bad = self._slow = 0
        self._closed_at = -math.inf
        self._lock = Lock()

    @property
    def calls(self) -> int:
        """All that have counted."""
        return self._before + self.window.total

    def admit(self, now: float) -> int:
        """The ticket of a call that may begin, 0 for one that may not. -1: admitted, and counts nothing."""
        with self._lock:
            mode = self.mode
            if mode is Mode.OPEN and now >= self.until:
                self._probe(now)
            if self.mode is Mode.HALF_OPEN and self._take(now):
                return self.number
            if self.ticket:
                return self.ticket
            self.rejected += 1
            return 0

    def settle(self, ticket: int, outcome: int, now: float) -> bool:
        """A call ended: `outcome` is made of FAILED and SLOW. True when the state changed (see `moves`).

        One that went well may instead raise `window.total` by itself, if its ticket is `number` and the window is
        neither `due` nor to be turned: such a call makes no share larger, so that there would be nothing to judge.
        """
        with self._lock:
            if ticket != self.number:
                return False
            self.failed += outcome & FAILED
            self.slow += outcome >> 1
            if self.mode is Mode.HALF_OPEN:
                self._before += 1
                return self._answer(outcome, now)
            self.window.add(outcome, now)
            return self._judge(now)

    def give_back(self, ticket: int) -> None:
        """A call ended without telling anything (the client went away, our own limit refused it): as if never made."""
        with self._lock:
            if ticket == self.number and self.mode is Mode.HALF_OPEN:
                self._taken -= 1

    def force(self, mode: Mode | None, now: float) -> bool:
        """Keep it in a forced mode; None lets it decide again, from closed with an empty window (one that decides by
        itself goes on doing so)."""
        with self._lock:
            if mode is None and self.mode in OWN:
                return False
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
                self._replace(resized(self.window, rules.window))
            self.rules = rules
            self.window.due = 0

    def statistics(self) -> dict[str, Any]:
        with self._lock:
            self.window.forget()
            return {
                "state": str(self.mode),
                "calls": self.calls,
                "failed": self.failed,
                "slow": self.slow,
                "rejected": self.rejected,
                "opened": self.opened,
                "window_calls": self.window.count,
                "window_failed": self.window.failed,
                "window_slow": self.window.slow,
            }

    def dump(self, now: float) -> dict[str, Any]:
        """For another process. Probes under way are of no use there: it begins with its own."""
        with self._lock:
            opened = self.mode is Mode.OPEN
            return {
                "mode": str(Mode.OPEN if self.mode is Mode.HALF_OPEN else self.mode),
                "left_s": self.until - now if opened else 0.0,
                "open_s": self.open_s,
                "relapses": self._relapses,
                "closed_s": max(self._closed_at - now, -LONG_AGO_S),
                "window": self.window.dump(now),
            }

    def load(self, facts: dict[str, Any], then: float, now: float) -> None:
        """What another process has dumped at the moment `then`. A breaker that has opened here, or is forced, stays so.
        Raises ValueError, TypeError or KeyError."""
        mode, open_s, relapses = Mode(facts["mode"]), number(facts["open_s"], 0.0), whole(facts["relapses"])
        until = then + min(number(facts["left_s"]), open_s)
        closed_at = then + number(facts["closed_s"], most=0.0)
        with self._lock:
            if self.mode is not Mode.CLOSED:
                return
            self._replace(after(facts["window"], self.window, self.rules.window, then, now))
            self.open_s, self._relapses = max(open_s, self.open_s), max(relapses, self._relapses)
            self._closed_at = max(closed_at, self._closed_at)
            if mode is not Mode.CLOSED:
                self.until = until if mode is Mode.OPEN else math.inf
                self._enter(mode, "as in the process before", now)

    def _judge(self, now: float) -> bool:
        view, rules = self.window, self.rules
        if not view.failed and not view.slow:
            view.due = NEVER
            return False
        missing = rules.minimum - view.count
        view.due = view.total + missing if missing > 0 else NEVER
        if missing > 0 or self.mode is not Mode.CLOSED:
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
        self.number += 1
        self.window.due = 0
        if mode is Mode.CLOSED or mode is Mode.FORCED_CLOSED:
            self._replace(window(self.rules.window))
        admits = {Mode.CLOSED: self.number, Mode.FORCED_CLOSED: self.number, Mode.DISABLED: -1}
        self.ticket = admits.get(mode, 0)
        return True

    def _replace(self, new: Window) -> None:
        """The calls that it knows of already are none of ours, or counted."""
        self._before += self.window.total - new.total
        self.window = new
