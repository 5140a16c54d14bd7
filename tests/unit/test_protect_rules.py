"""`protect:` from the file through the environment into an instance."""

from __future__ import annotations

from pathlib import Path

import pytest

from gapless.core.errors import ConfigError
from gapless.core.model import Address, Instance, Release, Route
from gapless.core.model import Service as Definition
from gapless.core.protect import BreakerRule, LimitRule, Protect, RateRule
from gapless.fleet.launch import environment
from gapless.resilience.breaker import Breaker, Last
from gapless.resilience.rate import exact, leased, rate
from gapless.service.identity import Identity
from gapless.service.kit import Service
from gapless.service.protect_rules import VARIABLE, guarded, parse, policies, render
from gapless.testing import FakeWorld
from tests.unit.test_protect import Client, app_of

WHOLE = Protect(
    deadline_s=2.0,
    rate=RateRule(limit=100, per_s=60.0, burst=7, by="user"),
    limit=LimitRule(max=9, queue=3, wait_s=0.5),
    breaker=BreakerRule(rate=0.25, slow_s=1.0, open_for_s=7.0),
)


def definition(protect: Protect | None, *routes: Route) -> Definition:
    return Definition(name="orders", app="a:b", protect=protect, routes=routes)


def test_a_service_without_policies_is_given_none() -> None:
    assert render(definition(None, Route(path="/a"))) == ""


def test_rules_come_back_as_they_were() -> None:
    narrow = Route(path="/a", protect=Protect(limit=LimitRule(max=1, adaptive=True)))
    rules = parse(render(definition(WHOLE, narrow, Route(path="/b"))))
    assert (rules.protect, rules.routes) == (WHOLE, (narrow,))


def test_what_cannot_be_read_names_the_variable() -> None:
    with pytest.raises(ConfigError, match=VARIABLE):
        parse('{"protect": 3}')


def test_rules_become_policies_in_the_safe_order() -> None:
    found = policies(WHOLE, {})
    assert [policy.kind for policy in found] == ["deadline", "rate", "breaker", "limit"]
    made = found[2]
    assert isinstance(made, Breaker)
    assert (made.rate, made.slow_s, made.window, made.open_for.first_s) == (0.25, 1.0, Last(seconds=10.0), 7.0)
    assert policies(Protect(), {}) == ()
    assert policies(Protect(limit=LimitRule(max=5, adaptive=True)), {})


def test_a_shared_rate_counts_on_the_redis_of_its_url() -> None:
    url = "redis://:${PASSWORD}@cache:6379/0"
    for rule, wanted in [
        (RateRule(limit=5, shared=url), exact("redis://:secret@cache:6379/0")),
        (RateRule(limit=5, shared=url, leased=True), leased("redis://:secret@cache:6379/0")),
    ]:
        assert policies(Protect(rate=rule), {"PASSWORD": "secret"}) == (rate("5/1s", shared=wanted),)
    with pytest.raises(ConfigError, match="no variable 'PASSWORD'"):
        policies(Protect(rate=rule), {})


def test_routes_have_their_own_guards_over_the_service_s() -> None:
    narrow = Route(path="/a", protect=Protect(deadline_s=1.0))
    hosted = Route(path="/a", host="b.example", protect=Protect())
    found = guarded("orders", parse(render(definition(WHOLE, narrow, hosted))), {})
    assert [(each.place, each.guard, len(each.policies)) for each in found] == [
        (("*", "/a"), "orders /a", 4),
        (("b.example", "/a"), "orders b.example/a", 4),
        (("*", "/"), "orders", 4),
    ]


def test_the_fleet_hands_them_over_and_never_the_control_plane_s_own(tmp_path: Path) -> None:
    instance = Instance(id="orders-1", service="orders", release="1", address=Address(host="127.0.0.1", port=1))
    release = Release(service="orders", version="1", digest="", source="")
    for protect in (WHOLE, None):
        service = definition(protect)
        env = environment({VARIABLE: "mine"}, instance, release, service, tmp_path, None)
        assert env.get(VARIABLE, "") == render(service)


async def test_the_kit_puts_them_before_the_app_but_not_before_the_probes() -> None:
    rules = render(definition(Protect(rate=RateRule(limit=2, per_s=60.0, by="user"))))
    service = Service("orders", app_of(), identity=Identity(protect=rules), world=FakeWorld())
    assert [(await Client(service, x_user_id="ada").ask()).status for _ in range(3)] == [200, 200, 429]
    assert (await Client(service, x_user_id="bob").ask()).status == 200
    assert (await Client(service, "/livez", x_user_id="ada").ask()).status == 200
    samples = {sample["name"]: sample["values"] for sample in service.samples()}
    assert [["orders", "rejected"], 1.0] in samples["gapless_guard_calls"]
    assert [["orders", "rate", "rejected"], 1.0] in samples["gapless_guard_policy_events"]


def test_a_wrong_variable_stops_the_start_and_says_so() -> None:
    service = Service("orders", app_of(), identity=Identity(protect="{"), world=FakeWorld())
    with pytest.raises(ConfigError, match=VARIABLE):
        _ = service.app
