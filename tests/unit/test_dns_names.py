"""Names below the zone, taken apart."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless.api.dns.names import Apex, Branch, NameServer, OfAddress, OfNode, OfService, address_label, subject


def labels(name: str) -> list[str]:
    return name.split(".") if name else []


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("", Apex()),
        ("ns", NameServer()),
        ("service", Branch()),
        ("dc1", Branch()),
        ("node.dc1", Branch()),
        ("web.service", OfService("web")),
        ("web.service.dc1", OfService("web")),
        ("v2.web.service", OfService("web", "v2")),
        ("v2.1.web.service.dc1", OfService("web", "v2.1")),
        ("service.service", OfService("service")),
        ("dc1.service", OfService("dc1")),
        ("_web._tcp.service", OfService("web")),
        ("_web._udp.service", OfService("web", "udp")),
        ("_web._v2.service.dc1", OfService("web", "v2")),
        ("_tcp.service", Branch()),
        ("_a._b._c.service", None),
        ("web._tcp.service", None),
        ("alpha.node", OfNode("alpha")),
        ("rack.alpha.node.dc1", OfNode("rack.alpha")),
        ("7f000001.addr.dc1", OfAddress("127.0.0.1")),
        ("00000000000000000000000000000001.addr", OfAddress("::1")),
        ("7f0001.addr", None),
        ("7f00000g.addr", None),
        ("7f  0001.addr", None),
        ("x.7f000001.addr", None),
        ("web", None),
        ("web.query", None),
        ("web.service.dc2", None),
        ("dc2", None),
    ],
)
def test_a_name_asks_for(name: str, wanted: object) -> None:
    assert subject(labels(name), "dc1") == wanted


@given(st.ip_addresses())
def test_an_address_written_as_a_name_is_read_again(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    read = subject([address_label(ip.packed), "addr", "dc1"], "dc1")
    assert isinstance(read, OfAddress)
    assert ipaddress.ip_address(read.address) == ip


TEXT = st.text("a1._-é\x00\udc80", max_size=9)


@given(st.lists(TEXT, max_size=6), TEXT)
def test_no_name_is_too_odd(odd: list[str], datacenter: str) -> None:
    for kind in ("service", "node", "addr", datacenter):
        subject([*odd, kind], datacenter)
