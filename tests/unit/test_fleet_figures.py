"""An instance's own counters, read as a window since its start."""

from __future__ import annotations

import pytest

from gapless.control.figures import minus, plus
from gapless.core.model import HISTOGRAM_BOUNDS_S, Window
from gapless.fleet.figures import figures
from gapless.observe.metrics import Meter
from gapless.service.admin import render


def text(*answers: tuple[str, str, float]) -> str:
    meter = Meter()
    total = meter.counter("gapless_requests", "Requests answered", ("method", "status"))
    took = meter.histogram("gapless_request_duration_seconds", "Time to answer", ("method", "status"))
    for method, status, seconds in answers:
        total.labels(method, status).inc()
        took.labels(method, status).observe(seconds)
    return render(meter.samples()).decode()


def test_requests_errors_and_latencies_of_all_methods_together() -> None:
    found = figures(text(("GET", "2xx", 0.004), ("POST", "5xx", 0.2), ("POST", "2xx", 99.0)))
    assert (found.requests, found.errors) == (3, 1)
    assert sum(found.latency) == 3
    assert found.latency[-1] == 1
    slowest_known = max(place for place, count in enumerate(found.latency[:-1]) if count)
    assert 0.2 <= HISTOGRAM_BOUNDS_S[slowest_known] <= 0.25 * 1.25


def test_codes_of_grpc_that_are_answers_are_no_errors() -> None:
    codes = ("OK", "NOT_FOUND", "CANCELLED", "RESOURCE_EXHAUSTED", "UNKNOWN", "UNAVAILABLE", "DEADLINE_EXCEEDED")
    found = figures(text(*(("/shop.Orders/Get", code, 0.01) for code in codes)))
    assert (found.requests, found.errors) == (7, 3)


def test_a_fresh_instance_has_answered_nothing() -> None:
    assert figures(text()).requests == 0


def test_what_is_no_metrics_text_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"could not convert|parse|invalid"):
        figures('gapless_requests_total{status="2xx"} many')


def test_between_two_counts() -> None:
    before, after = Window(requests=3, errors=1, latency=(1, 2)), Window(requests=10, errors=1, latency=(4, 6))
    assert minus(after, before) == Window(requests=7, errors=0, latency=(3, 4))
    assert minus(before, after) == Window(requests=0, errors=0, latency=(0, 0))
    assert plus(Window(), after) == after
