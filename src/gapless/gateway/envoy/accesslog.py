"""What each release answered, second by second, from Envoy's access-log stream (`core.ports.Metrics`).

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

from gapless.core.model import HISTOGRAM_BOUNDS_S, Window
from gapless.core.ports import World
from gapless.gateway.envoy.clusters import cluster_name, split_name

KEPT_S = 900
"""How far back windows can look. A busy release costs some 2 kB a second."""

FAILED_PER_SECOND = 1_000
"""Failing users that are remembered by name, per release and second; errors beyond it are counted all the same."""

SLOWEST_PER_SECOND = 256
"""Slowest answers that are remembered with their user, per release and second: at least 2 % up to 12,800 requests/s."""
SLOWEST_KEPT_S = 60
"""The analysis looks every second; what it has missed for so long it judges by the histogram alone."""

SWITCHING_PROTOCOLS = 101

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

    def add(self, failed: bool, user: str, latency_s: float) -> None:
        self.requests += 1
        if self.slowest is not None:
            push = heappush if len(self.slowest) < SLOWEST_PER_SECOND else heappushpop
            push(self.slowest, (latency_s, user))
        bucket = bisect_left(HISTOGRAM_BOUNDS_S, latency_s)
        self.latency[bucket] = self.latency.get(bucket, 0) + 1
        if failed:
            self.errors += 1
            if len(self.failed) < FAILED_PER_SECOND:
                self.failed.append(user)


class AccessLog:
    """The last fifteen minutes of every release. Implements `core.ports.Metrics`."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._seconds: deque[tuple[int, dict[str, Second]]] = deque()
        """(second since the epoch, cluster → what it answered), oldest first."""
        self._recent: deque[tuple[int, dict[str, Second]]] = deque()
        """Those of them that still hold their slowest answers."""

    def take(self, message: Any) -> None:
        """Count the entries of an envoy.service.accesslog.v3.StreamAccessLogsMessage."""
        now = self._now()
        for entry in message.http_logs.log_entry:
            common = entry.common_properties
            cluster = cluster_name(*split_name(common.upstream_cluster))
            if cluster != NOBODY and not common.response_flags.rate_limited:
                failed, latency_s = _outcome(entry.response, common)
                user = entry.request.request_headers.get("x-user-id", "")
                now.setdefault(cluster, Second()).add(failed, user, latency_s)

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


def _outcome(response: Any, common: Any) -> tuple[bool, float]:
    """(whether it is the release's error, latency in seconds)."""
    code = response.response_code.value
    flags = common.response_flags
    if flags.downstream_connection_termination or flags.downstream_remote_reset:
        return code >= 500, _seconds(common.duration)
    failed = code >= 500 or code == 0 or _cut_off(flags)
    return failed, _latency_s(common, code)


def _cut_off(flags: Any) -> bool:
    """The status was already sent, but the rest of the response never came."""
    return bool(
        flags.upstream_remote_reset
        or flags.upstream_connection_termination
        or flags.upstream_request_timeout
        or flags.upstream_protocol_error
        or flags.stream_idle_timeout
    )


def _latency_s(common: Any, code: int) -> float:
    upgraded = code == SWITCHING_PROTOCOLS
    last = "time_to_first_upstream_rx_byte" if upgraded else "time_to_last_upstream_rx_byte"
    if not common.HasField(last):
        return _seconds(common.duration)
    return max(_seconds(getattr(common, last)) - _seconds(common.time_to_last_rx_byte), 0.0)


def _seconds(duration: Any) -> float:
    return float(duration.seconds) + float(duration.nanos) * 1e-9
