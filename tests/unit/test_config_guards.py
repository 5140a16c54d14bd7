"""`protect:` in gapless.yaml."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless.config import load
from gapless.config.guards import quota, span
from gapless.core import codec
from gapless.core.errors import ConfigError
from gapless.core.model import Service
from gapless.core.protect import BreakerRule, LimitRule, Protect, RateRule

HEAD = """system: shop
services:
  orders:
    app: shop.orders:app
    routes: [/, {path: /search, protect: {rate: 10/s}}]
    protect: """


def protect(tmp_path: Path, text: str) -> Service:
    (tmp_path / "gapless.yaml").write_text(HEAD + text)
    return load(tmp_path).services["orders"]


def test_short_forms(tmp_path: Path) -> None:
    found = protect(tmp_path, "{rate: 100/s, limit: 50, breaker: 25%, deadline: 2s}")
    assert found.protect == Protect(
        deadline_s=2.0,
        rate=RateRule(limit=100),
        limit=LimitRule(max=50),
        breaker=BreakerRule(rate=0.25),
    )
    assert [route.protect for route in found.routes] == [None, Protect(rate=RateRule(limit=10))]


def test_long_forms(tmp_path: Path) -> None:
    found = protect(
        tmp_path,
        "{rate: {limit: 600/min, burst: 20, by: user, shared: 'redis://h/0', leased: true},"
        " limit: {max: 9, adaptive: true, queue: 4, wait: 50ms},"
        " breaker: {rate: 10%, slow: 1s, window: 100, minimum: 30, open_for: 2s, probes: 1, max_requests: 7}}",
    )
    assert found.protect == Protect(
        rate=RateRule(limit=600, per_s=60.0, burst=20, by="user", shared="redis://h/0", leased=True),
        limit=LimitRule(max=9, adaptive=True, queue=4, wait_s=0.05),
        breaker=BreakerRule(
            rate=0.1, slow_s=1.0, window_calls=100, window_s=0.0, minimum=30, open_for_s=2.0, probes=1, max_requests=7
        ),
    )
    assert codec.decode(codec.encode(found), Service) == found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{rate: fast}", 'rate.limit: "fast": not a rate; write for instance "100/s", "600/min" or "5/10s"'),
        ("{rate: 0/s}", "a rate is above 0"),
        ("{rate: {limit: 1/s, by: usr}}", 'did you mean "user"?'),
        ("{rate: {limit: 1/s, bust: 2}}", 'rate.bust: unknown key; did you mean "burst"?'),
        ("{rate: {limit: 1/s, leased: true}}", "`leased` needs `shared`"),
        ("{rate: {limit: 1/s, shared: cache}}", "rate.shared"),
        ("{limit: 0}", "limit.max: 0 must be at least 1"),
        ("{breaker: 50}", "write it with the sign"),
        ("{breaker: 0%}", "breaker.rate: 0% must be above 0"),
        ("{breaker: {window: 0}}", "a window is a number of calls"),
        ("{breaker: {window: 10, minimum: 20}}", "never holds the 20"),
        ("{deadline: 0}", "deadline: 0 must be above 0"),
        ("{brake: 50%}", 'unknown key; did you mean "breaker"?'),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        protect(tmp_path, text)
    (line,) = caught.value.what.splitlines()
    assert "gapless.yaml:6: services.orders.protect" in line
    assert said in line


def test_a_route_goes_before_its_service_policy_by_policy() -> None:
    wider = Protect(deadline_s=2.0, rate=RateRule(limit=100))
    assert Protect(rate=RateRule(limit=5)).over(wider) == Protect(deadline_s=2.0, rate=RateRule(limit=5))
    assert Protect().over(None) == Protect()


@given(st.integers(1, 10**6), st.integers(1, 3600))
def test_rates_agree_across_units(count: int, seconds: int) -> None:
    assert quota(f"{count}/{seconds}s") == quota(f"{count} / {seconds * 1000} ms") == (count, pytest.approx(seconds))
    assert quota(f"{count}/min") == quota(f"{count}/60s") == quota(f"{count}/1m")


def test_windows() -> None:
    assert (span("100"), span("10s"), span("500ms")) == ((100, 0.0), (0, 10.0), (0, 0.5))
