"""Places and who has them: the state of a limit. Every moment is an argument; nothing here waits or wakes.

Free places lie in a deque, whose `pop` and `append` are atomic: the hot path takes and gives back a place without a
lock. Whoever finds none joins the queue, and `attention` tells those who give one back to look there. A place that is
*granted* to a waiter is his from that moment, so that a waiter who is cancelled in the same moment passes it on.

Methods return the waiters whose fate is now sealed; the caller wakes them without holding the lock.
"""

from __future__ import annotations

from collections import deque
from threading import Lock

from gapless.resilience.limit_adaptive import Gradient
from gapless.resilience.limit_shed import Fate, Queue, Waiter

UNKNOWN_PACE_S = 1.0
"""What the refused are told while nobody has waited: the least that a Retry-After header can say."""


class LimitState:
    """Hot path: `places.pop()` (IndexError: join the queue) … `places.append(None)`, and `hand_on` if `attention`."""

    __slots__ = (
        "_debt",
        "_granted_at",
        "_lock",
        "_pace_s",
        "_seen",
        "admitted",
        "attention",
        "fates",
        "gradient",
        "limit",
        "places",
        "queue",
        "queued",
    )

    def __init__(self, limit: int, queue: Queue, gradient: Gradient | None = None) -> None:
        self.limit = limit
        self.places: deque[None] = deque([None] * limit)
        self.queue = queue
        self.gradient = gradient
        self.attention = False
        """Somebody waits, or places have to vanish because the limit is smaller now."""
        self.admitted = 0
        """Calls that found a place at once."""
        self.queued = 0
        self.fates = dict.fromkeys(Fate, 0)
        self._debt = 0
        self._seen = 0
        self._granted_at = self._pace_s = 0.0
        self._lock = Lock()

    @property
    def busy(self) -> int:
        return self.limit + self._debt - len(self.places)

    def join(self, waiter: Waiter, now: float) -> list[Waiter]:
        """No place was free a moment ago. Afterwards it waits, has been granted one, or knows why not."""
        with self._lock:
            if self.queue.codel is not None and self.admitted != self._seen:
                self._seen = self.admitted
                self.queue.codel.empty()
            evicted = self.queue.push(waiter)
            if waiter.fate is not Fate.WAITING:
                self.fates[waiter.fate] += 1
                return []
            self.queued += 1
            # First the sign, then the look: a place that is given back in between is seen by one or the other.
            self.attention = True
            sealed = self._grant(now)
            if evicted is not None:
                self.fates[Fate.EVICTED] += 1
                sealed.append(evicted)
            return [each for each in sealed if each is not waiter]

    def hand_on(self, now: float) -> list[Waiter]:
        """Give free places to those who wait."""
        with self._lock:
            return self._grant(now)

    def abandon(self, waiter: Waiter, fate: Fate, now: float) -> list[Waiter]:
        """It waits no longer (GONE or LATE). A place that it was granted meanwhile is passed on when it is gone; when
        it is only late, it has it."""
        with self._lock:
            if waiter.fate is Fate.WAITING:
                self.queue.remove(waiter, fate)
                self.fates[fate] += 1
            elif waiter.fate is Fate.GRANTED and fate is Fate.GONE:
                waiter.fate = fate
                self.fates[fate] += 1
                self.places.append(None)
            return self._grant(now)

    def look(self, now: float) -> list[Waiter]:
        """Let the gradient learn; a higher limit lets more in."""
        with self._lock:
            gradient = self.gradient
            if gradient is None or now < gradient.look_at:
                return []
            return self._resize(int(gradient.look(now)), now)

    def resize(self, limit: int, now: float) -> list[Waiter]:
        """A smaller limit is reached when enough calls have left."""
        with self._lock:
            return self._resize(limit, now)

    def retry_after_s(self) -> float:
        """When the queue that there is now will have been served, by its present pace."""
        return self._pace_s * (self.queue.waiting + 1) or UNKNOWN_PACE_S

    def _resize(self, limit: int, now: float) -> list[Waiter]:
        more, self.limit = limit - self.limit, limit
        self._debt -= more
        if self._debt < 0:
            self.places.extend([None] * -self._debt)
            self._debt = 0
        self.attention = True
        return self._grant(now)

    def _grant(self, now: float) -> list[Waiter]:
        sealed: list[Waiter] = []
        while (self._debt or self.queue.waiting) and self._place():
            if self._debt:
                self._debt -= 1
                continue
            sealed.append(self.queue.pop(now, sealed))
            gap_s = min(max(now - self._granted_at, 0.0), UNKNOWN_PACE_S)
            self._pace_s += (gap_s - self._pace_s) / 8
            self._granted_at = now
        self.attention = bool(self._debt or self.queue.waiting)
        for waiter in sealed:
            self.fates[waiter.fate] += 1
        return sealed

    def _place(self) -> bool:
        try:
            self.places.pop()
        except IndexError:
            return False
        return True
