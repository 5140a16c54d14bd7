"""What each release answered, second by second, from Envoy's access log (`core.ports.Metrics`).

An entry belongs to the second in which it *arrives* (at most the flush interval, 0.2 s, after its request ended). So a
second that is over never changes any more: whoever reads windows that end at `now - 1 s` and begin where the last one
ended counts every request exactly once, and both releases of a split see the same delay. A second belongs to a window
when it begins in it.

What counts: each request that reached a release's cluster, once, with its last attempt. An error is a status of 500 or
more, or no whole response (reset, time-out, unreachable). A client that hangs up is no error; what it had waited counts
as latency. Latency runs from the last byte of the request to the last byte of the response as the gateway gets it, so
that slow clients do not blame the release but retries do; for WebSockets it is the time until the upgrade.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field
from heapq import heappush, heappushpop
from typing import Any

from gapless.core.model import HISTOGRAM_BOUNDS_S, WARM_UP_REQUESTS, WARM_UP_S, Window
from gapless.core.ports import World
from gapless.gateway.envoy.clusters import cluster_name, split_name
from gapless.gateway.envoy.entries import NOTHING, Entry, entries
from gapless.gateway.envoy.spans import span_of
from gapless.observe.metrics import Counter, Histogram, Meter
from gapless.observe.trace.spans import Kept

KEPT_S = 900
"""How far back windows can look. A busy release costs some 2 kB a second."""

FAILED_PER_SECOND = 1_000
"""Failing users that are remembered by name, per release and second; errors beyond it are counted all the same."""

SLOWEST_PER_SECOND = 256
"""Slowest answers that are remembered with their user, per release and second: at least 2 % up to 12,800 requests/s."""
SLOWEST_KEPT_S = 60
"""The analysis looks every second; what it has missed for so long it judges by the histogram alone."""

INSTANCES_KNOWN = 10_000
SWITCHING_PROTOCOLS = 101

_GRPC_FAILURES = frozenset({"2", "4", "13", "14", "15"})
"""UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE and DATA_LOSS: what would be a 5xx of HTTP. The others blame the
caller, or say that something is not there."""

_OURS = frozenset({"RL", "FI"})
"""Signs of Envoy's: it has answered by itself; refused by a rate, or aborted by a fault."""
_HUNG_UP = frozenset({"DC", "DR"})
"""The client did not wait for the answer."""
_CUT_OFF = frozenset({"UR", "UC", "UT", "UPE", "SI"})
"""The status was already sent, but the rest of the response never came."""

NOBODY = cluster_name("", "")
"""No release of ours was asked; nor was one when the gateway's rate limit has refused."""


@dataclass(slots=True)
class Second:
    """What one release answered in one second."""

    requests: int = 0
    errors: int = 0
    failed: list[str] = field(default_factory=list)
    latency: dict[int, int] = field(default_factory=dict)
    """Index into HISTOGRAM_BOUNDS_S (or one above) → answers."""
    slowest: list[tuple[float, str]] | None = field(default_factory=list)
    """A heap of the slowest, with their users; None once they are too old to be kept."""

    def add(self, failed: bool, user: str, latency_s: float, warm: bool) -> None:
        self.requests += 1
        if failed:
            self.errors += 1
            if len(self.failed) < FAILED_PER_SECOND:
                self.failed.append(user)
        if not warm:
            return
        if self.slowest is not None:
            push = heappush if len(self.slowest) < SLOWEST_PER_SECOND else heappushpop
            push(self.slowest, (latency_s, user))
        bucket = bisect_left(HISTOGRAM_BOUNDS_S, latency_s)
        self.latency[bucket] = self.latency.get(bucket, 0) + 1


