"""What the admin socket tells about all workers together."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from gapless.observe.metrics import Meter, Sample
from gapless.service.admin import aggregate, merge, rebinned, render

BOUNDS = (0.1, 1.0)


def worker(gets: int, observed: list[float], bounds: tuple[float, ...] = BOUNDS) -> list[Sample]:
    meter = Meter()
    meter.counter("gapless_requests", "Requests", ("method",)).labels("GET").inc(gets)
    took = meter.histogram("took_seconds", "Time", bounds=bounds).labels()
    for value in observed:
        took.observe(value)
    meter.gauge("open", "Open").labels().set(2)
    return meter.samples()


def told(samples: list[Sample]) -> dict[str, float]:
    """What Prometheus reads, by name and labels."""
    return {
        " ".join([sample.name, *map(str, sample.labels.values())]): sample.value
        for family in text_string_to_metric_families(render(samples).decode())
        for sample in family.samples
    }


def test_workers_are_summed_and_prometheus_reads_them() -> None:
    assert told(merge([worker(3, [0.05, 0.5]), worker(4, [5.0])])) == {
        "gapless_requests_total GET": 7,
        "took_seconds_bucket 0.1": 1,
        "took_seconds_bucket 1.0": 2,
        "took_seconds_bucket +Inf": 3,
        "took_seconds_count": 3,
        "took_seconds_sum": 5.55,
        "open": 4,
    }


def test_merging_changes_nothing_that_it_was_given() -> None:
    one, two = worker(1, [0.5]), worker(2, [0.5])
    before = copy.deepcopy((one, two))
    merge([one, two])
    assert (one, two) == before
    assert merge([]) == []
    assert render([]) == b""


def test_another_builds_buckets_are_moved_and_clashes_left_out() -> None:
    other = worker(1, [0.02, 0.3, 20.0], (0.05, 0.5, 10.0))
    other.append({"name": "open", "kind": "counter", "help": "", "labels": [], "values": [[[], 99]]})
    merged = told(merge([worker(0, []), other]))
    assert [merged[f"took_seconds_bucket {bound}"] for bound in ("0.1", "1.0", "+Inf")] == [1, 2, 3]
    assert merged["open"] == 4


@settings(deadline=None)
@given(st.lists(st.floats(0, 50), max_size=30), st.sets(st.floats(0.01, 40), min_size=1, max_size=6))
def test_rebinning_loses_nothing_and_never_flatters(observed: list[float], wanted: set[float]) -> None:
    sample = worker(0, observed)[1]
    moved = rebinned(sample["values"][0][1], sample["bounds"], sorted(wanted))
    assert sum(moved[1:]) == len(observed)
    for i, bound in enumerate(sorted(wanted)):
        assert sum(moved[1 : i + 2]) <= sum(value <= bound for value in observed)


def health(status: str, check: str = "pass", time: str = "1") -> dict[str, Any]:
    checks = {"db": {"status": check, "latency_ms": 1, "since": "", "detail": time}}
    return {"status": status, "service": "s", "release": "1", "instance": "i", "checks": checks, "time": time}


def test_an_instance_is_as_healthy_as_the_workers_that_accept() -> None:
    for statuses, whole in (
        (["ready", "ready"], "ready"),
        (["ready", "unready"], "unready"),
        (["ready", "starting"], "ready"),
        (["draining", "ready"], "ready"),
        (["draining", "draining"], "draining"),
        (["starting", "starting"], "starting"),
        (["stopped"], "stopped"),
        ([], "stopped"),
    ):
        assert aggregate([health(status) for status in statuses])["status"] == whole


def test_a_failing_check_is_shown() -> None:
    whole = aggregate([health("ready", time="2"), health("unready", "fail", "3"), health("ready", time="1")])
    assert (whole["checks"]["db"]["detail"], whole["time"]) == ("3", "3")
    assert whole["workers"] == {"ready": 2, "unready": 1}
    assert set(aggregate([])) == set(whole)
