"""Which service and release a request belongs to: told by an oracle that knows nothing of rules, and held against the
fake, the explanation, and what gapless.yaml may say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless.config.overlaps import Placed, meet, overlaps, takes_all
from gapless.core.model import (
    BUCKETS,
    Address,
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
from gapless.gateway.envoy.blame import blamed
from gapless.gateway.explain import explain, listed
from gapless.gateway.match import Request, matching, mismatch, without_port
from gapless.gateway.rules import Rule, choose, drawn, failed, percents, rules, standing_rules
from gapless.testing.traffic import FakeTraffic
from gapless.testing.world import FakeWorld

texts = st.sampled_from(["", "1", "2", "12", "a"])
conditions = st.builds(
    Condition, name=st.sampled_from(["x-a", "x-b"]), kind=st.sampled_from(ValueKind), value=texts, invert=st.booleans()
).map(lambda each: replace(each, value="") if each.kind is ValueKind.PRESENT else each)
headers = st.lists(conditions, max_size=2, unique_by=lambda each: each.name).map(tuple)
queries = st.lists(conditions.map(lambda each: replace(each, invert=False)), max_size=1).map(tuple)
plain = st.sampled_from(["/", "/o", "/o/", "/o/7", "/p"])
paths = st.one_of(
    st.tuples(st.sampled_from([PathKind.PREFIX, PathKind.EXACT]), plain),
    st.tuples(st.just(PathKind.REGEX), st.sampled_from(["/o/[0-9]+", "/o.*", ".*", "/.*", "/p|/o"])),
)
routes = st.builds(
    lambda kind_and_path, **more: Route(path_kind=kind_and_path[0], path=kind_and_path[1], **more),
    kind_and_path=paths,
    host=st.sampled_from(["*", "*.b.c", "a.b.c"]),
    methods=st.sampled_from([(), ("GET",), ("GET", "POST"), ("POST",)]),
    headers=headers,
    query=queries,
)
users = st.sampled_from(["", "7", "42", "107", "guest", "u-1", "u-2", "1" * 25])
extras = st.dictionaries(
    st.sampled_from(["cookie", "x-gapless-release", "x-tenant", "x-request-id"]),
    st.sampled_from(["1", "2", "gapless-user=v1; session=s1", "session=s2", "a=b;gapless-release=2"]),
    max_size=3,
)
requests = st.builds(
    Request,
    path=st.sampled_from(["/", "/o", "/o/", "/o/7", "/o/7/x?x-a=1", "/p?x-b=12&x-b=2", "/other"]),
    host=st.sampled_from(["a.b.c", "x.b.c:80", "b.c", "localhost"]),
    method=st.sampled_from(["GET", "POST"]),
    headers=st.dictionaries(st.sampled_from(["x-a", "x-b"]), texts, max_size=2).flatmap(
        lambda given: st.builds(
            lambda user, more: {**given, **more, **({"x-user-id": user} if user else {})}, users, extras
        )
    ),
    address=st.sampled_from(["127.0.0.1", "10.0.0.7", "10.9.0.1"]),
)
everybody = Exceptions(
    override=Override(allow=("10.0.0.0/16",)),
    always=Group(users=("7",), addresses=("10.9.0.0/16",)),
    never=Group(users=("42", "u-1")),
)


def table_of(*owned: tuple[str, Route], **more: Any) -> RouteTable:
    """Stable 1, newcomer 2."""
    split = Split(service="", stable="1", weights=(("2", 3_000), ("1", 7_000)), salt="s")
    both = [Endpoint(instance=r, release=r, address=Address(host="127.0.0.1", port=int(r))) for r in ("1", "2")]
    names = sorted({name for name, _ in owned})
    services = [
        ServiceTable(
            service=name,
            split=replace(split, service=name, **more),
            endpoints=tuple(both),
            routes=tuple(route for owner, route in owned if owner == name),
            exceptions=everybody,
        )
        for name in names
    ]
    return RouteTable(version=1, services=tuple(services))


# Which service.


@given(st.lists(st.tuples(st.sampled_from("abc"), routes), max_size=5), requests)
def test_the_first_route_by_precedence_that_matches_has_the_request(
    owned: list[tuple[str, Route]], request: Request
) -> None:
    fitting = [
        (route.precedence, name, place) for place, (name, route) in enumerate(owned) if not mismatch(route, request)
    ]
    found = matching(table_of(*owned), request)
    assert (found is None) is (not fitting)
    if found:
        _, name, place = min(fitting, key=lambda each: (*each[:2], each[2]))
        assert (found[1].service, found[0]) == (name, owned[place][1])
    told = explain(table_of(*owned), request)
    assert told["service"] == (found[1].service if found else "")
    assert [each["matches"] for each in told["routes"]].count(True) == len(fitting[:1])


@given(routes, requests)
def test_a_mismatch_says_why(route: Route, request: Request) -> None:
    """Against an oracle that knows conditions one by one."""
    path, _, query = request.path.partition("?")
    fits = {
        PathKind.PREFIX: path == route.path or path.startswith(route.path.rstrip("/") + "/"),
        PathKind.EXACT: path == route.path,
        PathKind.REGEX: any(
            [path.startswith("/o/") and path[3:].isdecimal()]
            if route.path == "/o/[0-9]+"
            else [path in ("/p", "/o")]
            if route.path == "/p|/o"
            else [path.startswith(route.path.removesuffix(".*"))]
        ),
    }[route.path_kind]
    if route.path_kind is PathKind.PREFIX and route.path == "/o/":
        fits = path.startswith("/o/")
    host = request.host.partition(":")[0]
    fits = fits and (route.host in ("*", host) or (route.host.startswith("*.") and host.endswith(route.host[1:])))
    fits = fits and (not route.methods or request.method in route.methods)
    parameters = dict(reversed([tuple(part.split("=")) for part in query.split("&") if part]))
    fits = fits and all(_holds(each, request.headers.get(each.name)) for each in route.headers)
    fits = fits and all(_holds(each, parameters.get(each.name)) for each in route.query)
    assert bool(mismatch(route, request)) is not fits


def _holds(condition: Condition, value: str | None) -> bool:
    if condition.kind is ValueKind.PRESENT:
        return (value is None) is condition.invert
    if value is None and not condition.invert:
        return False
    shown = value or ""
    compared = shown.startswith(condition.value) if condition.kind is ValueKind.PREFIX else shown == condition.value
    return compared is not condition.invert


@pytest.mark.parametrize(
    ("host", "name"),
    [("a", "a"), ("a:80", "a"), ("[::1]", "[::1]"), ("[::1]:80", "[::1]"), ("a:b", "a:b"), ("", "")],
)
def test_a_port_is_not_a_part_of_the_host(host: str, name: str) -> None:
    assert without_port(host) == name


def test_all_routes_are_listed_in_their_order() -> None:
    owned = [("b", Route(path="/")), ("a", Route(path="/o", methods=("GET",))), ("a", Route(path="/o"))]
    found = listed(table_of(*owned))
    assert [(each["service"], each["route"]) for each in found] == [("a", "GET */o"), ("a", "*/o"), ("b", "*/")]
    assert found[0]["split"] == {"2": 0.3, "1": 0.7}


# Which release.


def expected(request: Request, by: SplitBy, name: str) -> str | None:
    """By hand, of a split of 30 % for 2; None: chance decides."""
    cookies = dict(
        reversed([part.strip().partition("=")[::2] for part in request.headers.get("cookie", "").split(";")])
    )
    chosen = [request.headers.get("x-gapless-release"), cookies.get("gapless-release")]
    if request.address.startswith("10.0.") and (wanted := [each for each in chosen if each in ("1", "2")]):
        return wanted[0]
    user = request.headers.get("x-user-id", "")
    if user in ("42", "u-1"):
        return "1"
    if user == "7" or request.address.startswith("10.9."):
        return "2"
    if by is SplitBy.ID and user.isdecimal() and len(user) < 20:
        return "2" if int(user) % 100 < 30 else "1"
    keys = {
        SplitBy.USER: [user, cookies.get("gapless-user")],
        SplitBy.ID: [user, cookies.get("gapless-user")],
        SplitBy.HEADER: [request.headers.get(name), cookies.get("gapless-user")],
        SplitBy.COOKIE: [cookies.get("gapless-user"), cookies.get(name)],
        SplitBy.ADDRESS: [request.address],
        SplitBy.REQUEST: [],
    }[by]
    if by in (SplitBy.USER, SplitBy.ID, SplitBy.HEADER, SplitBy.COOKIE):
        keys.append(request.headers.get("x-request-id"))
    found = next((key for key in keys if key), None)
    return None if found is None else "2" if bucket_of(found, "s") < 3_000 else "1"


KINDS = [(by, {SplitBy.HEADER: "x-tenant", SplitBy.COOKIE: "session"}.get(by, "")) for by in SplitBy]


@given(st.sampled_from(KINDS), requests)
def test_the_release_is_the_one_that_is_told_and_the_one_that_answers(
    kind: tuple[SplitBy, str], request: Request
) -> None:
    by, name = kind
    table = table_of(("web", Route(path="/")), by=by, by_name=name)
    told = explain(table, request)
    wanted = expected(request, by, name)
    assert told["release"] == (wanted or "")
    assert told["chance"] is (wanted is None)
    assert [each["applies"] for each in told["rules"]] == [False] * (len(told["rules"]) - 1) + [True]
    traffic = FakeTraffic(FakeWorld())
    traffic.applied.append(table)
    answer = traffic.ask(
        request.path, host=request.host, method=request.method, headers=request.headers, address=request.address
    )
    assert answer.release in ([wanted] if wanted else ["1", "2"])


@given(st.sampled_from(KINDS), requests, st.lists(st.integers(0, BUCKETS), min_size=2, max_size=4).map(sorted))
def test_raising_a_share_only_adds_users(kind: tuple[SplitBy, str], request: Request, shares: list[int]) -> None:
    found = []
    for share in shares:
        weights = (("2", share), ("1", BUCKETS - share))
        (service,) = table_of(("web", Route(path="/")), by=kind[0], by_name=kind[1], weights=weights).services
        found.append(choose(replace(service, exceptions=Exceptions()), request, 0.4)[0])
    assert found == sorted(found), "from 1 to 2 at most once, and never back"


@given(
    st.sampled_from(KINDS),
    requests,
    st.lists(st.tuples(st.sampled_from("123"), st.integers(0, BUCKETS)), max_size=3).map(tuple),
    st.sets(st.sampled_from("123")),
)
def test_keeping_places_decides_nothing_else(
    kind: tuple[SplitBy, str], request: Request, weights: tuple[tuple[str, int], ...], alive: set[str]
) -> None:
    (service,) = table_of(("web", Route(path="/")), by=kind[0], by_name=kind[1], weights=weights).services
    endpoints = [Endpoint(instance=r, release=r, address=Address(host="127.0.0.1", port=1)) for r in sorted(alive)]
    service = replace(service, endpoints=tuple(endpoints))
    assert _answers(standing_rules(service), request) == _answers(rules(service), request)


def _answers(found: tuple[Rule, ...], request: Request) -> set[str]:
    """Whom the first rule that is passed leads to, whatever chance does."""
    rule = next(rule for rule in found if not any(failed(test, request) for test in rule.tests))
    return {drawn(rule, request, die).release for die in (0, 0.3, 0.5, 0.999)}


@given(st.lists(st.integers(0, 3_000), min_size=1, max_size=3))
def test_whole_percents_have_all_places_and_exact_ones_stay(weights: list[int]) -> None:
    parts = (*((str(i), weight) for i, weight in enumerate(weights)), ("rest", BUCKETS - sum(weights)))
    found = percents(parts)
    assert sum(share for _, share in found) == 100
    exact = tuple((release, weight // 100 * 100) for release, weight in parts[:-1])
    whole = (*exact, ("rest", BUCKETS - sum(weight for _, weight in exact)))
    assert percents(whole) == tuple((release, weight // 100) for release, weight in whole)


@given(st.sampled_from(KINDS), st.sets(st.sampled_from(["1", "2", "3"])))
def test_no_rule_leads_to_a_release_that_cannot_be_asked(kind: tuple[SplitBy, str], alive: set[str]) -> None:
    (service,) = table_of(("web", Route(path="/")), by=kind[0], by_name=kind[1]).services
    endpoints = [Endpoint(instance=r, release=r, address=Address(host="127.0.0.1", port=1)) for r in sorted(alive)]
    for rule in rules(replace(service, endpoints=tuple(endpoints))):
        assert {release for release, _ in rule.shares} <= (alive or {"1", "2"})


def test_callers_know_who_asks_and_no_more() -> None:
    (service,) = table_of(("web", Route(path="/")), by=SplitBy.ID).services
    guest = service.split.release_of(bucket_of("guest", "s"))
    asked = {"7": "2", "42": "1", "u-1": "1", "129": "2", "130": "1", "guest": guest}
    assert {user: service.release_for(user) for user in asked} == asked
    ended = replace(service, split=replace(service.split, weights=(("1", BUCKETS),)))
    assert {ended.release_for(user) for user in asked} == {"1"}


# What a file may say.


@given(routes, routes, requests)
def test_what_takes_all_takes_this_one_too(one: Route, other: Route, request: Request) -> None:
    if takes_all(one, other) and not mismatch(other, request):
        assert not mismatch(one, request)


@given(routes, routes, requests)
def test_routes_that_never_meet_do_not(one: Route, other: Route, request: Request) -> None:
    same = one.precedence == other.precedence and one.path_kind is not PathKind.REGEX
    if same and not mismatch(one, request) and not mismatch(other, request):
        assert meet(one, other)


def found_in(*owned: tuple[str, Route]) -> list[str]:
    placed = [Placed(service=name, index=i, route=route, line=i + 1) for i, (name, route) in enumerate(owned)]
    return [f"{each.service}: {what.partition(':')[0].partition(' of ')[0]}" for each, what in overlaps(placed)]


def header(name: str, value: str = "", kind: ValueKind = ValueKind.EXACT, *, invert: bool = False) -> Condition:
    return Condition(name=name, kind=kind, value=value, invert=invert)


@pytest.mark.parametrize(
    ("one", "other", "complaint"),
    [
        (Route(path="/o"), Route(path="/o"), "b: never has a request"),
        (Route(path="/o"), Route(path="/o/x"), ""),
        (Route(path="/o"), Route(path="/o", host="a.b"), ""),
        (Route(path="/o", methods=("GET",)), Route(path="/o", methods=("POST",)), ""),
        (Route(path="/o", methods=("GET", "PUT")), Route(path="/o", methods=("PUT", "POST")), "b: GET|PUT */o"),
        (Route(path="/o", headers=(header("t", "1"),)), Route(path="/o", headers=(header("t", "2"),)), ""),
        (Route(path="/o", headers=(header("t", "1"),)), Route(path="/o", headers=(header("u", "2"),)), "b: */o t=1"),
        (
            Route(path="/o", headers=(header("t", "1", ValueKind.PREFIX),)),
            Route(path="/o", headers=(header("t", "12"),)),
            "b: never has a request",
        ),
        (
            Route(path="/o", headers=(header("t", kind=ValueKind.PRESENT),)),
            Route(path="/o", headers=(header("t", kind=ValueKind.PRESENT, invert=True),)),
            "",
        ),
        (Route(path="/o.*", path_kind=PathKind.REGEX), Route(path="/orders"), "b: never has a request"),
        (Route(path="/o[a-z]*", path_kind=PathKind.REGEX), Route(path="/orders"), ""),
        (Route(path="/o", query=(header("v", "1"),)), Route(path="/o", query=(header("v", "2"),)), ""),
    ],
    ids=str,
)
def test_routes_in_each_others_way_are_found(one: Route, other: Route, complaint: str) -> None:
    assert found_in(("a", one), ("b", other)) == ([complaint] if complaint else [])


def test_equal_routes_of_one_service_are_tried_as_they_stand() -> None:
    first, second = (Route(path="/o", headers=(header(name, "1"),)) for name in ("t", "s"))
    assert found_in(("a", first), ("a", second)) == []
    request = Request(path="/o", headers={"t": "1", "s": "1"})
    found = matching(table_of(("a", first), ("a", second)), request)
    assert found
    assert found[0] == first


def test_a_thousand_routes_are_compared_quickly() -> None:
    """Only those that could be in the way are: a pair of each would be a million."""
    owned = [(f"s{i}", Route(path=f"/s{i}", host=f"h{i % 7}.example")) for i in range(1_000)]
    assert found_in(*owned) == []


def test_a_refusal_is_about_what_is_new_or_quoted() -> None:
    old, odd, new = ("a", Route(path="/a")), ("a", Route(path="/x(", path_kind=PathKind.REGEX)), ("b", Route(path="/b"))
    before, after = table_of(old), table_of(old, odd, new)
    assert blamed("missing ): /x(", after, before) == "; it is about *~/x( of a"
    assert blamed("something else", after, before) == "; it is about one of *~/x( of a, */b of b"
    assert blamed("something else", before, before) == ""
    assert blamed("bad /a", before, before) == "; it is about */a of a"
