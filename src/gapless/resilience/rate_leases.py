"""Leases: parts of a shared rate that a process has taken in advance (pure: no clock, no network).

`acquire` decides locally, always. What it admits without having taken it before (the first calls of a key) is *owed*
and charged with the next round, so that in the long run never more is admitted than Redis knows of.

    round = leases.begin(now)  →  LEND  →  leases.finish(round, reply, now)  or  leases.lost(now, why)
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from gapless.resilience.rate_quota import Quota
from gapless.resilience.rate_redis import Names, greeting, interval_us, tolerance_us

ROUND_S = 0.01
"""Between two rounds: a process asks for all its keys together, at most this often."""
PROBE_S = 0.05
"""Between two looks for a Redis that is away."""
ANSWER_S = 0.03
"""A round that takes longer means that Redis is away: with ROUND_S well below 50 ms."""
LIFE_LEASES = 10
"""Unused calls go back after this many lease times, so that no process hoards them."""
BATCH = 200
"""Keys in a round: a script keeps Redis from everybody else (some 2 µs per key)."""
CREDIT_SHARE = 8
"""What may be admitted before Redis was asked: this part of the burst, so that eight processes that start in the same
moment stay within it."""
SHORTEST_GENERATION_S = 5.0


class Lease:
    """One key's part. `tokens` may be used until `until`; `retry_at`: when Redis will have another one."""

    __slots__ = ("asked", "credit", "key", "low", "owed", "queued", "quota", "retry_at", "since", "tokens", "until")

    def __init__(self, key: Hashable, quota: Quota, credit: int, now: float) -> None:
        self.key, self.quota = key, quota
        self.tokens, self.low, self.until = 0, 0, 0.0
        self.credit, self.owed, self.retry_at = credit, 0, 0.0
        self.asked, self.since = 0, now
        self.queued = False


@dataclass(frozen=True, slots=True)
class Round:
    """One LEND. `number` tells an answer that comes too late."""

    number: int
    leases: tuple[Lease, ...]
    wants: tuple[int, ...]
    keys: tuple[str, ...]
    args: tuple[Any, ...]


