"""What two answers differ in, what many of them mean, and what Envoy is told."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless.core import codec
from gapless.core.masks import Masks
from gapless.core.model import (
    BUCKETS,
    HISTOGRAM_BOUNDS_S,
    Address,
    Endpoint,
    Entrance,
    GateState,
    MirrorRule,
    Route,
    RouteTable,
    ServiceTable,
    Split,
)
from gapless.core.model.gates import CREDENTIALS
from gapless.core.model.mirror import MirrorTally, MirrorTarget
from gapless.gateway.envoy.clusters import split_name
from gapless.gateway.envoy.mirror import shadow_name
from gapless.gateway.envoy.resources import CLUSTER, LOAD, ROUTES, resources
from gapless.gateway.mirror.answers import Answer, Difference, but_for, differences
from gapless.gateway.mirror.tally import EXAMPLES, PLACES, Tally, general, shown
from gapless.rollout.mirror import verdict

NONE = Masks()


def answer(value: Any, status: int = 200, **headers: str) -> Answer:
    body = json.dumps(value).encode()
    found = {"content-type": "application/json", **{name.replace("_", "-"): text for name, text in headers.items()}}
    return Answer(status=status, headers=found, body=body, digest=hashlib.blake2b(body).digest())


def told(one: Any, other: Any, *ignore: str) -> list[str]:
    return [str(found) for found in differences(answer(one), answer(other), Masks.of(ignore))]


@pytest.mark.parametrize(
    ("one", "other", "wanted"),
    [
        ({"a": 1}, {"a": 1.0}, []),
        ({"a": 1}, {"a": "1"}, ["$.a: number → string"]),
        ({"a": True}, {"a": 1}, ["$.a: boolean → number"]),
        ({"a": "secret"}, {"a": "other"}, ["$.a: another string"]),
        ({"a": 1}, {}, ["$.a: gone"]),
        ({}, {"a": {"b": 1}}, ["$.a: new"]),
        ({"items": [{"n": 1}, {"n": 2}]}, {"items": [{"n": 1}, {"n": 3}]}, ["$.items[1].n: another number"]),
        ([1], [1, 2], ["$: another length"]),
        (None, {}, ["$: null → object"]),
    ],
)
def test_bodies_are_compared_place_by_place_without_their_values(one: Any, other: Any, wanted: list[str]) -> None:
    assert told(one, other) == wanted


@pytest.mark.parametrize(
    ("mask", "hidden"),
    [
        ("$.at", ["$.at"]),
        ("$.items[*].at", ["$.items[].at"]),
        ("$.items[0]", []),
        ("$..at", ["$.at", "$.items[].at", "$.deep.er.at"]),
        ("$.deep.*", ["$.deep.er.at"]),
        ("$['deep']", ["$.deep.er.at"]),
        ("$.a", []),
        ("$", ["$.at", "$.items[].at", "$.deep.er.at"]),
    ],
)
def test_masks_hide_a_place_and_all_below_it(mask: str, hidden: list[str]) -> None:
    one = {"at": 1, "items": [{"x": 0}, {"at": 1}], "deep": {"er": {"at": 1}}}
    other = {"at": 2, "items": [{"x": 0}, {"at": 2}], "deep": {"er": {"at": 2}}}
    everything = ["$.at", "$.deep.er.at", "$.items[].at"]
    left = [place.partition(":")[0].replace("[1]", "[]") for place in told(one, other, mask)]
    assert sorted(left) == [place for place in everything if place not in hidden]


@pytest.mark.parametrize("mask", ["$a", "$.items[x]", "$.", "$.a b["])
def test_a_mask_that_cannot_be_read_is_told(mask: str) -> None:
    with pytest.raises(ValueError, match="no JSON path"):
        Masks.of([mask])


def test_status_headers_and_other_bodies() -> None:
    assert [str(d) for d in differences(answer(1), answer(2, 500), NONE)] == ["status: 200 → 500"]
    gone = Answer(cause="ConnectError")
    assert [str(d) for d in differences(answer(1), gone, NONE)] == ["no answer: ConnectError"]
    moved = differences(answer(1, location="/a"), answer(1, location="/b", date="x"), NONE)
    assert [str(d) for d in moved] == ["header location: another value"]
    assert differences(answer(1, location="/a"), answer(1), Masks.of(["Location"])) == ()
    html = {"content-type": "text/html"}
    one, other = Answer(status=200, headers=html, digest=b"1"), Answer(status=200, headers=html, digest=b"2")
    assert [str(d) for d in differences(one, other, NONE)] == ["body: other bytes"]


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=3),
    max_leaves=8,
)


@given(one=VALUES, other=VALUES)
def test_equal_values_have_no_difference_and_others_have_one_unless_the_whole_is_hidden(one: Any, other: Any) -> None:
    found = differences(answer(one), answer(other), NONE)
    assert bool(found) == (_strict(one) != _strict(other))
    assert differences(answer(one), answer(copy.deepcopy(one)), NONE) == ()
    assert differences(answer(one), answer(other), Masks.of(["$"])) == ()
    assert but_for(found, found) == ()


def _strict(value: Any) -> Any:
    """Equality that tells true from 1."""
    return json.dumps(value, sort_keys=True)


def test_what_the_stable_release_changes_itself_is_no_difference_of_the_new_one() -> None:
    found = (Difference("$.at", ""), Difference("$.items[0].id", ""), Difference("$.total", ""))
    noise = (Difference("$.at", ""), Difference("$.items", ""))
    assert [one.place for one in but_for(found, noise)] == ["$.total"]
    assert but_for(found, (Difference("status", ""),)) == ()


def test_requests_are_shown_without_the_values_of_their_query() -> None:
    assert shown("GET", "/orders?token=secret&page=2") == "GET /orders?token=…&page=…"
    assert general("$.items[12].tags[0]") == "$.items[*].tags[*]"


def test_what_is_kept_is_bounded() -> None:
    tally = Tally()
    for n in range(PLACES * 3):
        tally.add(f"GET /{n}", answer(1), answer(2), (Difference(f"$.p{n}", "x" * 1000),))
    value = tally.value()
    assert (value.compared, value.different) == (PLACES * 3, PLACES * 3)
    assert len(value.examples) == EXAMPLES
    assert len(value.places) <= PLACES + 1
    assert sum(value.places.values()) <= value.different
    assert codec.decode(codec.encode(value), MirrorTally) == value


# Verdicts.

RULE = MirrorRule(samples=100, for_s=10.0, max_difference=0.01, patience_s=60.0)


def latency(seconds: float, count: int) -> tuple[int, ...]:
    bucket = next(i for i, bound in enumerate(HISTOGRAM_BOUNDS_S) if bound >= seconds)
    return tuple(count if i == bucket else 0 for i in range(len(HISTOGRAM_BOUNDS_S) + 1))


def seen(compared: int, different: int = 0, new_s: float = 0.01, stable_s: float = 0.01) -> MirrorTally:
    return MirrorTally(
        asked=compared,
        compared=compared,
        different=different,
        places={"$.total": different} if different else {},
        new_latency=latency(new_s, compared),
        stable_latency=latency(stable_s, compared),
    )


@pytest.mark.parametrize(
    ("tally", "waited_s", "state", "reason"),
    [
        (seen(0), 1.0, GateState.RUNNING, "0 of 100 answers compared; no request was mirrored yet"),
        (seen(200), 5.0, GateState.RUNNING, "5 of 10 s mirrored"),
        (seen(200), 10.0, GateState.PASSED, "200 of 200 answers are equal"),
        (seen(200, 2), 10.0, GateState.PASSED, "198 of 200 answers are equal"),
        (seen(200, 4), 10.0, GateState.RUNNING, "too many to pass: $.total 4 x"),
        (seen(30, 2), 1.0, GateState.RUNNING, "30 of 100"),
        (seen(30, 10), 1.0, GateState.REFUSED, "10 of 30 answers differ (surely above"),
        (seen(99), 60.0, GateState.REFUSED, "no sufficient evidence within 60 s: 99 of 100"),
        (seen(300, new_s=0.2), 10.0, GateState.REFUSED, "of the stable release for the same requests"),
        (seen(300, new_s=0.015), 10.0, GateState.PASSED, "300 of 300"),
    ],
)
def test_verdicts(tally: MirrorTally, waited_s: float, state: GateState, reason: str) -> None:
    found = verdict(tally, RULE, waited_s)
    assert (found.state, reason in found.reason) == (state, True), found


@given(compared=st.integers(0, 2_000), bad=st.floats(0, 1), late=st.floats(0, 100))
def test_nothing_passes_above_the_limit_and_nothing_is_refused_below_it(compared: int, bad: float, late: float) -> None:
    different = int(compared * bad)
    found = verdict(seen(compared, different), RULE, late)
    if found.state is GateState.PASSED:
        assert different <= RULE.max_difference * compared
        assert compared >= RULE.samples
        assert late >= RULE.for_s
    if found.state is GateState.REFUSED and late < RULE.patience_s:
        assert different > RULE.max_difference * compared


# What Envoy is told.

TARGET = MirrorTarget(address=Address(host="127.0.0.1", port=4000), share=250)
SERVICE = ServiceTable(
    service="orders",
    split=Split(service="orders", stable="1", weights=(("1", BUCKETS),)),
    endpoints=(Endpoint(instance="a", release="1", address=Address(host="127.0.0.1", port=1)),),
    routes=(Route(path="/orders"),),
)


def told_envoy(*services: ServiceTable) -> Any:
    return resources(RouteTable(version=1, services=services), Entrance(listen=Address(host="127.0.0.1", port=8080)))


def test_without_a_mirror_nothing_is_told_of_one() -> None:
    told = json.dumps(told_envoy(SERVICE).by_type)
    assert "mirror_policies" not in told
    assert "!mirror" not in told
    assert told.count("mirror") == 1  # the mark, which clients must not set


def test_a_mirrored_route_has_a_twin_that_leads_where_it_leads() -> None:
    other = replace(SERVICE, service="other", routes=(Route(path="/other"),))
    found = told_envoy(replace(SERVICE, mirror=TARGET), other)
    (host,) = found[ROUTES]["gapless"]["virtual_hosts"]
    twins = [n for n, route in enumerate(host["routes"]) if "request_mirror_policies" in route.get("route", {})]
    mine = [n for n, route in enumerate(host["routes"]) if route["name"] == "orders" and n not in twins]
    assert mine == [n + 1 for n in twins]
    twin, plain = host["routes"][twins[0]], host["routes"][twins[0] + 1]
    (policy,) = twin["route"].pop("request_mirror_policies")
    assert twin["route"] == plain["route"]
    assert [h["name"] for h in twin["match"]["headers"]][-3:] == [":method", "content-length", "upgrade"]
    assert policy["runtime_fraction"]["default_value"] == {"numerator": 250, "denominator": "TEN_THOUSAND"}
    assert [each["remove"] for each in policy["request_headers_mutations"] if "remove" in each] == list(CREDENTIALS)
    name = shadow_name("orders")
    assert policy["cluster"] == name
    assert name in found[CLUSTER]
    assert found[LOAD][name]["endpoints"]
    assert split_name(name) == ("", "")  # it counts as no release's
    assert "request_mirror_policies" not in json.dumps(told_envoy(SERVICE, other).by_type)  # shared parts are unchanged


def test_requests_with_effects_have_a_twin_of_their_own_that_asks_for_a_small_body() -> None:
    found = told_envoy(replace(SERVICE, mirror=replace(TARGET, methods=("GET", "POST"))))
    (host,) = found[ROUTES]["gapless"]["virtual_hosts"]
    get, post, *_ = (
        {header["name"]: header["string_match"]["safe_regex"]["regex"] for header in route["match"]["headers"][-3:-1]}
        for route in host["routes"]
        if "request_mirror_policies" in route.get("route", {})
    )
    assert (get[":method"], post[":method"]) == ("GET", "POST")
    for length, fits in (("", False), ("0", True), ("59999", True), ("60000", False), ("8388608", False)):
        assert bool(re.fullmatch(post["content-length"], length)) == fits
        assert bool(re.fullmatch(get["content-length"], length)) == (fits or not length)
