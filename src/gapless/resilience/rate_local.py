"""Token bucket, leaky bucket and sliding window of one process, for any number of keys.

`acquire(key, now)` gives 0.0 when the call is admitted, otherwise the seconds after which one will be.

Token and leaky bucket are the generic cell rate algorithm (ITU-T I.371): a bucket is the one moment at which it will
be full again, so that a key needs one float, and a bucket that is full is the same as none. Each call moves the moment
on by an interval; it is admitted while the moment is at most `burst` intervals ahead of the clock.
"""

from __future__ import annotations

import math
import threading
from array import array
from collections.abc import Hashable, Iterable, Sequence
from heapq import heappop, heappush
from typing import Any

from gapless.resilience.memory import Names, number, portable, seconds_ahead
from gapless.resilience.rate_quota import Quota
from gapless.resilience.rate_table import SLOT_MASK, SLOT_SHIFT, Generations

ROUNDING_S = 1e-7
"""Sums of intervals are off by some units in the last place of the clock, which are 15 ns after three years. Whoever
waits for as long as it was told is admitted."""
SHORTEST_WAIT_S = 0.001
"""For those who must ask again: clocks and sleeps are no finer."""
SHORTEST_GENERATION_S = 5.0
"""Rotating costs each living key one move."""


NEAR = 4096
"""Keys in a dict, at some 150 bytes each: few beside a million, and more than most services have at a time."""
PLAIN = (str, int, bytes)
"""Keys that a dict compares without running anybody's code, during which another thread might run, too."""


class TokenBuckets:
    """`floor`: buckets not seen before are as if full again at this moment, not before (see `rate_leased`).

    The first `NEAR` keys of a generation, nearly always its busiest, lie in a dict, which is quick; those that come
    later lie in pages, which are small.
    """

    __slots__ = (
        "_before",
        "_directory",
        "_generation_s",
        "_keys",
        "_lock",
        "_mask",
        "_names",
        "_rotate_at",
        "floor",
        "interval_s",
        "near",
        "quota",
        "tolerance_s",
    )

    def __init__(self, quota: Quota, floor: float = 0.0) -> None:
        self.floor = floor
        self.near: dict[Hashable, float] = {}
        self._before: dict[Hashable, float] = {}
        self._lock = threading.Lock()
        self._keys = Generations()
        self._names = Names()
        self._rotate_at = 0.0
        self._mirror()
        self.retune(quota)

    def retune(self, quota: Quota) -> None:
        """Other numbers from now on; buckets stay as full as they are."""
        self.quota = quota
        self.interval_s = quota.interval_s
        self.tolerance_s = quota.tolerance_s
        self._generation_s = max(quota.tolerance_s, SHORTEST_GENERATION_S)

    def acquire(self, key: Hashable, now: float) -> float:
        # The hot path, without a lock. From the line that finds the bucket to the one that writes it there is no call
        # and (when the first probe hits) no jump backwards, so that no other thread runs in between; after such a jump
        # the page may have been emptied by a split, which then looks like a miss.
        near = self.near
        if key in near:
            full_at = near[key]
            if full_at < now:
                full_at = now
            full_at += self.interval_s
            excess = full_at - now - self.tolerance_s
            if excess > ROUNDING_S:
                return excess
            near[key] = full_at
            return 0.0
        key_hash = hash((key,))
        hashes, values, _ = self._directory[key_hash & self._mask]
        slot = key_hash >> SLOT_SHIFT & SLOT_MASK
        while (found := hashes[slot]) != key_hash:
            if not found:
                return self._first(key, key_hash, now)
            slot = slot + 1 & SLOT_MASK
        full_at = values[slot]
        if full_at < now:
            full_at = now
        full_at += self.interval_s
        excess = full_at - now - self.tolerance_s
        if excess > ROUNDING_S:
            return excess
        values[slot] = full_at
        return 0.0

    def _first(self, key: Hashable, key_hash: int, now: float) -> float:
        """A key that the current generation did not know a moment ago."""
        with self._lock:
            if now >= self._rotate_at:
                self._keys.rotate()
                self.near, self._before = {}, self.near
                self._rotate_at = now + self._generation_s
                self._mirror()
            if key in self.near:  # another thread was quicker
                return self.acquire(key, now)
            paged = self._keys.current.get(key_hash)
            known = paged or self._before.pop(key, 0.0) or self._keys.leave(key_hash)
            full_at = max(known, self.floor, now)
            full_at += self.interval_s
            excess = full_at - now - self.tolerance_s
            admitted = excess <= ROUNDING_S
            if admitted or known:
                self._keep(key, key_hash, full_at if admitted else known, paged=paged > 0.0)
            return 0.0 if admitted else excess

    def _keep(self, key: Hashable, key_hash: int, full_at: float, *, paged: bool) -> None:
        if not paged and len(self.near) < NEAR and type(key) in PLAIN and portable(key):
            self.near[key] = full_at
        else:
            self._names.note(key_hash, key)
            current = self._keys.current
            current.put(key_hash, full_at)
            if self._directory is not current.directory:
                self._mirror()

    def note(self, key: Hashable) -> None:
        """A key whose name is to be remembered: it was refused."""
        if key not in self.near:
            self._names.note(hash((key,)), key)

    def dump(self, now: float) -> list[tuple[Any, ...]]:
        """(key, seconds until its bucket is full again), the emptiest first; of keys that are near, and of the last
        others that were new or refused, as far as `memory.Names` goes."""
        with self._lock:
            near = {**self._before, **self.near}
            moments = {key: self._keys.peek(key_hash) for key_hash, key in self._names} | near
        ahead = [(key, full_at - now) for key, full_at in moments.items() if full_at > now]
        return sorted(ahead, key=lambda each: -each[1])

    def load(self, keys: Iterable[Sequence[Any]], then: float) -> None:
        """What another process has dumped at the moment `then`. Raises ValueError."""
        with self._lock:
            for key, ahead_s in keys:
                key_hash, full_at = hash((key,)), then + seconds_ahead(ahead_s, self.tolerance_s)
                if key in self.near:
                    self.near[key] = max(self.near[key], full_at)
                else:
                    paged = self._keys.current.get(key_hash)
                    known = paged or self._before.pop(key, 0.0) or self._keys.leave(key_hash)
                    self._keep(key, key_hash, max(known, full_at), paged=paged > 0.0)

    def _mirror(self) -> None:
        self._directory, self._mask = self._keys.current.directory, self._keys.current.mask

    def __len__(self) -> int:
        """Keys in memory."""
        return len(self.near) + len(self._before) + len(self._keys)


