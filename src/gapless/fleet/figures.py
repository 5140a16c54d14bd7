"""What an instance has answered, by its own count: the counters of its admin socket, as a `Window` since its start."""

from __future__ import annotations

from bisect import bisect_left

from gapless.core.model import HISTOGRAM_BOUNDS_S, Window
from gapless.observe.metrics import Meter
from gapless.observe.process import ProcessMetrics

REQUESTS = "gapless_requests"
DURATIONS = "gapless_request_duration_seconds"
FAILED = frozenset({"5xx", "UNKNOWN", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "DEADLINE_EXCEEDED"})
"""Of HTTP; and codes of gRPC, as instances of earlier builds tell them. The other codes are answers."""


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
                errors += int(sample.value) if sample.labels["status"] in FAILED else 0
            elif sample.name == f"{DURATIONS}_bucket":
                bound = float(sample.labels["le"])
                below[bound] = below.get(bound, 0) + int(sample.value)
    return Window(requests=requests, errors=errors, latency=_rebinned(below))


def process_text(pid: int) -> str:
    """What a process takes, as OpenMetrics text; empty when it has ended."""
    from gapless.service.admin import render

    meter = Meter()
    ProcessMetrics(meter).read(pid)
    return render(meter.samples(), open_metrics=True).decode()


def _rebinned(below: dict[float, int]) -> tuple[int, ...]:
    """Cumulative counts by upper bound, as counts by the model's bounds."""
    latency, before = [0] * (len(HISTOGRAM_BOUNDS_S) + 1), 0
    for bound in sorted(below):
        latency[bisect_left(HISTOGRAM_BOUNDS_S, bound)] += below[bound] - before
        before = below[bound]
    return tuple(latency)
