"""A summary adds up exactly, and its quantiles are right to 1 %."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from gapless.load.cause import Cause
from gapless.load.summary import GROWTH, Latencies, Record, Tally

latencies = st.lists(st.floats(2e-6, 100), min_size=1, max_size=200)
records = st.builds(
    Record,
    n=st.integers(0, 1000),
    due_at=st.just(0.0),
    latency_s=st.floats(0, 10),
    cause=st.sampled_from(["", "", *Cause]),
    user=st.sampled_from(["", "1", "2", "3"]),
    release=st.sampled_from(["", "1.0", "1.1"]),
    late=st.booleans(),
)


@given(values=latencies, share=st.floats(0.001, 1))
def test_a_quantile_is_the_true_one_or_at_most_one_percent_above(values: list[float], share: float) -> None:
    histogram = Latencies()
    for value in values:
        histogram.add(value)
    true = sorted(values)[max(1, math.ceil(share * len(values))) - 1]
    assert true * (1 - 1e-9) <= histogram.quantile(share) <= true * GROWTH * (1 + 1e-9)


def test_no_requests_no_quantile() -> None:
    assert Latencies().quantile(0.5) == 0.0


@given(done=st.lists(records, max_size=60), waiting=st.integers(0, 5))
def test_answers_losses_and_waiting_are_the_requests(done: list[Record], waiting: int) -> None:
    tally = Tally(due=len(done) + waiting)
    for record in done:
        tally.add(record)
    summary = tally.summary(10.0)
    assert summary.answered + summary.lost_total + summary.waiting == summary.requests == len(done) + waiting
    assert summary.lost == {cause: n for cause in sorted(Cause) if (n := sum(r.cause == cause for r in done))}
    assert sum(release.requests for release in summary.by_release.values()) == sum(bool(r.release) for r in done)
    for name, release in summary.by_release.items():
        assert release.users == len({r.user for r in done if r.release == name and r.user})
        assert release.lost == sum(bool(r.cause) for r in done if r.release == name)
    assert summary.rate == summary.requests / 10


def test_nothing_at_all() -> None:
    assert Tally().summary(0.0).requests == 0