class LeakyBuckets:
    """A queue per key that is served evenly: a call gets the next free slot, `interval_s` after the one before."""

    def __init__(self, quota: Quota, queue: float) -> None:
        self._lock = threading.Lock()
        self._keys = Generations()
        self._names = Names()
        self._rotate_at = 0.0
        self._freed: dict[Hashable, list[float]] = {}
        self._freed_before: dict[Hashable, list[float]] = {}
        self.retune(quota, queue)

    def retune(self, quota: Quota, queue: float) -> None:
        self.quota = quota
        self._interval_s = quota.interval_s
        self._longest_s = queue * quota.interval_s if quota.count else 0.0
        self._generation_s = max(self._longest_s + self._interval_s, SHORTEST_GENERATION_S)

    def reserve(self, key: Hashable, now: float, remaining_s: float) -> tuple[float, float]:
        """(seconds until the call's slot, 0.0), or (0.0, seconds to wait before asking again) when the queue is full or
        the slot is not before the deadline."""
        with self._lock:
            if not self.quota.count:
                return 0.0, math.inf
            if now >= self._rotate_at:
                self._rotate(now)
            key_hash = hash((key,))
            if (slot := self._reuse(key, now, remaining_s)) is not None:
                return slot - now, 0.0
            slot = max(self._keys.recall(key_hash), now)
            wait_s = slot - now
            if wait_s > self._longest_s + ROUNDING_S or wait_s >= remaining_s:
                return 0.0, max(wait_s - min(self._longest_s, remaining_s), SHORTEST_WAIT_S)
            self._keys.current.put(key_hash, slot + self._interval_s)
            self._names.note(key_hash, key)
            return wait_s, 0.0

    def dump(self, now: float) -> list[tuple[Any, ...]]:
        """(key, seconds until its next free slot), the fullest first: who waits there is served by the process that it
        waits in."""
        with self._lock:
            ahead = [(key, self._keys.peek(key_hash) - now) for key_hash, key in self._names]
        return sorted([each for each in ahead if each[1] > 0.0], key=lambda each: -each[1])

    def load(self, keys: Iterable[Sequence[Any]], then: float) -> None:
        """What another process has dumped at the moment `then`. Raises ValueError."""
        with self._lock:
            for key, ahead_s in keys:
                key_hash = hash((key,))
                free_at = then + seconds_ahead(ahead_s, self._longest_s + self._interval_s)
                self._keys.current.put(key_hash, max(self._keys.recall(key_hash), free_at))

    def cancel(self, key: Hashable, slot: float, now: float) -> None:
        """A call gave up while it waited: its slot goes to the next one."""
        with self._lock:
            key_hash = hash((key,))
            after = slot + self._interval_s
            if abs(self._keys.recall(key_hash) - after) <= ROUNDING_S:
                self._keys.current.put(key_hash, slot)
            elif slot > now:
                heappush(self._freed.setdefault(key, []), slot)

    def _reuse(self, key: Hashable, now: float, remaining_s: float) -> float | None:
        """The earliest slot that somebody gave back."""
        for freed in (self._freed, self._freed_before):
            slots = freed.get(key)
            while slots:
                slot = slots[0]
                if slot - now >= remaining_s:
                    break
                heappop(slots)
                if slot >= now:
                    return slot
        return None

    def _rotate(self, now: float) -> None:
        self._keys.rotate()
        self._freed, self._freed_before = {}, self._freed
        self._rotate_at = now + self._generation_s

    def __len__(self) -> int:
        return len(self._keys)


