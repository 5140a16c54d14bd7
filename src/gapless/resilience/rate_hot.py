"""Any number of keys in bounded memory: the `top` busiest have a bucket of their own, the others share a sketch.

The sketch is a count-min (Cormode and Muthukrishnan 2005) of bucket moments: a key's moment is the least of its three
cells, an admitted call raises those that are below the new moment (conservative update, Estan and Varghese 2002). A
cell is never below the moment of any of its keys, so that no key gets more than its rate; a key gets less only while
each of its cells is shared with a busier one. Cells expire by themselves, as moments do.

Beside each moment stands a count of calls, from which the busiest are found: a key that is counted more often than the
least busy exact one takes its place, which gives its moment back to the sketch. Counts are halved now and then, so
that yesterday's busiest make room.
"""

from __future__ import annotations

import threading
from array import array
from collections.abc import Hashable, Iterable, Sequence
from heapq import heapify, heappush, heapreplace
from typing import Any

from gapless.core.errors import ConfigError
from gapless.core.value import Value
from gapless.resilience.memory import portable, seconds_ahead, whole
from gapless.resilience.rate_local import ROUNDING_S
from gapless.resilience.rate_quota import Quota

CELLS = 1 << 17
"""For each of three rows: 4.5 MB in all."""
MASK = CELLS - 1
MOST_KEYS = 6_000
"""Exact buckets take about 500 bytes each: with the sketch below 8 MB."""
AGED_AFTER = 1 << 19
"""Calls in the sketch between two halvings: few enough that an error of a count (4 · calls / CELLS) stays small."""
MOST_COUNT = 1 << 31
"""Of calls: the cells have 32 bits."""
NAME_LENGTH = 64
"""Of a key, as kept for people; a bucket is known by its hash."""


class Top(Value, kw_only=False):
    keys: int


def top(keys: int) -> Top:
    """Exact buckets for the busiest `keys`, bounded memory for all others."""
    if not 1 <= keys <= MOST_KEYS:
        raise ConfigError(f"top({keys}) is out of range", f"Between 1 and {MOST_KEYS}: the memory stays below 8 MB.")
    return Top(keys)


class _Hot:
    """A busy key's bucket."""

    __slots__ = ("count", "full_at", "key", "name")

    def __init__(self, full_at: float, count: int, key: Hashable) -> None:
        self.full_at, self.count = full_at, count
        self.name = str(key)[:NAME_LENGTH]
        self.key = key if type(key) is int or key == self.name else None
        """For another process; None when it is none that travels, or a long one."""


