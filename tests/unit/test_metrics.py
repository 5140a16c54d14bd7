"""Metrics of a worker."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gapless.observe.metrics import DURATION_BOUNDS_S, Histogram, Meter


@settings(deadline=None)
@given(st.lists(st.floats(0, 100), max_size=50))
def test_every_observation_is_in_the_bucket_of_its_bound(values: list[float]) -> None:
    histogram = Histogram(DURATION_BOUNDS_S)
    for value in values:
        histogram.observe(value)
    assert sum(histogram.counts) == len(values)
    for i, bound in enumerate(DURATION_BOUNDS_S):
        assert sum(histogram.counts[: i + 1]) == sum(value <= bound for value in values)


def test_a_snapshot_is_json_and_does_not_change_afterwards() -> None:
    meter = Meter()
    requests = meter.counter("requests", "Requests", ("method",))
    requests.labels("GET").inc()
    took = meter.histogram("took_seconds", "Time", bounds=(0.1, 1.0)).labels()
    took.observe(0.5)
    meter.gauge("open", "Open").labels().set(3)
    before = meter.samples()
    requests.labels("GET").inc(2)
    took.observe(0.5)
    assert json.loads(json.dumps(before)) == before
    assert [sample["values"] for sample in before] == [[[["GET"], 1.0]], [[[], [0.5, 0, 1, 0]]], [[[], 3]]]
    assert before[1]["bounds"] == [0.1, 1.0]


def test_a_name_is_one_family() -> None:
    meter = Meter()
    assert meter.counter("x", "X").labels() is meter.counter("x", "X").labels()
    with pytest.raises(ValueError, match="exists already as a counter"):
        meter.gauge("x", "X")


def test_gauges_are_read_when_asked() -> None:
    meter = Meter()
    depth = meter.gauge("depth", "Depth").labels()
    meter.before_samples(lambda: depth.set(7))
    assert meter.samples()[0]["values"] == [[[], 7]]
