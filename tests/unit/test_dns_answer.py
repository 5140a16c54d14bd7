"""What is answered to which question."""

from __future__ import annotations

import ipaddress
from collections import Counter

import dns.flags
import dns.message
import dns.name
import dns.rdatatype
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless.api.dns.answer import shuffled
from gapless.api.dns.lookup import Target
from gapless.testing import FakeWorld
from tests.unit.dns_rig import FakeLookup, ask, catalog, summary, target, texts

NOBODY = ("NXDOMAIN", [], ["SOA"])
NOTHING = ("NOERROR", [], ["SOA"])


def test_a_service_leads_to_its_instances() -> None:
    lookup = catalog(target(1), target(2, address="10.9.0.2"))
    assert summary(ask(lookup, "web.service.consul")) == (
        "NOERROR",
        ["web.service.consul. A 10.0.0.1", "web.service.consul. A 10.9.0.2"],
        [],
    )


def test_ports_come_with_targets_that_resolve_again() -> None:
    lookup = catalog(target(1, weight=3), target(2, address="10.9.0.2"), target(3, address="db.example"))
    response = ask(lookup, "web.service.consul", "SRV")
    assert texts(response.answer) == [
        "web.service.consul. SRV 1 1 8002 0a090002.addr.dc1.consul.",
        "web.service.consul. SRV 1 1 8003 db.example.",
        "web.service.consul. SRV 1 3 8001 n1.node.dc1.consul.",
    ]
    assert texts(response.additional) == ["0a090002.addr.dc1.consul. A 10.9.0.2", "n1.node.dc1.consul. A 10.0.0.1"]
    for line in texts(response.additional):
        name, _, address = line.split()
        assert summary(ask(lookup, name))[1] == [f"{name} A {address}"]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("WEB.Service.CONSUL", ["10.0.0.1", "10.0.0.2"]),
        ("v2.web.service.dc1.consul", ["10.0.0.2"]),
        ("_web._tcp.service.consul", ["10.0.0.1", "10.0.0.2"]),
        ("_web._V2.service.consul", ["10.0.0.2"]),
        ("n2.node.consul", ["10.0.0.2"]),
        ("ns.consul", ["127.0.0.1"]),
    ],
)
def test_names_lead_to(name: str, wanted: list[str]) -> None:
    lookup = catalog(target(1), target(2, tags=("v2",)))
    code, found, _ = summary(ask(lookup, name))
    assert code == "NOERROR"
    assert [line.split()[2] for line in found] == wanted
    assert {line.split()[0] for line in found} == {f"{name}."}, "names are repeated as they were asked"


@pytest.mark.parametrize(
    ("name", "rdtype", "wanted"),
    [
        ("nobody.service.consul", "A", NOBODY),
        ("v9.web.service.consul", "A", NOBODY),
        ("web.service.dc2.consul", "A", NOBODY),
        ("nobody.node.consul", "A", NOBODY),
        ("odd.consul", "A", NOBODY),
        ("web.service.consul", "AAAA", NOTHING),
        ("web.service.consul", "MX", NOTHING),
        ("n1.node.consul", "SRV", NOTHING),
        ("service.consul", "A", NOTHING),
        ("consul", "A", NOTHING),
        ("web.service.example", "A", ("REFUSED", [], [])),
        ("1.0.0.10.in-addr.arpa", "PTR", ("REFUSED", [], [])),
        ("consul", "AXFR", ("REFUSED", [], [])),
    ],
)
def test_what_is_not_there(name: str, rdtype: str, wanted: object) -> None:
    assert summary(ask(catalog(target(1)), name, rdtype)) == wanted


def test_only_those_that_may_be_asked_are_in_the_zone() -> None:
    lookup = catalog(target(1, status="critical"), target(2, status="warning"), target(3))
    assert [line[-8:] for line in summary(ask(lookup, "web.service.consul"))[1]] == ["10.0.0.2", "10.0.0.3"]
    strict = ask(lookup, "web.service.consul", only_passing=True)
    assert [line[-8:] for line in texts(strict.answer)] == ["10.0.0.3"]
    assert summary(ask(catalog(target(1, status="critical")), "web.service.consul", "SRV")) == NOBODY


def test_addresses_of_both_families_and_host_names() -> None:
    lookup = catalog(target(1, address="::1"), target(2, address="db.example"))
    assert summary(ask(lookup, "web.service.consul")) == NOTHING
    assert texts(ask(lookup, "web.service.consul", "AAAA").answer) == ["web.service.consul. AAAA ::1"]
    alias = catalog(target(1, address="db.example"), target(2, address="db2.example"))
    assert len(texts(ask(alias, "web.service.consul").answer)) == 1, "an alias stands alone"
    assert ask(alias, "web.service.consul").answer[0].rdtype == dns.rdatatype.CNAME


def test_any_is_all_there_is() -> None:
    found = texts(ask(catalog(target(1)), "web.service.consul", "ANY").answer)
    assert found == ["web.service.consul. A 10.0.0.1", "web.service.consul. SRV 1 1 8001 n1.node.dc1.consul."]


