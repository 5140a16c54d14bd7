"""`protect:` as Envoy is told it, as properties that hold for every table."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from gapless.core.model import Address, Entrance, Protocol, Route, RouteTable, Upstream
from gapless.core.protect import BreakerRule, Protect, RateRule
from gapless.gateway.envoy.clusters import UPSTREAM, cluster, cluster_name, mark, split_name
from gapless.gateway.envoy.limits import FILTER, bucket, bucket_name, rate_limits, rate_of
from gapless.gateway.envoy.protos import load_messages
from gapless.gateway.envoy.resources import CLUSTER, ROUTES, resources
from gapless.gateway.envoy.routes import referenced, route_configuration
from tests.integration.envoy_kit import service, table

LISTEN = Entrance(listen=Address(host="127.0.0.1", port=8080))

rates = st.builds(
    RateRule,
    limit=st.integers(1, 10**6),
    per_s=st.sampled_from([0.01, 1.0, 60.0]),
    burst=st.integers(0, 100),
    by=st.sampled_from(["", "user", "address"]),
)
breakers = st.builds(
    BreakerRule,
    rate=st.floats(0.001, 1),
    window_s=st.sampled_from([0.0, 0.5, 10.0]),
    minimum=st.integers(1, 1000),
    open_for_s=st.sampled_from([0.5, 5.0]),
    max_requests=st.integers(0, 10),
)
protects = st.builds(Protect, rate=st.none() | rates, breaker=st.none() | breakers)
routes = st.builds(
    Route,
    path=st.sampled_from(["/", "/a", "/a/b"]),
    host=st.sampled_from(["*", "shop.example"]),
    protect=st.none() | protects,
)
upstreams = st.builds(
    Upstream,
    protocol=st.sampled_from(Protocol),
    slow_start_s=st.sampled_from([0.0, 30.0]),
    eject_after=st.sampled_from([0, 5]),
    zones=st.sampled_from([(), ("a",), ("a", "b")]),
    check=st.sampled_from(["", "/readyz"]),
)


@st.composite
def tables(draw: st.DrawFn) -> RouteTable:
    services = [
        replace(
            service([], name=name, routes=draw(st.lists(routes, max_size=3, unique_by=lambda r: (r.path, r.host)))),
            protect=draw(st.none() | protects),
            upstream=draw(upstreams),
        )
        for name in ("orders", "stock")
    ]
    return table(*services)


@given(tables())
def test_every_bucket_that_a_route_takes_from_is_there_and_the_others_take_from_none(found: RouteTable) -> None:
    configuration = route_configuration(found)
    limits = configuration.get("typed_per_filter_config", {}).get(FILTER, {})
    known = {
        (*(entry["key"] for entry in d["entries"]), d["entries"][0]["value"]) for d in limits.get("descriptors", [])
    }
    for route in (r for host in configuration["virtual_hosts"] for r in host["routes"]):
        wanted = route.get("route", {}).get("rate_limits", [])
        assert bool(limits) == (bool(wanted) or FILTER in route.get("typed_per_filter_config", {}))
        for actions in (w["actions"] for w in wanted):
            name = actions[0]["generic_key"]["descriptor_value"]
            assert any(keys[0] == "route" and keys[-1] == name and len(keys) - 1 == len(actions) for keys in known)


@given(tables())
def test_a_cluster_s_name_tells_its_breaker_and_routes_lead_to_what_exists(found: RouteTable) -> None:
    told = resources(found, LISTEN)
    assert referenced(told[ROUTES]["gapless"]) <= told[CLUSTER].keys()
    for one in found.services:
        breaker = one.protect.breaker if one.protect else None
        name = cluster_name(one.service, "1", mark(breaker, one.upstream))
        assert told[CLUSTER][name] == cluster(name, breaker, one.upstream)
        assert split_name(name) == (one.service, "1")


@given(st.none() | breakers, st.none() | breakers, upstreams, upstreams)
def test_equal_names_mean_equal_clusters(
    one: BreakerRule | None, other: BreakerRule | None, first: Upstream, second: Upstream
) -> None:
    if mark(one, first) == mark(other, second):
        assert cluster("x", one, first) == cluster("x", other, second)
    assert mark(None, UPSTREAM) == ""


@given(rates)
def test_a_bucket_fills_at_its_rate(rate: RateRule) -> None:
    made = bucket(rate)
    per_s = made["tokens_per_fill"] / float(made["fill_interval"].rstrip("s"))
    assert abs(per_s - rate.limit / rate.per_s) <= 1 / 0.05
    assert float(made["fill_interval"].rstrip("s")) >= 0.05
    assert made["max_tokens"] == (rate.burst or rate.limit)


def test_envoy_s_messages_take_it_all() -> None:
    protect = Protect(rate=RateRule(limit=5, by="user"), breaker=BreakerRule(max_requests=3))
    found = replace(service([], routes=[Route(path="/a"), Route(path="/b", protect=protect)]), protect=protect)
    load_messages().snapshot(resources(table(found, service([], name="stock")), LISTEN))


def test_without_rates_nothing_is_said() -> None:
    found = table(service([]))
    assert rate_limits(found) == {}
    assert "typed_per_filter_config" not in route_configuration(found)


def test_a_route_s_rate_goes_before_its_service_s() -> None:
    own, wide = RateRule(limit=1), RateRule(limit=9)
    narrow = Route(path="/a", protect=Protect(rate=own))
    found = replace(service([], routes=[narrow, Route()]), protect=Protect(rate=wide))
    assert [rate_of(found, route) for route in found.routes] == [own, wide]
    assert bucket_name("orders", narrow) == "orders */a"
