"""What an instance has answered, by its own count: the counters of its admin socket, as a `Window` since its start."""

from __future__ import annotations

from bisect import bisect_left

from gapless.core.model import HISTOGRAM_BOUNDS_S, Window

REQUESTS = "gapless_requests"
DURATIONS = "gapless_request_duration_seconds"
FAILED = "5xx"


def figures(text: str) -> Window:
    """From the Prometheus text of `/metrics`. Latencies are as coarse as the instance's own buckets: each counts at its
    upper bound. Raises ValueError when it is not that format."""
    from prometheus_client.parser import text_string_to_metric_families

    requests = errors = 0
    below: dict[float, int] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == f"{REQUESTS}_total":
                requests += int(sample.value)
                errors += int(sample.value) if sample.labels["status"] == FAILED else 0
            elif sample.name == f"{DURATIONS}_bucket":
                bound = float(sample.labels["le"])
                below[bound] = below.get(bound, 0) + int(sample.value)
    return Window(requests=requests, errors=errors, latency=_rebinned(below))


def _rebinned(below: dict[float, int]) -> tuple[int, ...]:
    """Cumulative counts by upper bound, as counts by the model's bounds."""
    latency, before = [0] * (len(HISTOGRAM_BOUNDS_S) + 1), 0
    for bound in sorted(below):
        latency[bisect_left(HISTOGRAM_BOUNDS_S, bound)] += below[bound] - before
        before = below[bound]
    return tuple(latency)
