"""Gateways elsewhere: who they are, what they are told, who is waited for, and what their settings may say."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from gapless.cli.gateway_run import _control
from gapless.config import load
from gapless.config.secret_references import token_of
from gapless.core.errors import ConfigError
from gapless.core.model import Address, Door
from gapless.gateway.envoy.bootstrap import Control, bootstrap_away
from gapless.gateway.envoy.delta import Asked, Item, Snapshot
from gapless.gateway.envoy.doors import shown
from gapless.gateway.envoy.nodes import Node, Place, node_of
from gapless.gateway.envoy.protos import load_messages
from gapless.gateway.envoy.remote import accepts
from gapless.gateway.envoy.resources import CLUSTER, LISTENER, ROUTES, RUNTIME
from gapless.gateway.envoy.xds import Link, Refused, XdsServer

PLACE = Place(Address(host="127.0.0.1", port=8081), "b")
LISTEN = Address(host="127.0.0.1", port=9901)
CONTROL = Control(addresses=(LISTEN,), token="t")
SERVICE = "services: {orders: {command: [run]}}\n"


@pytest.mark.parametrize(
    ("active", "started", "expected"),
    [(1, 1, True), (1, 0, False), (0, 1, False)],
    ids=["serves", "knows no routes yet", "was told no listener yet"],
)
def test_a_gateway_serves_once_its_workers_have_a_listener(active: int, started: int, expected: bool) -> None:
    told = f"listener_manager.total_listeners_active: {active}\nlistener_manager.workers_started: {started}\n"
    assert accepts(told) is expected
    assert not accepts("")


def test_a_bootstrap_says_who_and_where_it_is() -> None:
    messages = load_messages()
    told = messages.message("envoy.service.discovery.v3.DeltaDiscoveryRequest")()
    from google.protobuf import json_format

    json_format.ParseDict({"node": bootstrap_away(CONTROL, "edge", PLACE)["node"]}, told)
    assert node_of(told.node, away=True) == Node("edge", "0.0.0", PLACE)
    told.node.metadata.fields["gapless_listen"].string_value = "nowhere"
    with pytest.raises(ValueError, match="not an address"):
        node_of(told.node, away=True)


def test_the_token_travels_with_the_stream_and_the_pair_with_tls() -> None:
    plain = json.dumps(bootstrap_away(CONTROL, "edge", PLACE))
    assert '"value": "Bearer t"' in plain
    assert "tls" not in plain
    named = replace(CONTROL, addresses=(Address(host="control.example", port=1),), ca="/ca", cert="/c", key="/k")
    tls = json.dumps(bootstrap_away(named, "edge", PLACE))
    assert all(part in tls for part in ('"sni": "control.example"', '"san_type": "DNS"', '"/c"'))
    assert "t" not in repr(Door(listen=PLACE.listen, token="zzz")).partition("zzz")[1]


@pytest.mark.parametrize(
    ("metadata", "fits"), [((("authorization", "Bearer t"),), True), ((("authorization", "t"),), False), ((), False)]
)
def test_a_token_is_shown_whole_or_not_at_all(metadata: object, fits: bool) -> None:
    assert shown(metadata, "t") is fits


@pytest.mark.parametrize("content", ["", " \n", "a b", "a%b", "ä"])
def test_what_is_no_token(content: str) -> None:
    with pytest.raises(ValueError, match="one word"):
        token_of(content)
    assert token_of("abc/+=\n") == "abc/+="


@pytest.mark.parametrize(
    ("gateway", "why"),
    [
        ('xds: {listen: "0.0.0.0:9901"}', "3: gateway.xds.*0.0.0.0:9901 can be reached from other machines"),
        ('xds: {listen: "0.0.0.0:9901", tls: {cert: c, key: k}}', "can be reached from other machines"),
        ('xds: {listen: ":9901", token: hunter2}', "a secret does not stand in this file"),
        (
            'tls: {certificates: {cert: c, key: k}}\n  xds: {listen: "0.0.0.0:9901", token: "secret:env:T"}',
            "give xds a tls of its own",
        ),
    ],
)
def test_mistakes_have_their_place(tmp_path: Path, gateway: str, why: str) -> None:
    path = tmp_path / "gapless.yaml"
    path.write_text(f"system: shop\ngateway:\n  {gateway}\n{SERVICE}")
    with pytest.raises(ConfigError, match=why) as caught:
        load(path)
    assert "hunter2" not in str(caught.value)


def test_every_key_becomes_its_value(tmp_path: Path) -> None:
    path = tmp_path / "gapless.yaml"
    tls = "tls: {cert: c.pem, key: k.pem, client_ca: a.pem}"
    path.write_text(f'system: shop\ngateway: {{xds: {{listen: ":9901", token: "secret:env:T", {tls}}}}}\n{SERVICE}')
    pems = {"cert": str(tmp_path / "c.pem"), "key": str(tmp_path / "k.pem"), "client_ca": str(tmp_path / "a.pem")}
    assert load(path).gateway.xds == Door(listen=LISTEN, token="secret:env:T", **pems)


def truth(version: str) -> Snapshot:
    return Snapshot({CLUSTER: {}, LISTENER: {}, ROUTES: {"gapless": Item(version, version.encode())}, RUNTIME: {}})


def vary(place: Place, common: Snapshot) -> Snapshot:
    text = str(place.listen)
    return Snapshot({**common.by_type, LISTENER: {"gapless": Item(text, text.encode())}})


class Gateways:
    """The real server with links of its own, without gRPC between."""

    def __init__(self) -> None:
        self.server = XdsServer(load_messages(), Path("none"), lambda _: None, print, lambda: 0.0, None, vary)

    def link(self, place: Place | None, *, joined: bool = True) -> Link:
        link = Link(node=Node("edge" if place else "gapless", "", place), joined=joined)
        self.server._links.add(link)
        for asked in (RUNTIME, CLUSTER, LISTENER, ROUTES):
            names = ("gapless",) if asked in (RUNTIME, ROUTES) else ("*",)
            self.server._take(link, Asked(type_url=asked, subscribe=names))
        return link

    def answer(self, link: Link, error: str = "") -> list[str]:
        """Acknowledge, or refuse the routes of, all that is under way; what it was."""
        found: list[str] = []
        while link.state.under_way:
            for type_url, told in tuple(link.state.under_way.items()):
                found += [item.version for item in told.items.values()]
                said = error if type_url == ROUTES else ""
                self.server._take(link, Asked(type_url=type_url, nonce=told.nonce, error=said))
        return found


@pytest.fixture
def gateways() -> Gateways:
    return Gateways()


async def soon() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_each_has_its_listener_and_all_are_waited_for(gateways: Gateways) -> None:
    ours, edge = gateways.link(None), gateways.link(PLACE)
    published = asyncio.create_task(gateways.server.publish(truth("r1"), 60, 7))
    await soon()
    assert gateways.answer(ours) == ["r1"]
    await soon()
    assert not published.done()
    assert gateways.answer(edge) == ["127.0.0.1:8081", "r1"]
    await published
    assert (ours.acknowledged, edge.acknowledged) == (7, 7)


async def test_a_newcomer_neither_holds_up_nor_refuses(gateways: Gateways) -> None:
    ours, edge = gateways.link(None), gateways.link(PLACE, joined=False)
    published = asyncio.create_task(gateways.server.publish(truth("r1"), 60, 1))
    await soon()
    gateways.answer(edge, "not here")
    gateways.answer(ours)
    await published
    assert (edge.refused, edge.acknowledged, gateways.server.settled) == ("not here", 0, True)


async def test_one_that_has_served_refuses_in_its_name(gateways: Gateways) -> None:
    gateways.link(None)
    edge = gateways.link(PLACE)
    published = asyncio.create_task(gateways.server.publish(truth("r1"), 60, 1))
    await soon()
    gateways.answer(edge, "no")
    with pytest.raises(Refused) as caught:
        await published
    assert (caught.value.what, caught.value.gateway) == ("no", "edge")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("10.0.0.5:9901", Address(host="10.0.0.5", port=9901)),
        ("control.example:1", Address(host="control.example", port=1)),
        ("[::1]:9901", Address(host="::1", port=9901)),
        ("[fd00:0:0::5]:9901", Address(host="fd00::5", port=9901)),
    ],
)
def test_where_a_gateway_asks(given: str, expected: Address) -> None:
    found = _control([given, given, "b:2"], None, None, None, None)
    assert found.addresses == (expected, Address(host="b", port=2))


@pytest.mark.parametrize("given", ["9901", ":9901", "::1:9901", "[::1]", "[10.0.0.5]:1", "a:", "a:0", "a:65536", "a:x"])
def test_where_it_cannot(given: str) -> None:
    with pytest.raises(ConfigError, match="is no address") as caught:
        _control([given], None, None, None, None)
    assert "[fd00::5]:9901" in caught.value.remedy


def test_each_control_plane_must_show_its_own_certificate() -> None:
    both = (Address(host="a.example", port=1), Address(host="::1", port=2))
    (cluster,) = bootstrap_away(replace(CONTROL, addresses=both, ca="/ca"), "e", PLACE)["static_resources"]["clusters"]
    told = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    hosts = [each["endpoint"]["address"]["socket_address"]["address"] for each in told]
    asked = [each["metadata"]["filter_metadata"]["envoy.transport_socket_match"] for each in told]
    assert (hosts, asked) == (["a.example", "::1"], [each["match"] for each in cluster["transport_socket_matches"]])
    first, second = (json.dumps(each["transport_socket"]) for each in cluster["transport_socket_matches"])
    assert '"san_type": "DNS", "matcher": {"exact": "a.example"}' in first
    assert '"san_type": "IP_ADDRESS", "matcher": {"exact": "::1"}' in second
