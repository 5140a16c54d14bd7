"""Instances by DNS: what an address asks for, and what records mean."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless.core.errors import ConfigError
from gapless.discovery.sources.dns import LEAST_S, MOST_S, WEIGHTLESS, Srv, Zone, pause_s, placed, zone_of

HOSTS = {"a.": ("10.0.0.1",), "b.": ("10.0.0.2", "10.0.0.3"), "c.": ()}


@pytest.mark.parametrize(
    ("address", "zone", "name"),
    [
        (
            "dns://127.0.0.1:8600/service.consul",
            Zone("{service}.service.consul", "127.0.0.1", 8600),
            "stock.service.consul",
        ),
        ("dns://[::1]/local?port=80", Zone("{service}.local", "::1", 53, 80), "stock.local"),
        ("dns:///_http._tcp.{service}.x", Zone("_http._tcp.{service}.x"), "_http._tcp.stock.x"),
        ("dns:///%7Bservice%7D-live.x/", Zone("{service}-live.x"), "stock-live.x"),
    ],
)
def test_an_address(address: str, zone: Zone, name: str) -> None:
    assert zone_of(address) == zone
    assert zone.name("stock") == name


@pytest.mark.parametrize("address", ["dns://1.1.1.1", "dns:///x?port=http", "dns:///x?port=70000", "dns:///x?q=1"])
def test_a_wrong_address(address: str) -> None:
    with pytest.raises(ConfigError):
        zone_of(address)


def test_records_with_addresses_become_instances() -> None:
    found = placed([Srv(1, 20, 81, "a."), Srv(1, 0, 80, "b."), Srv(1, 1, 80, "c."), Srv(1, 1, 80, "d.")], HOSTS)
    assert [(each.instance, str(each.address), each.weight, each.draining) for each in found] == [
        ("b.:80", "10.0.0.2:80", WEIGHTLESS, False),
        ("a.:81", "10.0.0.1:81", 20.0, False),
    ]
    assert placed([], {}) == ()


def test_worse_priorities_wait_until_there_is_nobody_better() -> None:
    found = placed([Srv(20, 1, 80, "a."), Srv(10, 1, 80, "b."), Srv(5, 1, 80, "c.")], HOSTS)
    assert {each.instance: each.draining for each in found} == {"a.:80": True, "b.:80": False}


@given(st.floats(0, 1e9))
def test_the_next_look_comes_with_the_time_to_live_within_bounds(ttl_s: float) -> None:
    assert LEAST_S <= pause_s(ttl_s) <= MOST_S
    assert pause_s(ttl_s) == ttl_s or not LEAST_S < ttl_s < MOST_S