class SlidingWindows:
    """Never more than `count` in any window of `per_s`, at 8 bytes for each call of the window.

    A key is a ring of the moments of its last calls; its first cell says where the oldest is.
    """

    def __init__(self, quota: Quota) -> None:
        self._lock = threading.Lock()
        self._current: dict[Hashable, array[float]] = {}
        self._previous: dict[Hashable, array[float]] = {}
        self._dying: dict[Hashable, array[float]] = {}
        self._rotate_at = 0.0
        self.retune(quota)

    def retune(self, quota: Quota) -> None:
        """Rings take their new size as their keys are asked for."""
        self.quota = quota
        self._count, self._per_s = int(quota.count), quota.per_s

    def acquire(self, key: Hashable, now: float) -> float:
        with self._lock:
            ring = self._current.get(key)
            if ring is None:
                ring = self._first(key, now)
            if len(ring) <= self._count:
                if ring[0]:
                    _unroll(ring, self._count)
                ring.append(now)
                return 0.0
            return self._replace(ring, now)

    def _replace(self, ring: array[float], now: float) -> float:
        """The oldest call by this one, if it is out of the window."""
        if not self._count:
            return math.inf
        if len(ring) - 1 > self._count:
            _unroll(ring, self._count)
        oldest = int(ring[0])
        wait_s = ring[1 + oldest] + self._per_s - now
        if wait_s > ROUNDING_S:
            return wait_s
        ring[1 + oldest] = now
        ring[0] = (oldest + 1) % self._count
        return 0.0

    def _first(self, key: Hashable, now: float) -> array[float]:
        if now >= self._rotate_at:
            self._previous, self._current, self._dying = self._current, {}, self._previous
            self._rotate_at = now + max(self._per_s, SHORTEST_GENERATION_S)
        for _ in range(min(2, len(self._dying))):
            self._dying.popitem()  # little by little: a million at once would stop everybody
        ring = self._previous.pop(key, None) or array("d", [0.0])
        self._current[key] = ring
        return ring

    def note(self, key: Hashable) -> None:
        """As `TokenBuckets.note`: here every key has its name."""

    def dump(self, now: float) -> list[tuple[Any, ...]]:
        """(key, seconds since each call of its window, oldest first), the fullest first."""
        with self._lock:
            rings = [*self._previous.items(), *self._current.items()]
            calls = [(key, [at - now for at in _ordered(ring) if at > now - self._per_s]) for key, ring in rings]
        return sorted([each for each in calls if each[1] and portable(each[0])], key=lambda each: -len(each[1]))

    def load(self, keys: Iterable[Sequence[Any]], then: float) -> None:
        """What another process has dumped at the moment `then`. Raises ValueError."""
        with self._lock:
            for key, past in keys:
                ring = self._current.get(key) or self._previous.pop(key, None) or array("d", [0.0])
                moments = sorted([then + number(ago, most=0.0) for ago in past] + list(_ordered(ring)))
                self._current[key] = array("d", [0.0, *moments[max(len(moments) - self._count, 0) :]])

    def __len__(self) -> int:
        return len(self._current) + len(self._previous)


def _ordered(ring: array[float]) -> array[float]:
    oldest = 1 + int(ring[0])
    return ring[oldest:] + ring[1:oldest]


def _unroll(ring: array[float], count: int) -> None:
    """Keep the youngest `count`, the oldest of them first."""
    ordered = _ordered(ring)
    ring[:] = array("d", [0.0]) + ordered[max(len(ordered) - count, 0) :]
