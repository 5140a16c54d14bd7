"""Counters over many restarts: they never go backwards, and what is kept does not grow."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gapless.observe.metrics import Meter
from gapless.server.master.archive import Archive
from gapless.service.admin import render

RESTARTS = 1_000
ROUTES = ("/", "/orders", "/orders/{id}", "/payments")


def life(requests: int) -> list[dict[str, Any]]:
    """What a worker tells at its end: counters and histograms by method, route and status, and a gauge."""
    meter = Meter()
    total = meter.counter("requests", "Requests answered", ("method", "route", "status"))
    took = meter.histogram("request_duration_seconds", "Time to answer", ("method", "route"))
    meter.gauge("requests_in_flight", "Requests being answered").labels().set(3)
    for number in range(requests):
        labels = ("GET" if number % 3 else "POST", ROUTES[number % len(ROUTES)])
        total.labels(*labels, "2xx" if number % 10 else "5xx").inc()
        took.labels(*labels).observe(number / 100)
    return meter.samples()


def count(samples: Sequence[dict[str, Any]], name: str) -> float:
    found = [state for sample in samples if sample["name"] == name for _, state in sample["values"]]
    return sum(sum(state[1:]) if isinstance(state, list) else state for state in found)


def test_a_thousand_restarts_keep_every_count_and_no_more_than_one_worker_would() -> None:
    archive, before = Archive(), 0.0
    ended, fresh = life(120), life(5)
    archive.add(0, ended)
    size = len(json.dumps(archive.as_plain()))
    for key in range(1, RESTARTS):
        shown = archive.total({key: fresh})
        now = count(shown, "requests")
        assert now >= before
        assert now == count(shown, "request_duration_seconds") == key * 120 + 5
        before = now
        archive.add(key, ended)
        archive.forget(key)
    assert len(json.dumps(archive.as_plain())) < 2 * size
    assert len(render(archive.total({}))) < 2 * len(render(life(120)))


def test_what_was_shown_of_a_worker_is_not_counted_twice_when_it_ends() -> None:
    archive = Archive()
    archive.total({1: life(10)})
    archive.add(1, life(12))
    archive.add(1, life(12))
    assert count(archive.total({1: life(10)}), "requests") == 12


def sample(labels: list[str], value: float) -> list[dict[str, Any]]:
    values = [[["x"] * len(labels), value]]
    return [{"name": "n", "kind": "counter", "help": "", "labels": labels, "values": values}]


def test_a_release_with_other_labels_is_shown_and_the_counts_of_both_are_kept() -> None:
    archive = Archive()
    archive.add(1, sample(["a"], 5))
    assert count(archive.total({2: sample(["a", "b"], 1)}), "n") == 6  # the label that came later is empty
    archive.add(2, sample(["a", "b"], 2))
    archive.add(3, sample(["a"], 1))
    assert count(archive.total({4: sample(["a"], 1)}), "n") == 7
    assert count(archive.total({4: sample(["a", "b"], 1)}), "n") == 9


@given(st.lists(st.tuples(st.sampled_from(["add", "show"]), st.integers(0, 5)), max_size=30))
def test_counters_never_go_backwards(steps: list[tuple[str, int]]) -> None:
    archive, live, before = Archive(), 0, 0.0
    for key, (what, more) in enumerate(steps):
        live += more
        if what == "add":
            archive.add(key, sample([], live))
            archive.forget(key)
            live = 0
        now = count(archive.total({key + 1: sample([], live)}), "n")
        assert now >= before
        before = now
