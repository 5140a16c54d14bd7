"""`protect:` changed while an instance works."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from gapless.core.codec import encode
from gapless.core.model import BUCKETS, Route, RouteTable, ServiceTable, Split
from gapless.core.protect import LimitRule, Protect, RateRule
from gapless.discovery.directory import Directory
from gapless.resilience.limit import limit
from gapless.service.identity import Identity
from gapless.service.kit import Service
from gapless.service.protect_rules import Rules, render
from gapless.service.protection import Protection
from gapless.testing import FakeWorld
from tests.unit.test_protect import Client, app_of
from tests.unit.test_protect_rules import definition

TWO = Protect(rate=RateRule(limit=2, per_s=3600.0, by="user"))


def told(protect: Protect | None, *routes: Route, service: str = "orders") -> RouteTable:
    split = Split(service=service, stable="1", weights=(("1", BUCKETS),))
    table = ServiceTable(service=service, split=split, endpoints=(), routes=routes, protect=protect)
    return RouteTable(version=1, services=(table,))


def protection(protect: Protect | None = TWO, *routes: Route) -> Protection:
    found = Protection("orders", app_of(), FakeWorld(), {})
    found.take(Rules(protect=protect, routes=routes))
    return found


async def statuses(found: Protection | Service, count: int, path: str = "/", user: str = "ada") -> list[int]:
    app = found if isinstance(found, Service) else found.app
    return [(await Client(app, path, x_user_id=user).ask()).status for _ in range(count)]


async def test_a_change_keeps_what_has_been_used() -> None:
    found = protection()
    assert await statuses(found, 1) == [200]
    found.follow(told(Protect(rate=RateRule(limit=4, per_s=7200.0, by="user"), deadline_s=3.0)))
    assert await statuses(found, 5) == [200, 200, 200, 429, 429]


async def test_routes_come_and_go() -> None:
    found = protection(None)
    assert await statuses(found, 3) == [200, 200, 200]
    narrow = Route(path="/a", protect=Protect(rate=RateRule(limit=1, per_s=3600.0)))
    found.follow(told(None, narrow, Route(path="/b")))
    assert await statuses(found, 2, "/a") == [200, 429]
    assert await statuses(found, 2, "/b") == [200, 200]
    found.follow(told(TWO))
    assert await statuses(found, 3, "/a") == [200, 200, 429]
    found.follow(told(None))
    assert await statuses(found, 3, "/a") == [200, 200, 200]


async def test_other_services_and_the_same_rules_change_nothing() -> None:
    found = protection()
    seen = found.guards.get("orders").policies
    found.follow(told(None, service="stock"))
    found.follow(told(TWO))
    assert found.guards.get("orders").policies is seen


async def test_wrong_rules_change_nothing_and_the_log_says_why_once(caplog: pytest.LogCaptureFixture) -> None:
    found = protection()
    assert await statuses(found, 1) == [200]
    wrong = Protect(rate=RateRule(limit=9, shared="redis://:${SECRET}@cache"), limit=LimitRule(max=1))
    with caplog.at_level(logging.INFO):
        found.follow(told(wrong))
        found.follow(told(wrong))
    (said,) = [record.getMessage() for record in caplog.records]
    assert "protect stays as it is" in said
    assert "no variable 'SECRET'" in said
    assert await statuses(found, 2) == [200, 429]
    found.follow(told(TWO))
    assert await statuses(found, 1) == [429]


async def test_what_changed_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    found = protection()
    with caplog.at_level(logging.INFO):
        found.follow(told(replace(TWO, limit=LimitRule(max=3))))
    assert f"added {limit(3)}" in caplog.text


async def test_the_kit_follows_the_routing_table() -> None:
    world = FakeWorld()
    gate = [told(TWO), told(Protect(rate=RateRule(limit=3, per_s=3600.0, by="user")))]

    async def stream():
        while True:
            while gate:
                yield encode(gate.pop(0))
            await world.sleep(1.0)

    narrow = render(definition(Protect(rate=RateRule(limit=1, per_s=3600.0, by="user"))))
    identity = Identity(protect=narrow, discovery="control.sock")
    service = Service("orders", app_of(), identity=identity, world=world, directory=Directory(world, stream=stream))
    await service.start()
    assert service.policies.all.keys() == {"protect"}
    service.guards.define("payments", limit(3))
    assert service.policies.all.keys() == {"guards", "protect"}
    await world.advance(0.1)
    assert await statuses(service, 4) == [200, 200, 200, 429]
    gate.append(told(None))
    await world.advance(2)
    assert await statuses(service, 4) == [200] * 4
    samples = {sample["name"]: sample["values"] for sample in service.samples()}
    assert [["orders", "rejected"], 1.0] in samples["gapless_guard_calls"]
    assert [["payments", "limit", "limit"], 3.0] in samples["gapless_guard_policy_value"]
    service.announce()
    assert await service.finish(1.0)
    await service.close(1.0)


async def test_a_source_s_table_of_the_service_itself_lifts_nothing() -> None:
    world = FakeWorld()
    narrow = render(definition(Protect(rate=RateRule(limit=1, per_s=3600.0, by="user"))))
    identity = Identity(protect=narrow, discovery="static://127.0.0.1:9")
    service = Service("orders", app_of(), identity=identity, world=world)
    service.client("orders")
    await service.start()
    await world.settle()
    assert service.directory.service("orders") is not None
    assert await statuses(service, 2) == [200, 429]
    await service.finish(1.0)
    await service.close(1.0)
