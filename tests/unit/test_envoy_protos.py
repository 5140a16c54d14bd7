"""Messages from descriptors: what is made is cached, the same everywhere, and wrong fields are named."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gapless.core.errors import GatewayMissing
from gapless.core.model import Address, Endpoint, Entrance, Route, RouteTable, ServiceTable, Split
from gapless.gateway.envoy.parts import Parts
from gapless.gateway.envoy.process import backoff_s, find_binary
from gapless.gateway.envoy.resources import CLUSTER, LISTENER, ROUTES, RUNTIME, resources
from gapless.gateway.envoy.weights import LAYER, whole

pytest.importorskip("google.protobuf")

from gapless.gateway.envoy.protos import Messages, load_messages


@pytest.fixture(scope="module")
def messages() -> Messages:
    return load_messages()


def table(count: int = 2) -> RouteTable:
    services = tuple(
        ServiceTable(
            service=f"s{i}",
            split=Split(service=f"s{i}", stable="1", weights=(("2", 100), ("1", 9_900)), salt="x"),
            endpoints=tuple(
                Endpoint(instance=r, release=r, address=Address(host="127.0.0.1", port=9_000 + i)) for r in "12"
            ),
            routes=(Route(path=f"/s{i}"), Route(path="/", host=f"s{i}.example.com")),
        )
        for i in range(count)
    )
    return RouteTable(version=1, services=services)


def test_every_resource_can_be_made_and_reads_as_it_was_meant(messages: Messages) -> None:
    found = resources(table(), Entrance(listen=Address(host="127.0.0.1", port=8080)))
    truth = messages.snapshot(found)
    weights = found[RUNTIME][LAYER]["layer"]
    for type_url, named in found.by_type.items():
        for name, content in named.items():
            meant = messages._parse(type_url, whole(content, weights) if type_url == ROUTES else content)
            assert messages.message(type_url.rpartition("/")[2]).FromString(truth[type_url][name].content()) == meant


def test_versions_follow_the_content_alone(messages: Messages) -> None:
    listen = Entrance(listen=Address(host="127.0.0.1", port=8080))
    here, elsewhere = (
        messages.snapshot(resources(table(), listen)),
        load_messages().snapshot(resources(table(), listen)),
    )
    for type_url, named in here.by_type.items():
        assert named == elsewhere[type_url]
    other = messages.snapshot(resources(table(3), listen))
    assert other[CLUSTER]["s0@1"] == here[CLUSTER]["s0@1"]
    assert other[LISTENER] == here[LISTENER]
    assert other[ROUTES] != here[ROUTES]


steps = st.lists(st.sampled_from(["weigh", "move", "same", "route", "leave", "come"]), max_size=6)


def changed(found: RouteTable, step: str, number: int) -> RouteTable:
    """The table after a change of one service; the others stay the very same."""
    first, *others = found.services
    match step:
        case "weigh":
            split = replace(first.split, weights=(("2", number + 200), ("1", 9_800 - number)))
            first = replace(first, split=split)
        case "move":
            places = tuple(replace(e, address=replace(e.address, port=7_000 + number)) for e in first.endpoints)
            first = replace(first, endpoints=places)
        case "route":
            first = replace(first, routes=(Route(path=f"/r{number}"), *first.routes))
        case "leave":
            others = others[:-1]
        case "come":
            others = [*others, replace(first, service=f"n{number}", routes=(Route(path=f"/n{number}"),))]
    return replace(found, services=(*others, first) if number % 2 else (first, *others))


@settings(max_examples=20)  # all messages are made twice in each
@given(steps)
def test_what_is_remembered_gives_the_same_bytes(messages: Messages, found: list[str]) -> None:
    listen, now, parts = Entrance(listen=Address(host="127.0.0.1", port=8080)), table(3), Parts()
    remembering = Messages(messages._pool)
    for number, step in enumerate(["same", *found]):
        now = changed(now, step, number)
        told = remembering.snapshot(resources(now, listen, (), parts))
        anew = Messages(messages._pool).snapshot(resources(now, listen))
        assert told.by_type == anew.by_type
        assert told[ROUTES]["gapless"].content() == anew[ROUTES]["gapless"].content()


def test_a_field_that_does_not_exist_is_named(messages: Messages) -> None:
    with pytest.raises(ValueError, match="no_such_field"):
        messages.serialize(CLUSTER, {"name": "a", "no_such_field": 1})


def test_a_tree_that_was_never_built_says_so(tmp_path: Path) -> None:
    with pytest.raises(GatewayMissing, match=r"pip install -e"):
        load_messages(tmp_path / "descriptors.bin.gz")


def test_a_binary_that_cannot_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(GatewayMissing, match="cannot be executed"):
        find_binary(tmp_path / "envoy")


def test_restarts_come_at_once_and_then_ever_later() -> None:
    assert [backoff_s(n) for n in range(6)] == [0, 0, 0.1, 0.2, 0.4, 0.8]
    assert backoff_s(50) == 5


def test_importing_the_gateway_is_light() -> None:
    """grpc and protobuf come with `start`."""
    code = "import sys, gapless.gateway.envoy; print([m for m in ('grpc', 'google.protobuf') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
