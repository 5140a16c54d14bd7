"""Who waits, who is served next, and who is told at once that it will not be: the queue before a limit.

**CoDel** (Nichols and Jacobson, RFC 8289) tells a good queue, which absorbs a burst and drains, from a bad one, which
stands: the shortest wait within an `interval` says which it is. The RFC's own law for dropping (intervals that shrink
with the square root) makes senders slow down that listen; requests do not, so that in a standing queue all that have
waited for more than twice the `target` are shed at once (Maurer, "Fail at Scale", ACM Queue 13/8, 2015). The last one
in the queue is never shed: a free place always finds somebody.

**Priority**: the most important class is served first; a full queue makes room by sending away the newest of the least
important class; in a standing queue `SHEDDABLE` calls do not begin to wait.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from contextvars import ContextVar
from enum import IntEnum, StrEnum

from gapless.core.value import Value


class Priority(IntEnum):
    CRITICAL = 0
    NORMAL = 1
    SHEDDABLE = 2
    """May be lost without anybody being hurt: prefetches, batch work, retries of retries."""


priority: ContextVar[int] = ContextVar("gapless_priority", default=Priority.NORMAL)
"""The present request's; whatever is called on its behalf inherits it."""


class Codel(Value, kw_only=False):
    """`target_s`: a wait that does not matter; a few percent of what a call takes. `interval_s`: how long a burst may
    take to drain; the RFC's default suits what is answered within some 100 ms."""

    target_s: float = 0.005
    interval_s: float = 0.1


def codel(target_s: float = 0.005, interval_s: float = 0.1) -> Codel:
    return Codel(target_s, interval_s)


class Fate(StrEnum):
    """What becomes of a call that waits."""

    WAITING = "waiting"
    GRANTED = "granted"
    FULL = "the queue is full"
    SHED = "the queue stands, and it is shed"
    EVICTED = "a more important call took its place in the queue"
    LATE = "its time in the queue is over"
    GONE = "cancelled"


class Waiter:
    """A call in the queue. `wake` is called once, without any lock held, when its fate is sealed by somebody else."""

    __slots__ = ("fate", "rank", "since", "wake")

    def __init__(self, rank: int, since: float, wake: Callable[[], None]) -> None:
        self.rank = min(max(rank, 0), len(Priority) - 1)
        self.since = since
        self.wake = wake
        self.fate = Fate.WAITING


class Standing:
    """Does the queue stand? Fed with the wait of its oldest at each change of places."""

    __slots__ = ("_least_s", "_look_at", "rules", "standing")

    def __init__(self, rules: Codel) -> None:
        self.rules = rules
        self.standing = False
        self._least_s = 0.0
        self._look_at = -math.inf

    def see(self, wait_s: float, now: float) -> None:
        if now >= self._look_at:
            # Without a look for a whole interval more there was no queue.
            fresh = now < self._look_at + self.rules.interval_s
            self.standing = fresh and self._least_s > self.rules.target_s
            self._look_at, self._least_s = now + self.rules.interval_s, wait_s
        elif wait_s < self._least_s:
            self._least_s = wait_s

    def empty(self) -> None:
        """Somebody did not have to wait at all."""
        self._least_s = 0.0


class Queue:
    """Bounded, by class. Not thread-safe: whoever has it has a lock."""

    __slots__ = ("_classes", "_lifo", "codel", "size", "waiting")

    def __init__(self, size: int, rules: Codel | None, lifo: bool) -> None:
        self.size = size
        self.codel = Standing(rules) if rules else None
        self.waiting = 0
        self._lifo = lifo
        self._classes: tuple[OrderedDict[Waiter, None], ...] = tuple(OrderedDict() for _ in Priority)

    def adjust(self, new: Queue) -> None:
        """New numbers for the same queue (after a reload); nobody loses his place."""
        self.size, self._lifo = new.size, new._lifo
        if new.codel is None or self.codel is None:
            self.codel = new.codel
        else:
            self.codel.rules = new.codel.rules

    @property
    def stands(self) -> bool:
        return self.codel is not None and self.codel.standing

    def push(self, waiter: Waiter) -> Waiter | None:
        """Let it wait, or seal its fate. Returns whoever had to make room for it."""
        evicted = None
        if waiter.rank == Priority.SHEDDABLE and self.stands:
            waiter.fate = Fate.SHED
            return None
        if self.waiting >= self.size:
            evicted = self._newest_below(waiter.rank)
            if evicted is None:
                waiter.fate = Fate.FULL
                return None
            self.remove(evicted, Fate.EVICTED)
        self._classes[waiter.rank][waiter] = None
        self.waiting += 1
        return evicted

    def pop(self, now: float, shed: list[Waiter]) -> Waiter:
        """Whose turn it is; whoever has waited too long is put into `shed`. There must be somebody."""
        if self.codel is not None:
            self.codel.see(now - self._oldest_since(), now)
            if self.codel.standing:
                self._shed_until(now - 2 * self.codel.rules.target_s, shed)
        for line in self._classes:
            if line:
                waiter = next(reversed(line) if self._lifo and self.stands else iter(line))
                self.remove(waiter, Fate.GRANTED)
                return waiter
        raise LookupError("nobody waits")

    def remove(self, waiter: Waiter, fate: Fate) -> None:
        del self._classes[waiter.rank][waiter]
        self.waiting -= 1
        waiter.fate = fate

    def _oldest_since(self) -> float:
        return min(next(iter(line)).since for line in self._classes if line)

    def _shed_until(self, since: float, shed: list[Waiter]) -> None:
        """The least important first, so that the one who stays is of the most important class."""
        for line in reversed(self._classes):
            while line and self.waiting > 1 and (oldest := next(iter(line))).since < since:
                self.remove(oldest, Fate.SHED)
                shed.append(oldest)

    def _newest_below(self, rank: int) -> Waiter | None:
        for line in reversed(self._classes[rank + 1 :]):
            if line:
                return next(reversed(line))
        return None