class Leases:
    """`alone(now, processes)` makes the local buckets for a time without Redis; `tell(lost, why)` hears of changes."""

    def __init__(
        self,
        *,
        names: Names,
        process: str,
        quota_of: Callable[[Hashable], Quota],
        lease_s: float,
        processes: int,
        longest_s: float,
        most_keys: float,
        alone: Callable[[float, int], Callable[[Hashable, float], float]],
        tell: Callable[[bool, str], None],
    ) -> None:
        self._names, self._process, self._quota_of, self._lease_s = names, process, quota_of, lease_s
        self._alone, self._tell = alone, tell
        self.wake: Callable[[], None] = lambda: None
        """A round is wanted: whoever runs them listens here."""
        self._longest_s, self._most_keys = longest_s, most_keys
        self.processes = processes
        self._lock = threading.Lock()
        self._current: dict[Hashable, Lease] = {}
        self._previous: dict[Hashable, Lease] = {}
        self._rotate_at = 0.0
        self._wanted: list[Lease] = []
        self._asking: tuple[Lease, ...] = ()
        self._number = 0
        self._asked_at = math.inf
        self._calm_until = 0.0
        self._local: Callable[[Hashable, float], float] | None = None
        self._away_since: float | None = None
        self._probe = False

    @property
    def away(self) -> bool:
        return self._local is not None

    @property
    def pause_s(self) -> float:
        """Before the next round."""
        return PROBE_S if self.away else ROUND_S

    def __len__(self) -> int:
        return len(self._current) + len(self._previous)

    def acquire(self, key: Hashable, now: float) -> float:
        """0.0: admitted; otherwise the seconds after which a call may be. Without a lock, as `TokenBuckets.acquire`:
        between the look at the tokens and taking one there is no call."""
        lease = self._current.get(key)
        if lease is None:
            lease = self._first(key, now)
        lease.asked += 1
        if lease.tokens > 0 and now < lease.until:
            lease.tokens -= 1
            if lease.tokens <= lease.low and not lease.queued:
                with self._lock:
                    self._want(lease)
                self.wake()
            return 0.0
        if now < lease.retry_at and self._local is None and now - self._asked_at <= ANSWER_S:
            return lease.retry_at - now  # Redis has said so; to ask again before would be in vain
        return self._without(lease, now)

    def _first(self, key: Hashable, now: float) -> Lease:
        with self._lock:
            if now >= self._rotate_at or len(self._current) >= self._most_keys:
                self._previous, self._current = self._current, {}
                self._rotate_at = now + 2 * self._longest_s + SHORTEST_GENERATION_S
            lease = self._previous.pop(key, None) or self._current.get(key)
            if lease is None:
                quota = self._quota_of(key)
                lease = Lease(key, quota, self._credit(quota, now), now)
            self._current[key] = lease
            return lease

    def _without(self, lease: Lease, now: float) -> float:
        """No token is left: on credit, or by the local buckets, or not at all."""
        if not lease.quota.count:
            return math.inf
        admitted = lost = False
        with self._lock:
            if now - self._asked_at > ANSWER_S:
                lost = self._lose(now)
            if (local := self._local) is not None:
                self._probe = True
            else:
                self._expire(lease, now)
                if admitted := lease.credit > 0:
                    lease.credit -= 1
                    lease.owed += 1
                if admitted or now >= lease.retry_at:
                    self._want(lease)
        if lost:
            self._tell(True, f"no answer in {ANSWER_S * 1000:.0f} ms")
        self.wake()
        if local is not None:
            return local(lease.key, now)
        return 0.0 if admitted else max(lease.retry_at - now, ROUND_S)

    def _expire(self, lease: Lease, now: float) -> None:
        """Tokens that nobody used go back. Then the next calls are on credit, unless Redis had none left."""
        if lease.until and lease.until <= now:
            lease.owed -= lease.tokens
            lease.tokens, lease.until = 0, 0.0
            if lease.retry_at <= now:
                lease.credit = self._credit(lease.quota, now)
        elif not lease.until and not lease.credit and not lease.queued and lease.retry_at <= now:
            lease.credit = 1

    def retune(
        self,
        quota_of: Callable[[Hashable], Quota],
        longest_s: float,
        alone: Callable[[float, int], Callable[[Hashable, float], float]],
        now: float,
    ) -> None:
        """Other numbers from now on: each key asks anew, with one call on credit."""
        with self._lock:
            self._quota_of, self._longest_s, self._alone = quota_of, longest_s, alone
            self._current, self._previous = {}, {}
            self._calm_until = now + longest_s
            if self.away:
                self._local = alone(now, self.processes)

    def _want(self, lease: Lease) -> None:
        if not lease.queued:
            lease.queued = True
            self._wanted.append(lease)

    def _share(self, quota: Quota) -> float:
        """Of one process, in one lease time."""
        return quota.count / quota.per_s * self._lease_s / self.processes

    def _credit(self, quota: Quota, now: float) -> int:
        if now < self._calm_until:
            return 1
        return max(int(min(self._share(quota), quota.burst / CREDIT_SHARE)), 1)

    def _wish(self, lease: Lease, now: float) -> int:
        """What will be used in a lease time at the present demand, but no more than an equal part."""
        demand = lease.asked / max(now - lease.since, ROUND_S) * self._lease_s
        lease.asked, lease.since = 0, now
        return max(math.ceil(min(demand, self._share(lease.quota))), 1) - lease.tokens

    def begin(self, now: float) -> Round | None:
        """What to ask Redis now; None when nothing is wanted."""
        with self._lock:
            if self.away:
                wanted, self._probe = self._probe, False
                return self._round((), now) if wanted else None
            if not self._wanted:
                return None
            self._asking = tuple(self._wanted[:BATCH])
            del self._wanted[:BATCH]
            self._asked_at = now
            return self._round(self._asking, now)

    def _round(self, leases: tuple[Lease, ...], now: float) -> Round:
        names = self._names
        args: list[Any] = greeting(self._process, self._away_since, now, self._longest_s)
        wants = tuple(max(self._wish(lease, now), 0) for lease in leases)
        for lease, want in zip(leases, wants, strict=True):
            args += [interval_us(lease.quota), tolerance_us(lease.quota), want, lease.owed]
            lease.owed = 0
        keys = (names.floor, names.members, *(names.bucket(lease.key) for lease in leases))
        return Round(self._number, leases, wants, keys, tuple(args))

    def finish(self, done: Round, reply: Sequence[int], now: float) -> None:
        """Redis has answered."""
        with self._lock:
            if done.number != self._number:
                return  # it was given up; what it took is lost
            back = self.away
            self._asked_at, self._asking = math.inf, ()
            self.processes = max(reply[0], 1)
            for place, lease in enumerate(done.leases):
                self._grant(lease, done.wants[place], reply[1 + 2 * place], reply[2 + 2 * place], now)
            if back:
                self._local = self._away_since = None
                self._calm_until = now + self._longest_s
                self._current, self._previous = {}, {}
        if back:
            self._tell(False, f"{self.processes} processes")

    def _grant(self, lease: Lease, want: int, granted: int, retry_us: int, now: float) -> None:
        lease.queued = False
        lease.tokens += granted
        lease.low = lease.tokens // 2
        lease.until = now + LIFE_LEASES * self._lease_s
        lease.retry_at = now + retry_us / 1e6 if granted < want or retry_us > 0 else 0.0
        lease.credit = 0

    def lost(self, failed: Round, why: str, now: float) -> None:
        """Redis has not answered."""
        with self._lock:
            lost = failed.number == self._number and self._lose(now)
        if lost:
            self._tell(True, why)

    def _lose(self, now: float) -> bool:
        """Go on alone; False if that is so already."""
        self._number += 1
        self._asked_at = math.inf
        for lease in (*self._wanted, *self._asking):
            lease.queued = False
        self._wanted, self._asking = [], ()
        if self.away:
            return False
        self._local, self._away_since = self._alone(now, self.processes), now
        return True
