"""`protect:` in the real Envoy: rates refuse, breakers open, and a change of either loses nothing."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio

from gapless.core.model import Route
from gapless.core.protect import BreakerRule, Protect, RateRule
from tests.integration.envoy_kit import Rig, ask, running, service, table

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def envoy() -> AsyncIterator[Rig]:
    async with running() as rig:
        yield rig


@pytest_asyncio.fixture(loop_scope="module")
async def rig(envoy: Rig) -> AsyncIterator[Rig]:
    yield envoy
    await envoy.clear()


async def statuses(rig: Rig, path: str, count: int, **headers: str) -> Counter[int]:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return Counter([(await ask(rig.port, path, headers=given)).status for _ in range(count)])


async def test_a_rate_refuses_what_is_above_it_and_says_when_to_come_back(rig: Rig) -> None:
    one = (await rig.upstream("one")).endpoint("1")
    slow = Protect(rate=RateRule(limit=6, per_s=60.0))
    other = service([(await rig.upstream("two")).endpoint("1")], name="stock")
    await rig.traffic.apply(table(replace(service([one]), protect=slow), other))
    assert await statuses(rig, "/orders", 10) == {200: 6, 429: 4}
    refused = await ask(rig.port, "/orders/7")
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.headers["retry-after"] == "10"
    assert refused.headers["x-ratelimit-remaining"] == "0"
    body = json.loads(refused.body)
    assert (body["status"], body["policy"], body["type"]) == (429, "rate", "about:blank")
    assert await statuses(rig, "/stock", 30) == {200: 30}
    assert "x-ratelimit-limit" not in (await ask(rig.port, "/stock")).headers
    assert (await ask(rig.port, "/nowhere")).status == 404


async def test_all_ways_to_one_route_share_its_bucket_and_each_route_has_its_own(rig: Rig) -> None:
    """Two releases: overrides by header, known and unknown visitors are routes of their own in Envoy."""
    old, new = await rig.upstream("old"), await rig.upstream("new")
    found = service([old.endpoint("1"), new.endpoint("2")], canary=5_000)
    rated = Route(path="/orders", protect=Protect(rate=RateRule(limit=8, per_s=60.0)))
    search = Route(path="/orders/search", protect=Protect(rate=RateRule(limit=2, per_s=60.0)))
    await rig.traffic.apply(table(replace(found, routes=(rated, search))))
    total = await statuses(rig, "/orders", 4) + await statuses(rig, "/orders", 4, x_gapless_release="2")
    total += await statuses(rig, "/orders", 4, x_user_id="ada")
    assert total == {200: 8, 429: 4}
    assert await statuses(rig, "/orders/search", 4) == {200: 2, 429: 2}


async def test_each_user_has_a_rate_and_whoever_is_unknown_shares_that_of_the_address(rig: Rig) -> None:
    one = (await rig.upstream("one")).endpoint("1")
    per_user = Protect(rate=RateRule(limit=3, per_s=60.0, by="user"))
    await rig.traffic.apply(table(replace(service([one]), protect=per_user)))
    for user in ("ada", "bob", "eve"):
        assert await statuses(rig, "/orders", 5, x_user_id=user) == {200: 3, 429: 2}
    assert await statuses(rig, "/orders", 5) == {200: 3, 429: 2}


async def test_a_burst_and_a_refill(rig: Rig) -> None:
    one = (await rig.upstream("one")).endpoint("1")
    await rig.traffic.apply(table(replace(service([one]), protect=Protect(rate=RateRule(limit=2, per_s=0.5, burst=5)))))
    assert (await statuses(rig, "/orders", 12))[200] >= 5
    await asyncio.sleep(1.2)
    began = time.monotonic()
    admitted = (await statuses(rig, "/orders", 12))[200]
    assert 2 <= admitted <= 7 + (time.monotonic() - began) / 0.25


async def test_a_breaker_opens_when_every_instance_fails_too_often(rig: Rig) -> None:
    one, two = await rig.upstream("one"), await rig.upstream("two")
    breaker = BreakerRule(rate=0.5, window_s=0.5, minimum=5, open_for_s=30.0)
    found = replace(service([one.endpoint("1"), two.endpoint("1")]), protect=Protect(breaker=breaker))
    await rig.traffic.apply(table(found))
    assert await statuses(rig, "/orders", 10) == {200: 10}
    async with asyncio.timeout(20):
        while 503 not in await statuses(rig, "/orders?status=500", 20):
            await asyncio.sleep(0.1)
    seen = len(one.seen) + len(two.seen)
    assert await statuses(rig, "/orders", 5) == {503: 5}
    assert len(one.seen) + len(two.seen) == seen


async def test_thresholds_bound_what_runs_and_waits(rig: Rig) -> None:
    one = (await rig.upstream("one")).endpoint("1")
    tight = Protect(breaker=BreakerRule(max_requests=2))
    await rig.traffic.apply(table(replace(service([one]), protect=tight)))
    answers = await asyncio.gather(*(ask(rig.port, "/orders?wait=0.5") for _ in range(12)))
    refused = [a for a in answers if a.status == 503]
    assert 1 <= len(refused) <= 10
    assert json.loads(refused[0].body)["policy"] == "breaker"
    assert refused[0].headers["retry-after"] == "1"


async def test_another_breaker_is_another_cluster_and_loses_no_request_under_way(rig: Rig) -> None:
    one = (await rig.upstream("one")).endpoint("1")
    await rig.traffic.apply(table(service([one])))
    under_way = asyncio.gather(*(ask(rig.port, "/orders?wait=1.5") for _ in range(10)))
    await asyncio.sleep(0.3)
    changed = replace(service([one]), protect=Protect(breaker=BreakerRule(), rate=RateRule(limit=1000)))
    await rig.traffic.apply(table(changed, version=2))
    assert await statuses(rig, "/orders", 20) == {200: 20}
    await rig.traffic.apply(table(service([one]), version=3))
    assert Counter(a.status for a in await under_way) == {200: 10}


async def test_figures_are_the_release_s_whatever_its_breaker_and_leave_out_what_a_rate_refused(rig: Rig) -> None:
    one = (await rig.upstream("one")).endpoint("1")
    protect = Protect(breaker=BreakerRule(rate=0.9, minimum=1000), rate=RateRule(limit=7, per_s=60.0))
    since = rig.traffic._world.time()
    await rig.traffic.apply(table(replace(service([one], name="figures"), protect=protect)))
    assert await statuses(rig, "/figures", 10) == {200: 7, 429: 3}

    async def counted() -> int:
        return (await rig.traffic.window("figures", "1", since - 1, since + 60)).requests

    await asyncio.sleep(0.8)
    async with asyncio.timeout(10):
        while await counted() < 7:
            await asyncio.sleep(0.05)
    await asyncio.sleep(0.5)
    assert await counted() == 7


async def test_endpoints_that_come_and_go_leave_the_buckets_and_new_routes_fill_them(rig: Rig) -> None:
    """What docs/configuration.md says of a change."""
    one, two = (await rig.upstream("one")).endpoint("1"), (await rig.upstream("two")).endpoint("1")
    protect = Protect(rate=RateRule(limit=3, per_s=3600.0))
    await rig.traffic.apply(table(replace(service([one]), protect=protect)))
    assert await statuses(rig, "/orders", 5) == {200: 3, 429: 2}
    await rig.traffic.apply(table(replace(service([one, two]), protect=protect), version=2))
    assert await statuses(rig, "/orders", 2) == {429: 2}
    await rig.traffic.apply(table(replace(service([one, two], timeout_s=9.0), protect=protect), version=3))
    assert await statuses(rig, "/orders", 5) == {200: 3, 429: 2}
