"""Who has which connection: the pool's decisions, without a task, a socket or a clock.

A *slot* is the right to one connection. Slots are idle, out (lent to somebody) or with the pool itself (being opened,
checked or closed); their sum is the size and never above `max_size`, so that the server never sees more connections
than were asked for, not even while one replaces another. Waiters are served strictly in their order: a slot that comes
back goes to the first of them and is never put down in between, where a newcomer could snatch it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from types import CodeType
from typing import Generic, TypeVar

C = TypeVar("C")
W = TypeVar("W", bound=Hashable)

Place = tuple[CodeType, int]
"""Where somebody asked: a code object and an offset into it. The line is looked up only when it is told."""


class Slot(Generic[C]):
    """One connection and what is known of it. Moments are on `World.now()`'s clock."""

    __slots__ = ("checked_at", "connection", "idle_at", "leaked", "lent_at", "place")

    def __init__(self, connection: C, now: float) -> None:
        self.connection = connection
        self.idle_at = self.lent_at = self.checked_at = now
        self.place: Place | None = None
        self.leaked = False


@dataclass(slots=True)
class PoolState(Generic[C, W]):
    """The slots and the queue. Every method changes the state at once and returns what is to be done."""

    max_size: int
    min_size: int = 0
    idle: deque[Slot[C]] = field(default_factory=deque)
    """By the moment of their return, the latest last: lending that one lets the others grow old and be closed."""
    out: dict[Slot[C], None] = field(default_factory=dict)
    """By the moment of lending: the first is out the longest."""
    waiters: dict[W, Place | None] = field(default_factory=dict)
    """In the order of their coming, with the places where they asked."""
    opening: int = 0
    held: int = 0
    """Slots that are being checked or closed."""
    closed: bool = False

    @property
    def size(self) -> int:
        return len(self.idle) + len(self.out) + self.opening + self.held

    def take(self, now: float, place: Place | None) -> Slot[C] | None:
        """Lend an idle connection; None when there is none and the caller must queue."""
        if not self.idle:
            return None
        slot = self.idle.pop()
        self._lend(slot, now, place)
        return slot

    def queue(self, waiter: W, place: Place | None) -> None:
        self.waiters[waiter] = place

    def leave(self, waiter: W) -> None:
        """It waits no longer; what is being opened for it will serve another."""
        self.waiters.pop(waiter, None)

    def wanted(self) -> int:
        """How many connections to begin to open: one for each waiter that none is being opened for, and what is missing
        to `min_size`, as far as there is room. They count as `opening` from now on."""
        if self.closed and not self.waiters:
            return 0
        minimum = 0 if self.closed else self.min_size - self.size
        missing = max(len(self.waiters) - self.opening, minimum, 0)
        number = min(missing, self.max_size - self.size)
        self.opening += number
        return number

    def opened(self, slot: Slot[C], now: float) -> W | None:
        """A connection has been opened; returns the waiter that it is lent to."""
        self.opening -= 1
        return self._pass_on(slot, now)

    def not_opened(self) -> W | None:
        """A connection could not be opened; returns the waiter that is to be told, who waits no longer."""
        self.opening -= 1
        waiter = next(iter(self.waiters), None)
        if waiter is not None:
            del self.waiters[waiter]
        return waiter

    def give_back(self, slot: Slot[C], now: float) -> W | None:
        """Its borrower is done and it is sound; returns the waiter that it is lent to now."""
        del self.out[slot]
        slot.idle_at = slot.checked_at = now
        return self._pass_on(slot, now)

    def drop(self, slot: Slot[C]) -> None:
        """A lent connection is broken: hold its slot until it is closed."""
        del self.out[slot]
        self.held += 1

    def hold(self, slot: Slot[C]) -> None:
        """Take an idle connection out for a check or for closing, so that nobody gets it meanwhile."""
        self.idle.remove(slot)
        self.held += 1

    def checked(self, slot: Slot[C], now: float) -> W | None:
        """A held connection is sound; returns the waiter that it is lent to. Being checked is not being used: its idle
        time goes on."""
        self.held -= 1
        slot.checked_at = now
        return self._pass_on(slot, now)

    def freed(self) -> None:
        """A held connection is closed."""
        self.held -= 1

    def expired(self, now: float, idle_timeout_s: float) -> list[Slot[C]]:
        """Idle connections to close, the oldest first, down to `min_size`."""
        spare = self.size - self.min_size
        old = [slot for slot in self.idle if now - slot.idle_at >= idle_timeout_s]
        return old[: max(spare, 0)]

    def unchecked(self, now: float, every_s: float) -> list[Slot[C]]:
        """Idle connections to check: never more than half of them at once (but at least one), so that a borrower finds
        one even when the checks are slow."""
        due = [slot for slot in self.idle if now - slot.checked_at >= every_s]
        return due[: max(len(self.idle) // 2, 1)]

    def leaks(self, now: float, after_s: float) -> list[Slot[C]]:
        """Connections that are out for too long and of which this has not been said yet."""
        found = []
        for slot in self.out:
            if now - slot.lent_at < after_s:
                break
            if not slot.leaked:
                slot.leaked = True
                found.append(slot)
        return found

    def oldest(self) -> Slot[C] | None:
        """The connection that is out the longest."""
        return next(iter(self.out), None)

    def oldest_age_s(self, now: float) -> float:
        slot = self.oldest()
        return max(now - slot.lent_at, 0.0) if slot else 0.0

    def _pass_on(self, slot: Slot[C], now: float) -> W | None:
        waiter = next(iter(self.waiters), None)
        if waiter is None:
            self._put_down(slot)
        else:
            self._lend(slot, now, self.waiters.pop(waiter))
        return waiter

    def _lend(self, slot: Slot[C], now: float, place: Place | None) -> None:
        slot.lent_at, slot.place, slot.leaked = now, place, False
        self.out[slot] = None

    def _put_down(self, slot: Slot[C]) -> None:
        newer = []
        while self.idle and self.idle[-1].idle_at > slot.idle_at:
            newer.append(self.idle.pop())
        self.idle.append(slot)
        self.idle.extend(reversed(newer))


def line_of(place: Place | None) -> str:
    """`file:line` of a place, for people."""
    if place is None:
        return "an unknown place"
    code, offset = place
    line = next((line for start, end, line in code.co_lines() if start <= offset < end), code.co_firstlineno)
    return f"{code.co_filename}:{line}"