def test_the_apex_tells_who_serves_the_zone() -> None:
    lookup = catalog()
    soa = "consul. SOA ns.consul. hostmaster.consul. 7 3600 600 86400 0"
    assert texts(ask(lookup, "consul", "SOA").answer) == [soa]
    servers = ask(lookup, "consul", "NS", address="10.1.1.1")
    assert texts(servers.answer) == ["consul. NS ns.consul."]
    assert texts(servers.additional) == ["ns.consul. A 10.1.1.1"]
    assert texts(ask(lookup, "consul", "ANY").answer) == ["consul. NS ns.consul.", soa]


def test_a_zone_of_another_name_in_another_data_centre() -> None:
    lookup = catalog(target(1))
    response = ask(lookup, "web.service.West.sd.example", "SRV", domain="sd.example", datacenter="West", ttl_s=5)
    assert texts(response.answer) == ["web.service.West.sd.example. SRV 1 1 8001 n1.node.west.sd.example."]
    assert {rrset.ttl for rrset in (*response.answer, *response.additional)} == {5}
    missing = ask(lookup, "x.service.sd.example", domain="sd.example", ttl_s=5).authority[0]
    assert (missing.ttl, missing[0].minimum) == (5, 5)


@pytest.mark.parametrize("node", ["", "a..b", "x" * 64, ".".join(["y" * 60] * 5)])
def test_a_node_whose_name_is_no_host_name_is_pointed_to_by_its_address(node: str) -> None:
    response = ask(catalog(target(1, node=node)), "web.service.consul", "SRV")
    assert texts(response.additional) == ["0a000001.addr.dc1.consul. A 10.0.0.1"]


def test_an_address_that_no_record_can_hold_is_left_out() -> None:
    lookup = catalog(target(1, address="not a..name"), target(2))
    assert texts(ask(lookup, "web.service.consul").answer) == ["web.service.consul. A 10.0.0.2"]
    assert len(texts(ask(lookup, "web.service.consul", "SRV").answer)) == 1


def test_ports_and_weights_beyond_16_bits_are_cut() -> None:
    lookup = catalog(target(1, port=70_000, weight=-3))
    assert texts(ask(lookup, "web.service.consul", "SRV").answer) == [
        "web.service.consul. SRV 1 0 65535 n1.node.dc1.consul."
    ]


def test_instances_on_one_address_are_one_answer_but_several_ports() -> None:
    lookup = catalog(*(target(1, port=port) for port in (1, 2, 3)))
    assert len(texts(ask(lookup, "web.service.consul").answer)) == 1
    response = ask(lookup, "web.service.consul", "SRV")
    assert len(texts(response.answer)) == 3
    assert len(texts(response.additional)) == 1


def test_everybody_comes_first_as_often() -> None:
    dice = FakeWorld(3).random
    first = Counter(shuffled("abcd", dice, 2)[0] for _ in range(4000))
    assert set(first) == set("abcd")
    assert all(850 < count < 1150 for count in first.values())


@given(st.lists(st.integers(), unique=True), st.integers(0, 50), st.integers(0))
def test_a_shuffle_keeps_what_it_is_given(items: list[int], most: int, seed: int) -> None:
    found = shuffled(items, FakeWorld(seed).random, most)
    assert len(found) == min(most, len(items))
    assert len(set(found) & set(items)) == len(found)


ADDRESSES = st.one_of(
    st.just(""), st.ip_addresses().map(str), st.sampled_from(["db.example", "a..b", "fe80::1%eth0", "ü.example"])
)
TARGETS = st.builds(
    Target,
    node=st.text("aZ.-_ é\x00", max_size=70),
    node_address=st.ip_addresses().map(str),
    port=st.integers(-1, 2**17),
    address=ADDRESSES,
    tags=st.tuples(st.sampled_from(["v1", "V2"])),
    weight=st.integers(-1, 2**17),
    status=st.sampled_from(["passing", "warning", "critical"]),
)


@given(st.lists(TARGETS, max_size=20), st.sampled_from(["SRV", "A", "AAAA", "ANY", "TXT"]))
def test_whatever_is_registered_is_answered_with_what_is_registered(targets: list[Target], rdtype: str) -> None:
    response = ask(FakeLookup({"web": targets}), "web.service.consul", rdtype)
    usable = [it for it in targets if it.status != "critical"]
    ends = {min(max(it.port, 0), 65535) for it in usable}
    hosts = {str(ipaddress.ip_address(host)) for it in usable if (host := plain(it.address or it.node_address))}
    for rrset in response.answer:
        if rrset.rdtype == dns.rdatatype.SRV:
            assert rrset[0].port in ends
        elif rrset.rdtype != dns.rdatatype.CNAME:
            assert str(ipaddress.ip_address(rrset[0].address)) in hosts
    assert bool(response.flags & dns.flags.AA)
    assert bool(response.authority) is not bool(response.answer)


def plain(host: str) -> str:
    host = host.partition("%")[0]
    return host if ":" in host or host.replace(".", "").isdecimal() else ""