class AccessLog:
    """The last fifteen minutes of every release. Implements `core.ports.Metrics`."""

    def __init__(self, world: World) -> None:
        self.kept = Kept()
        """The gateway's part of the requests that are recorded."""
        self.meter = Meter()
        self._total = self.meter.counter(
            "gapless_gateway_requests",
            "Requests that reached a release, by its answer",
            ("service", "release", "status"),
        )
        self._took = self.meter.histogram(
            "gapless_gateway_request_duration_seconds", "Time to answer, as the gateway saw it", ("service", "release")
        )
        self._children: dict[tuple[str, str], tuple[Counter, Histogram]] = {}
        self._world = world
        self._seconds: deque[tuple[int, dict[str, Second]]] = deque()
        """(second since the epoch, cluster → what it answered), oldest first."""
        self._answering: dict[str, tuple[float, int, float]] = {}
        """Instances: when the first of so many answers came, and the last one. Least recently heard first."""
        self._recent: deque[tuple[int, dict[str, Second]]] = deque()
        """Those of them that still hold their slowest answers."""

    def take(self, message: Any) -> None:
        """Count the entries of a message (`entries.message_class`)."""
        now = self._now()
        for began_at, entry in entries(message):
            if entry.answered != NOTHING and (span := span_of(entry, began_at)):
                self.kept.add(span)
            cluster = cluster_name(*split_name(entry.cluster))
            flags = frozenset() if entry.flags == NOTHING else frozenset(entry.flags.split(","))
            if cluster != NOBODY and not flags & _OURS:
                failed, latency_s = _outcome(entry, flags)
                user = "" if entry.user == NOTHING else entry.user
                now.setdefault(cluster, Second()).add(failed, user, latency_s, self._warm(entry.place))
                self._count(cluster, _status(int(entry.status), failed), latency_s)

    def _warm(self, place: str) -> bool:
        """Whether the instance that answered has done so for a while. A new one has an address of its own; one that
        reloads in place keeps it, and starts warm or not, which nobody can tell from here."""
        if place == NOTHING:
            return True
        now = self._world.time()
        first_at, count, last_at = self._answering.get(place, (now, 0, now))
        if now - last_at > KEPT_S:
            first_at, count = now, 0
        self._answering.pop(place, None)
        self._answering[place] = (first_at, count + 1, now)
        while len(self._answering) > INSTANCES_KNOWN:
            del self._answering[next(iter(self._answering))]
        return count >= WARM_UP_REQUESTS and now - first_at >= WARM_UP_S

    def _count(self, cluster: str, status: str, latency_s: float) -> None:
        total, took = self._children.get((cluster, status)) or self._child(cluster, status)
        total.value += 1.0
        took.observe(latency_s)

    def _child(self, cluster: str, status: str) -> tuple[Counter, Histogram]:
        who = split_name(cluster)
        child = self._total.labels(*who, status), self._took.labels(*who)
        self._children[cluster, status] = child
        return child

    async def window(self, service: str, release: str, since_at: float, until_at: float) -> Window:
        """What a release answered in the seconds that begin in [since_at, until_at)."""
        cluster = cluster_name(service, release)
        found = [clusters.get(cluster) for at, clusters in self._seconds if since_at <= at < until_at]
        return _window([second for second in found if second])

    def _now(self) -> dict[str, Second]:
        at = int(self._world.time())
        if not self._seconds or self._seconds[-1][0] < at:  # a clock that was set back must not reopen a second
            self._seconds.append((at, {}))
            self._recent.append(self._seconds[-1])
            self._forget(at)
        return self._seconds[-1][1]

    def _forget(self, at: int) -> None:
        while self._seconds[0][0] <= at - KEPT_S:
            self._seconds.popleft()
        while self._recent[0][0] <= at - SLOWEST_KEPT_S:
            for second in self._recent.popleft()[1].values():
                second.slowest = None


def _window(seconds: list[Second]) -> Window:
    latency = [0] * (len(HISTOGRAM_BOUNDS_S) + 1)
    tail: list[tuple[str, float]] = []
    for second in seconds:
        for bucket, count in second.latency.items():
            latency[bucket] += count
        tail.extend((user, took_s) for took_s, user in second.slowest or ())
    return Window(
        requests=sum(second.requests for second in seconds),
        errors=sum(second.errors for second in seconds),
        failed=tuple(user for second in seconds for user in second.failed),
        latency=tuple(latency),
        tail=tuple(tail) if all(second.slowest is not None for second in seconds) else (),
    )


def _status(code: int, failed: bool) -> str:
    """No whole answer is an error, whatever its status began with."""
    return "5xx" if failed else f"{code // 100 or 5}xx"


def _outcome(entry: Entry, flags: frozenset[str]) -> tuple[bool, float]:
    """(whether it is the release's error, latency in seconds)."""
    code = int(entry.status)
    if flags & _HUNG_UP:
        return code >= 500, entry.took_s
    failed = code >= 500 or code == 0 or bool(flags & _CUT_OFF) or _grpc_failed(entry)
    return failed, _latency_s(entry, code)


def _grpc_failed(entry: Entry) -> bool:
    """A call's status comes with HTTP's 200, in the trailers, or in the headers of an answer without a body."""
    status = entry.grpc_header if entry.grpc_trailer == NOTHING else entry.grpc_trailer
    return status in _GRPC_FAILURES


def _latency_s(entry: Entry, code: int) -> float:
    last = entry.first if code == SWITCHING_PROTOCOLS else entry.last
    if last == NOTHING:
        return entry.took_s
    received_us = 0 if entry.received == NOTHING else int(entry.received)
    return max(int(last) - received_us, 0) * 1e-6
