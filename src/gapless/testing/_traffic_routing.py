"""The checks of `testing.traffic` that concern which service and which release a request belongs to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from gapless.core.model import (
    BUCKETS,
    Condition,
    Endpoint,
    Exceptions,
    Group,
    Override,
    PathKind,
    Route,
    RouteTable,
    ServiceTable,
    Split,
    SplitBy,
    ValueKind,
    bucket_of,
)

if TYPE_CHECKING:
    from gapless.testing.traffic import TrafficRig

SALT = "orders-7"
NEIGHBOUR = "127.0.0.9"


def _service(
    name: str,
    endpoints: Iterable[Endpoint],
    *routes: Route,
    canary: int = 0,
    by: SplitBy = SplitBy.USER,
    by_name: str = "",
    exceptions: Exceptions = Exceptions(),  # noqa: B008 frozen
) -> ServiceTable:
    """Stable release 1, newcomer 2 with `canary` buckets."""
    weights = (("2", canary), ("1", BUCKETS - canary))
    split = Split(service=name, stable="1", weights=weights, by=by, by_name=by_name, salt=SALT)
    found = routes or (Route(path=f"/{name}"),)
    return ServiceTable(service=name, split=split, endpoints=tuple(endpoints), routes=found, exceptions=exceptions)


async def _apply(rig: TrafficRig, *services: ServiceTable) -> None:
    await rig.traffic.apply(RouteTable(version=1, services=services))


async def _pair(rig: TrafficRig) -> tuple[Endpoint, ...]:
    return (await rig.endpoint("orders", "1", "old"), await rig.endpoint("orders", "2", "new"))


async def _routed(rig: TrafficRig, routes: Mapping[str, Route]) -> None:
    """A service of one instance, named as the route, for each."""
    await _apply(rig, *[_service(n, [await rig.endpoint(n, "1", n)], route) for n, route in routes.items()])


async def an_exact_path_goes_before_an_expression_and_that_before_a_prefix(rig: TrafficRig) -> None:
    routes = {
        "prefix": Route(path="/orders/archive/old"),
        "regex": Route(path="/orders/[a-z]+(/.*)?", path_kind=PathKind.REGEX),
        "exact": Route(path="/orders/archive", path_kind=PathKind.EXACT),
        "all": Route(path="/"),
    }
    await _routed(rig, routes)
    asked = {
        "/orders/archive": "exact",
        "/orders/archive?x=1": "exact",
        "/orders/archive/old": "regex",
        "/orders/7": "all",
        "/x/orders/archive": "all",
    }
    assert {path: (await rig.ask(path)).instance for path in asked} == asked


async def a_host_is_a_name_or_what_is_below_one(rig: TrafficRig) -> None:
    hosts = {"one": "a.example.com", "below": "*.example.com", "deeper": "*.b.example.com", "any": "*"}
    await _routed(rig, {name: Route(host=host) for name, host in hosts.items()})
    asked = {
        "a.example.com": "one",
        "A.Example.com:81": "one",
        "c.example.com": "below",
        "x.b.example.com": "deeper",
        "b.example.com": "below",
        "example.com": "any",
        "else": "any",
    }
    assert {host: (await rig.ask("/", host=host)).instance for host in asked} == asked


async def methods_headers_and_parameters_tell_requests_apart(rig: TrafficRig) -> None:
    def header(name: str, kind: ValueKind = ValueKind.EXACT, value: str = "", *, invert: bool = False) -> Route:
        return Route(path="/x", headers=(Condition(name=name, kind=kind, value=value, invert=invert),))

    routes = {
        "method": Route(path="/x", methods=("POST", "PUT")),
        "both": Route(path="/x", headers=(Condition(name="a", value="1"), Condition(name="b", value="2"))),
        "exact": header("a", value="1"),
        "prefix": header("p", ValueKind.PREFIX, "eu-"),
        "regex": header("r", ValueKind.REGEX, "[0-9]+"),
        "present": header("t", ValueKind.PRESENT),
        "inverted": header("i", value="no", invert=True),
        "parameter": Route(path="/y", query=(Condition(name="v", value="2"),)),
        "any": Route(path="/y"),
    }
    await _routed(rig, routes)
    no = {"i": "no"}
    asked: list[tuple[str, str, Mapping[str, str], str]] = [
        ("POST", "/x", {"a": "1"}, "method"),
        ("GET", "/x", {"a": "1", "b": "2"}, "both"),
        ("GET", "/x", {"a": "1", "b": "3", **no}, "exact"),
        ("GET", "/x", {"a": "11", **no}, ""),
        ("GET", "/x", {"p": "eu-west", **no}, "prefix"),
        ("GET", "/x", {"p": "us-eu-", **no}, ""),
        ("GET", "/x", {"r": "42", **no}, "regex"),
        ("GET", "/x", {"r": "42a", **no}, ""),
        ("GET", "/x", {"t": "anything", **no}, "present"),
        ("GET", "/x", {}, "inverted"),
        ("GET", "/x", {"i": "yes"}, "inverted"),
        ("GET", "/x", no, ""),
        ("GET", "/y?u=1&v=2", {}, "parameter"),
        ("GET", "/y?v=22", {}, "any"),
        ("GET", "/y?v=1&v=2", {}, "any"),
        ("GET", "/y", {}, "any"),
    ]
    for method, path, headers, expected in asked:
        answer = await rig.ask(path, method=method, headers=headers)
        assert (method, path, headers, answer.instance) == (method, path, headers, expected)


async def ids_are_counted_exactly(rig: TrafficRig) -> None:
    """What is no number is placed by its bucket."""
    service = _service("orders", await _pair(rig), canary=2_500, by=SplitBy.ID)
    await _apply(rig, service)
    numbers = ["0", "24", "25", "99", "100", "1024", "1025", "007", "99999999999999999900", "18446744073709551616"]
    expected = {user: service.split.release_of(service.split.bucket(user)) for user in [*numbers, "guest", "-5", "1.5"]}
    assert [expected[user] for user in numbers[:7]] == ["2", "2", "1", "1", "2", "2", "1"]
    found = {user: (await rig.ask("/orders", headers={"x-user-id": user})).release for user in expected}
    assert found == expected


async def who_sends_the_same_header_or_cookie_meets_the_same_release(rig: TrafficRig) -> None:
    endpoints = await _pair(rig)
    for by, send in (
        (SplitBy.HEADER, lambda value: {"x-tenant": value, "x-user-id": "ignored"}),
        (SplitBy.COOKIE, lambda value: {"cookie": f"a=b; x-tenant={value}; c=d"}),
    ):
        service = _service("orders", endpoints, canary=5_000, by=by, by_name="x-tenant")
        await _apply(rig, service)
        values = [f"tenant-{i}" for i in range(20)]
        found = {value: (await rig.ask("/orders", headers=send(value))).release for value in values}
        assert found == {value: service.split.release_of(bucket_of(value, SALT)) for value in values}
        assert set(found.values()) == {"1", "2"}


async def an_address_keeps_its_release(rig: TrafficRig) -> None:
    service = _service("orders", await _pair(rig), canary=5_000, by=SplitBy.ADDRESS)
    await _apply(rig, service)
    addresses = [f"127.0.0.{i}" for i in range(2, 18)]
    forged = {"x-forwarded-for": "10.0.0.1", "x-envoy-external-address": "10.0.0.1"}
    found = {each: (await rig.ask("/orders", address=each, headers=forged)).release for each in addresses}
    assert found == {each: service.split.release_of(bucket_of(each, SALT)) for each in addresses}
    assert set(found.values()) == {"1", "2"}


async def some_always_and_some_never_have_the_newcomer(rig: TrafficRig) -> None:
    always = Group(users=("alice", "a.b|c"), addresses=(f"{NEIGHBOUR}/32",))
    exceptions = Exceptions(always=always, never=Group(users=("bob", "alice+")))
    endpoints = await _pair(rig)
    asked = {"alice": "2", "a.b|c": "2", "aXb|c": "1", "alice+": "1", "bob": "1", "carol": "1"}
    await _apply(rig, _service("orders", endpoints, canary=1, exceptions=exceptions))
    assert bucket_of("carol", SALT) >= 1
    assert {user: (await rig.ask("/orders", headers={"x-user-id": user})).release for user in asked} == asked
    assert (await rig.ask("/orders", headers={"x-user-id": "carol"}, address=NEIGHBOUR)).release == "2"
    assert (await rig.ask("/orders", headers={"x-user-id": "bob"}, address=NEIGHBOUR)).release == "1"
    await _apply(rig, _service("orders", endpoints, canary=BUCKETS, exceptions=exceptions))
    assert (await rig.ask("/orders", headers={"x-user-id": "bob"})).release == "1"
    await _apply(rig, _service("orders", endpoints, exceptions=exceptions))
    assert (await rig.ask("/orders", headers={"x-user-id": "alice"})).release == "1"


async def only_those_allowed_choose_their_release(rig: TrafficRig) -> None:
    override = Override(header="x-try", cookie="", allow=(f"{NEIGHBOUR}/32",))
    await _apply(rig, _service("orders", await _pair(rig), exceptions=Exceptions(override=override)))
    asked: list[tuple[Mapping[str, str], str, str]] = [
        ({"x-try": "2"}, NEIGHBOUR, "2"),
        ({"x-try": "2"}, "127.0.0.1", "1"),
        ({"x-try": "2", "x-forwarded-for": NEIGHBOUR}, "127.0.0.1", "1"),
        ({"x-gapless-release": "2", "cookie": "gapless-release=2"}, NEIGHBOUR, "1"),
    ]
    for headers, address, release in asked:
        answer = await rig.ask("/orders", headers=headers, address=address)
        assert (headers, address, answer.release) == (headers, address, release)
    nobody = Exceptions(override=Override(allow=()))
    await _apply(rig, _service("orders", await _pair(rig), exceptions=nobody))
    assert (await rig.ask("/orders", headers={"x-gapless-release": "2"})).release == "1"


ROUTING_CHECKS = (
    an_exact_path_goes_before_an_expression_and_that_before_a_prefix,
    a_host_is_a_name_or_what_is_below_one,
    methods_headers_and_parameters_tell_requests_apart,
    ids_are_counted_exactly,
    who_sends_the_same_header_or_cookie_meets_the_same_release,
    an_address_keeps_its_release,
    some_always_and_some_never_have_the_newcomer,
    only_those_allowed_choose_their_release,
)