class HotBuckets:
    """As `TokenBuckets`: 0.0 or the seconds to wait."""

    def __init__(self, quota: Quota, keys: int, floor: float = 0.0) -> None:
        self.floor = floor
        self._keys = keys
        self._lock = threading.Lock()
        self._hot: dict[int, _Hot] = {}
        self._least: list[tuple[int, int]] = []
        """Heap of (count when last looked at, hash) of the hot."""
        self._bar = 0
        self._moments = [array("d", bytes(8 * CELLS)) for _ in range(3)]
        self._counts = [array("I", bytes(4 * CELLS)) for _ in range(3)]
        self._cold_calls = 0
        self.retune(quota)

    def retune(self, quota: Quota) -> None:
        self.quota = quota
        self._interval_s = quota.interval_s
        self._tolerance_s = quota.tolerance_s

    def acquire(self, key: Hashable, now: float) -> float:
        key_hash = hash((key,))
        with self._lock:
            hot = self._hot.get(key_hash)
            if hot is None:
                return self._cold(key, key_hash, now)
            hot.count += 1
            full_at = max(hot.full_at, now) + self._interval_s
            excess = full_at - now - self._tolerance_s
            if excess > ROUNDING_S:
                return excess
            hot.full_at = full_at
            return 0.0

    def hottest(self, count: int) -> list[tuple[str, int]]:
        """Names (their beginnings) and calls counted, busiest first."""
        with self._lock:
            ordered = sorted(self._hot.values(), key=lambda hot: -hot.count)
        return [(hot.name, hot.count) for hot in ordered[:count]]

    def note(self, key: Hashable) -> None:
        """As `TokenBuckets.note`: the busiest have their names."""

    def dump(self, now: float) -> list[tuple[Any, ...]]:
        """(key, seconds until its bucket is full again, calls), busiest first. The sketch stays: its cells belong to
        hashes of this process."""
        with self._lock:
            known = [(hot.key, hot.full_at - now, hot.count) for hot in self._hot.values() if portable(hot.key)]
        return sorted([each for each in known if each[0] is not None], key=lambda each: -each[2])

    def load(self, keys: Iterable[Sequence[Any]], then: float) -> None:
        """What another process has dumped at the moment `then`. Raises ValueError."""
        with self._lock:
            for key, ahead_s, count in keys:
                self._inherit(key, then + seconds_ahead(ahead_s, self._tolerance_s), whole(count, MOST_COUNT))

    def _inherit(self, key: Hashable, full_at: float, count: int) -> None:
        key_hash = hash((key,))
        if (hot := self._hot.get(key_hash)) is not None:
            hot.full_at = max(hot.full_at, full_at)
            return
        self._raise((key_hash & MASK, key_hash >> 17 & MASK, key_hash >> 34 & MASK), full_at)
        if count > self._bar:
            self._promote(key, key_hash, count, full_at)

    def _cold(self, key: Hashable, key_hash: int, now: float) -> float:
        places = key_hash & MASK, key_hash >> 17 & MASK, key_hash >> 34 & MASK
        full_at = max(self._moment(places), self.floor, now) + self._interval_s
        excess = full_at - now - self._tolerance_s
        if excess <= ROUNDING_S:
            self._raise(places, full_at)
        count = self._count(places)
        if count > self._bar:
            self._promote(key, key_hash, count, full_at if excess <= ROUNDING_S else full_at - self._interval_s)
        self._cold_calls += 1
        if self._cold_calls >= AGED_AFTER:
            self._age()
        return excess if excess > ROUNDING_S else 0.0

    def _moment(self, places: tuple[int, int, int]) -> float:
        a, b, c = self._moments
        i, j, k = places
        return min(a[i], b[j], c[k])

    def _raise(self, places: tuple[int, int, int], full_at: float) -> None:
        for row, place in zip(self._moments, places, strict=True):
            if row[place] < full_at:
                row[place] = full_at

    def _count(self, places: tuple[int, int, int]) -> int:
        """One more call; returns how many there were."""
        a, b, c = self._counts
        i, j, k = places
        count = min(a[i], b[j], c[k]) + 1
        if a[i] < count:
            a[i] = count
        if b[j] < count:
            b[j] = count
        if c[k] < count:
            c[k] = count
        return count

    def _promote(self, key: Hashable, key_hash: int, count: int, full_at: float) -> None:
        hot = _Hot(full_at, count, key)
        if len(self._hot) < self._keys:
            heappush(self._least, (count, key_hash))
            self._hot[key_hash] = hot
            self._bar = self._least[0][0] if len(self._hot) == self._keys else 0
            return
        self._refresh()
        if count > self._bar:
            self._demote(self._least[0][1])
            heapreplace(self._least, (count, key_hash))
            self._hot[key_hash] = hot
            self._bar = self._least[0][0]

    def _refresh(self) -> None:
        """Counts in the heap are those of the last look: bring the least up to date until it truly is the least."""
        least = self._least
        while (count := self._hot[least[0][1]].count) > least[0][0]:
            heapreplace(least, (count, least[0][1]))
        self._bar = least[0][0]

    def _demote(self, key_hash: int) -> None:
        hot = self._hot.pop(key_hash)
        places = key_hash & MASK, key_hash >> 17 & MASK, key_hash >> 34 & MASK
        self._raise(places, hot.full_at)
        for row, place in zip(self._counts, places, strict=True):
            row[place] = max(row[place], hot.count)

    def _age(self) -> None:
        self._cold_calls = 0
        self._counts = [array("I", bytes(4 * CELLS)) for _ in range(3)]
        for hot in self._hot.values():
            hot.count //= 2
        self._least = [(hot.count, key_hash) for key_hash, hot in self._hot.items()]
        heapify(self._least)
        self._bar = self._least[0][0] if len(self._hot) == self._keys else 0

    def __len__(self) -> int:
        """Keys with a bucket of their own."""
        return len(self._hot)
