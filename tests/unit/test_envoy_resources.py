"""What Envoy is told, as properties that hold for every table."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless.core.model import BUCKETS, Address, Endpoint, Entrance, Route, RouteTable, ServiceTable, Split, SplitBy
from gapless.gateway.envoy.clusters import cluster, cluster_name, load, split_name
from gapless.gateway.envoy.parts import Parts
from gapless.gateway.envoy.resources import (
    CLUSTER,
    LISTENER,
    LOAD,
    ROUTES,
    RUNTIME,
    Resources,
    joined_load,
    resources,
    stages,
)
from gapless.gateway.envoy.retries import REPEATABLE, UNSEEN, repeatable
from gapless.gateway.envoy.routes import referenced, service_routes
from gapless.gateway.envoy.weights import LAYER, weighed, weights_of, whole
from gapless.gateway.match import Request, below, covers, matching
from gapless.gateway.shares import answered_shares, reachable, releases, shares

LISTEN = Entrance(listen=Address(host="127.0.0.1", port=8080))
RELEASES = ("1.0", "2.0", "3.0-rc%1")

names = st.sampled_from(["orders", "inventory", "pay.ment"])
versions = st.sampled_from(RELEASES)
weights = st.lists(st.tuples(versions, st.integers(0, BUCKETS + 500)), max_size=4).map(tuple)
splits = st.builds(
    Split,
    service=names,
    stable=versions,
    weights=weights,
    by=st.sampled_from(SplitBy),
    salt=st.sampled_from(["", "orders-7", r"a\1b"]),
)
ports = st.integers(1, 65_535)
endpoints = st.builds(
    Endpoint,
    instance=st.sampled_from("abcdef"),
    release=versions,
    address=st.builds(Address, host=st.just("127.0.0.1"), port=ports),
    draining=st.booleans(),
)
routes = st.builds(
    Route,
    path=st.sampled_from(["/", "/orders", "/orders/", "/orders/archive", "/o"]),
    host=st.sampled_from(["*", "shop.example.com", "*.example.com"]),
)
services = st.builds(
    ServiceTable,
    service=names,
    split=splits,
    endpoints=st.lists(endpoints, max_size=4).map(tuple),
    routes=st.lists(routes, max_size=3, unique=True).map(tuple),
    timeout_s=st.floats(0.001, 100),
)
tables = st.builds(
    RouteTable,
    version=st.integers(0),
    services=st.lists(services, max_size=3, unique_by=lambda s: s.service).map(tuple),
)


def all_routes(found: Resources) -> list[dict[str, Any]]:
    told = whole(found[ROUTES]["gapless"], found[RUNTIME][LAYER]["layer"])
    return [r for host in told["virtual_hosts"] for r in host["routes"] if "route" in r]


@given(tables)
def test_every_cluster_that_is_led_to_exists_with_its_load(table: RouteTable) -> None:
    found = resources(table, LISTEN)
    assert referenced(found[ROUTES]["gapless"]) <= found[CLUSTER].keys()
    assert found[CLUSTER].keys() == found[LOAD].keys()


@given(tables, tables)
def test_what_must_not_change_does_not(one: RouteTable, other: RouteTable) -> None:
    """The listener never does; a cluster is the same whatever else is in the table."""
    first, second = resources(one, LISTEN), resources(other, LISTEN)
    assert first[LISTENER] == second[LISTENER]
    for name in first[CLUSTER].keys() & second[CLUSTER].keys():
        assert first[CLUSTER][name] == second[CLUSTER][name]


@given(tables)
def test_splits_have_all_buckets_and_overrides_one_release(table: RouteTable) -> None:
    for route in all_routes(resources(table, LISTEN)):
        weighted = route["route"]["weighted_clusters"]
        total = sum(part["weight"] for part in weighted["clusters"])
        assert total == (100 if "header_name" in weighted else BUCKETS)


@given(splits, st.integers(0, BUCKETS - 1))
def test_shares_say_what_the_split_says(split: Split, bucket: int) -> None:
    parts = shares(split)
    assert sum(weight for _, weight in parts) == BUCKETS
    assert all(weight > 0 for _, weight in parts)
    edges = [(release, sum(w for _, w in parts[: i + 1])) for i, (release, _) in enumerate(parts)]
    assert next(release for release, edge in edges if bucket < edge) == split.release_of(bucket)


@given(services)
def test_only_releases_that_answer_get_buckets_if_any_does(table: ServiceTable) -> None:
    alive = {e.release for e in table.endpoints if not e.draining}
    parts = answered_shares(table.split, reachable(table))
    assert sum(weight for _, weight in parts) == BUCKETS
    assert {release for release, _ in parts} <= (alive or set(releases(table)))


@given(services)
def test_a_stand_in_leaves_the_others_where_they_were(table: ServiceTable) -> None:
    alive = {e.release for e in table.endpoints if not e.draining}
    wanted, told = _by_bucket(shares(table.split)), _by_bucket(answered_shares(table.split, reachable(table)))
    assert all(told[b] == wanted[b] for b in range(0, BUCKETS, 97) if wanted[b] in alive)


def _by_bucket(parts: tuple[tuple[str, int], ...]) -> list[str]:
    return [release for release, weight in parts for _ in range(weight)]


def test_the_newcomer_comes_first() -> None:
    table = _service(weights=(("2.0", 500), ("1.0", 9_500)))
    (*_, last) = service_routes(table, Route(path="/"))
    parts = weighed(last, weights_of(table))["route"]["weighted_clusters"]["clusters"]
    assert [(part["name"], part["weight"]) for part in parts] == [("orders@2.0", 500), ("orders@1.0", 9_500)]


@given(services, st.lists(st.integers(0, BUCKETS), min_size=2, max_size=2))
def test_a_step_changes_no_route(table: ServiceTable, steps: list[int]) -> None:
    """From nothing to all, and back."""
    told = []
    for share in steps:
        split = replace(table.split, stable="1.0", weights=(("2.0", share), ("1.0", BUCKETS - share)))
        told.append(resources(RouteTable(version=1, services=(replace(table, split=split),)), LISTEN))
    back = replace(table.split, stable="1.0", weights=(("1.0", BUCKETS),))
    told.append(resources(RouteTable(version=1, services=(replace(table, split=back),)), LISTEN))
    if reachable(table):  # else nobody answers, whatever the weights
        assert told[0][ROUTES] == told[1][ROUTES]
    if reachable(table) == {"1.0", "2.0"}:
        assert told[2][ROUTES] == told[0][ROUTES]


@given(services, services)
def test_a_key_never_means_two_things(one: ServiceTable, other: ServiceTable) -> None:
    """Weights that are still there must not decide for routes that they were not meant for."""
    first, second = weights_of(one), weights_of(replace(other, service=one.service))
    for key in first.keys() & second.keys():
        assert list(first[key]) == list(second[key])
        assert sum(first[key].values()) == sum(second[key].values())
        assert one.split.salt == other.split.salt


def _service(**changes: Any) -> ServiceTable:
    split = Split(service="orders", stable="1.0", weights=changes.pop("weights", (("1.0", BUCKETS),)), salt="s")
    both = tuple(
        Endpoint(instance=release, release=release, address=Address(host="127.0.0.1", port=port))
        for port, release in enumerate(("1.0", "2.0"), 9_000)
    )
    table = ServiceTable(service="orders", split=split, endpoints=both, routes=(Route(path="/orders"),))
    return replace(table, **changes)


def test_nothing_that_was_answered_is_repeated() -> None:
    for route in service_routes(_service(), Route(path="/orders")):
        policy = route["route"]["retry_policy"]
        assert policy["retry_on"] == UNSEEN
        assert policy["retry_host_predicate"][0]["name"] == "previous_hosts"
        assert "retriable_status_codes" not in policy
    assert not {"5xx", "gateway-error"} & {*UNSEEN.split(","), *REPEATABLE.split(",")}
    assert repeatable()["extension_config"]["name"] == "envoy.filters.http.header_mutation"


def test_a_service_with_one_release_needs_one_route() -> None:
    only = _service(endpoints=_service().endpoints[:1])
    assert len(service_routes(only, Route(path="/orders"))) == 1


def test_a_service_without_routes_has_clusters_only() -> None:
    found = resources(RouteTable(version=1, services=(_service(routes=()),)), LISTEN)
    assert set(found[CLUSTER]) == {"orders@1.0", "orders@2.0"}
    assert not all_routes(found)


def test_clusters_keep_the_pitfalls_out() -> None:
    found = cluster("orders@1.0")
    assert found["common_lb_config"] == {"healthy_panic_threshold": {"value": 0}, "update_merge_window": "0s"}
    assert found["ignore_health_on_host_removal"] is True
    assert found["outlier_detection"]["max_ejection_percent"] == 50
    assert found["outlier_detection"]["enforcing_consecutive_5xx"] == 0
    empty, full = load("orders@1.0", []), load("orders@1.0", _service().endpoints)
    assert empty == {"cluster_name": "orders@1.0"}
    assert full["endpoints"][0]["load_balancing_weight"] == 1
    routes_ = resources(RouteTable(version=1, services=()), LISTEN)[ROUTES]["gapless"]
    assert routes_["validate_clusters"] is True


@given(names, versions)
def test_a_clusters_name_can_be_read_back(service: str, release: str) -> None:
    assert split_name(cluster_name(service, release)) == (service, release)
    assert split_name("gapless") == ("", "")


@given(tables, tables)
def test_no_stage_takes_an_endpoint_before_the_routes_have_moved(before: RouteTable, after: RouteTable) -> None:
    old, new = resources(before, LISTEN), resources(after, LISTEN)
    told = stages(old, new)
    assert told[-1] == new
    assert len(told) <= 2
    if old[ROUTES] != new[ROUTES]:
        for name, load_ in old[LOAD].items():
            if name in new[LOAD]:
                assert _places(load_) | _places(new[LOAD][name]) == _places(told[0][LOAD][name])


def _places(load_: dict[str, Any]) -> set[int]:
    found = [e for locality in load_.get("endpoints", []) for e in locality["lb_endpoints"]]
    return {e["endpoint"]["address"]["socket_address"]["port_value"] for e in found}


def test_joining_nothing_with_nothing_is_nothing() -> None:
    assert joined_load(load("a@1", []), load("a@1", [])) == {"cluster_name": "a@1"}


@pytest.mark.parametrize(
    ("prefix", "path", "found"),
    [("/", "/x", True), ("/o", "/o", True), ("/o", "/o/1", True), ("/o", "/or", False), ("/o/", "/o", False)],
)
def test_a_path_is_for_itself_and_what_is_below(prefix: str, path: str, found: bool) -> None:
    assert below(prefix, path) is found


@pytest.mark.parametrize(
    ("pattern", "host", "found"),
    [("*", "a", True), ("*.b.c", "a.b.c", True), ("*.b.c", "b.c", False), ("a", "a", True), ("a", "b", False)],
)
def test_a_host_is_matched_by_name_or_ending(pattern: str, host: str, found: bool) -> None:
    assert covers(pattern, host) is found


def test_the_most_specific_host_wins_at_the_same_path() -> None:
    def named(name: str, host: str) -> ServiceTable:
        return replace(_service(), service=name, routes=(Route(path="/", host=host),))

    table = RouteTable(version=1, services=(named("all", "*"), named("some", "*.b.c"), named("one", "a.b.c")))
    asked = {"a.b.c": "one", "x.b.c": "some", "x": "all"}
    for host, service in asked.items():
        found = matching(table, Request(host=host, path="/"))
        assert found is not None
        assert found[1].service == service


@given(st.lists(tables, min_size=1, max_size=4), st.data())
def test_what_is_remembered_changes_nothing(found: list[RouteTable], data: st.DataObject) -> None:
    """Also when some services stay the very same from one table to the next."""
    parts = Parts()
    before: RouteTable | None = None
    for table in found:
        kept = {s.service: s for s in before.services} if before and data.draw(st.booleans()) else {}
        table = replace(table, services=tuple(kept.get(s.service, s) for s in table.services))
        assert resources(table, LISTEN, (), parts) == resources(table, LISTEN)
        before = table
