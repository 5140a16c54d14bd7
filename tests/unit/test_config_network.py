"""`network:`: where instances listen, and where others find them."""

from __future__ import annotations

from pathlib import Path

import pytest

from gapless.config import load
from gapless.control.compose import check_bind
from gapless.core.errors import ConfigError
from gapless.core.model import Address, Network
from gapless.core.world import RealWorld

ELSEWHERE = "203.0.113.77"
"""Of a network that is for documentation (RFC 5737): no machine has it."""


def network(tmp_path: Path, text: str) -> Network:
    path = tmp_path / "gapless.yaml"
    path.write_text(f"system: shop\n{text}\nservices: {{orders: {{command: [run]}}}}\n")
    return load(path).network


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Network(bind="127.0.0.1", advertise="127.0.0.1")),
        ("network: {bind: localhost}", Network()),
        ("network: {bind: 10.0.0.5}", Network(bind="10.0.0.5", advertise="10.0.0.5")),
        (
            "network: {bind: 0.0.0.0, advertise: 10.0.0.5, trust: [10.0.0.7]}",
            Network(bind="0.0.0.0", advertise="10.0.0.5", trust=("10.0.0.7/32",)),
        ),
        ('network: {bind: "::", advertise: "fd00:0::5"}', Network(bind="::", advertise="fd00::5")),
        ("network: {bind: 10.0.0.5, advertise: 192.0.2.1}", Network(bind="10.0.0.5", advertise="192.0.2.1")),
    ],
)
def test_what_may_be_written(tmp_path: Path, text: str, expected: Network) -> None:
    assert network(tmp_path, text) == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{bind: 0.0.0.0}", "2: network: .*0.0.0.0 is no address that others can ask: give advertise"),
        ("{bind: 10.0.0.5, advertise: 0.0.0.0}", "is no address that others can ask"),
        ('{bind: "::", advertise: 10.0.0.5}', "different families"),
        ("{advertise: 10.0.0.5}", "nobody reaches 10.0.0.5 when instances listen on 127.0.0.1"),
        ('{bind: "10.0.0.5:80"}', "2: network.bind.*not an IP address"),
        ("{bind: shop.example}", "not an IP address"),
        ('{bind: "fe80::1"}', "not reached from other machines"),
        ("{trust: [everybody]}", "network.trust.*not an address or a network"),
    ],
)
def test_mistakes_have_their_place(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        network(tmp_path, f"network: {text}")


def test_gateways_elsewhere_must_reach_the_instances(tmp_path: Path) -> None:
    door = 'gateway: {xds: {listen: "10.0.0.5:9901", token: "secret:env:T"}}'
    with pytest.raises(
        ConfigError, match=r"2: gateway\.xds\.listen: .*cannot reach instances on 127.0.0.1; set network"
    ):
        network(tmp_path, door)
    assert network(tmp_path, f"{door}\nnetwork: {{bind: 10.0.0.5}}").bind == "10.0.0.5"


def test_an_address_of_another_machine_is_refused_before_anything_starts() -> None:
    with pytest.raises(ConfigError, match=f"cannot listen on {ELSEWHERE}: Cannot assign") as caught:
        check_bind(Network(bind=ELSEWHERE, advertise=ELSEWHERE), RealWorld())
    assert "ip -brief address" in caught.value.remedy
    for here in ("127.0.0.1", "0.0.0.0"):
        check_bind(Network(bind=here, advertise="127.0.0.1"), RealWorld())


def test_an_address_of_ipv6_is_written_in_brackets() -> None:
    assert str(Address(host="::1", port=80)) == "[::1]:80"
