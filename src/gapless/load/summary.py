"""Records of single requests, and their sum: counts that add up exactly, quantiles that are right to 1 %."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

GROWTH = 1.01
"""Ratio of neighbouring latency buckets: quantiles are at most 1 % above the truth, an hour costs a few kilobytes."""
SMALLEST_S = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What became of one request. `cause` is empty when the answer was good."""

    n: int
    due_at: float
    """Seconds since the epoch."""
    latency_s: float
    """From the due time to the last byte, or to the moment when it was lost."""
    status: int = 0
    cause: str = ""
    detail: str = ""
    user: str = ""
    release: str = ""
    """The value of x-gapless-release."""
    reused: bool = False
    """Sent on a connection that had answered before."""
    late: bool = False
    """All connections were busy when it was due."""
    uuid: str = ""


@dataclass(slots=True)
class Latencies:
    """A histogram with logarithmic buckets."""

    counts: Counter[int] = field(default_factory=Counter)
    total: int = 0
    max_s: float = 0.0

    def add(self, latency_s: float) -> None:
        self.counts[math.ceil(math.log(max(latency_s, SMALLEST_S) / SMALLEST_S, GROWTH))] += 1
        self.total += 1
        self.max_s = max(self.max_s, latency_s)

    def quantile(self, share: float) -> float:
        """The least latency that `share` of the requests did not exceed; 0 when there are none."""
        rank, seen = max(1, math.ceil(share * self.total)), 0
        for bucket in sorted(self.counts):
            seen += self.counts[bucket]
            if seen >= rank:
                return min(SMALLEST_S * GROWTH**bucket, self.max_s)
        return 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseSummary:
    """What one release answered."""

    requests: int
    lost: int
    users: int
    """Distinct users who met it."""
    p50_s: float
    p99_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A load so far. `requests` = `answered` + the sum of `lost` + `waiting`, exactly."""

    requests: int
    answered: int
    lost: Mapping[str, int]
    waiting: int
    late: int
    """Requests that waited because all connections were busy; their latency counts from when they were due."""
    reconnects: int
    """Connections that the server had closed while idle, noticed before anything was sent."""
    elapsed_s: float
    rate: float
    """Requests that became due per second: below the wanted rate only if this client could not keep up."""
    lag_s: float
    """The most that this client itself was behind its schedule (it is part of the latencies)."""
    p50_s: float
    p90_s: float
    p99_s: float
    max_s: float
    by_release: Mapping[str, ReleaseSummary]

    @property
    def lost_total(self) -> int:
        return sum(self.lost.values())


@dataclass(slots=True)
class _ReleaseTally:
    requests: int = 0
    lost: int = 0
    users: set[str] = field(default_factory=set)
    latencies: Latencies = field(default_factory=Latencies)

    def summary(self) -> ReleaseSummary:
        quantile = self.latencies.quantile
        return ReleaseSummary(
            requests=self.requests, lost=self.lost, users=len(self.users), p50_s=quantile(0.5), p99_s=quantile(0.99)
        )


@dataclass(slots=True)
class Tally:
    """Adds records up. Latencies are those of good answers: what was lost is counted, not averaged in."""

    due: int = 0
    done: int = 0
    late: int = 0
    reconnects: int = 0
    lag_s: float = 0.0
    lost: Counter[str] = field(default_factory=Counter)
    latencies: Latencies = field(default_factory=Latencies)
    releases: dict[str, _ReleaseTally] = field(default_factory=dict)

    def add(self, record: Record) -> None:
        self.done += 1
        self.late += record.late
        if record.cause:
            self.lost[record.cause] += 1
        else:
            self.latencies.add(record.latency_s)
        if record.release:
            self._add_to_release(record)

    def _add_to_release(self, record: Record) -> None:
        release = self.releases.setdefault(record.release, _ReleaseTally())
        release.requests += 1
        if record.user:
            release.users.add(record.user)
        if record.cause:
            release.lost += 1
        else:
            release.latencies.add(record.latency_s)

    def summary(self, elapsed_s: float) -> Summary:
        quantile = self.latencies.quantile
        return Summary(
            requests=self.due,
            answered=self.done - self.lost.total(),
            lost=dict(sorted(self.lost.items())),
            waiting=self.due - self.done,
            late=self.late,
            reconnects=self.reconnects,
            elapsed_s=elapsed_s,
            rate=self.due / elapsed_s if elapsed_s else 0.0,
            lag_s=self.lag_s,
            p50_s=quantile(0.5),
            p90_s=quantile(0.9),
            p99_s=quantile(0.99),
            max_s=self.latencies.max_s,
            by_release={name: tally.summary() for name, tally in sorted(self.releases.items())},
        )
