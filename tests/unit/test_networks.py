"""Networks as a test and as an expression: both say the same."""

from __future__ import annotations

import ipaddress
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless.config.expressions import compiled
from gapless.core.networks import expression, network, within

groups = st.sampled_from([0, 0, 0, 1, 0x20, 0xFD00, 0xFFFF])
addresses6 = st.lists(groups, min_size=8, max_size=8).map(
    lambda parts: ipaddress.IPv6Address(int.from_bytes(b"".join(part.to_bytes(2, "big") for part in parts), "big"))
)
addresses4 = st.lists(st.sampled_from([0, 1, 10, 127, 128, 200, 255]), min_size=4, max_size=4).map(
    lambda parts: ipaddress.IPv4Address(bytes(parts))
)


def fits(pattern: str, address: str) -> bool:
    return compiled(pattern).fullmatch(address) is not None


@given(addresses4, st.integers(0, 32), addresses4)
def test_of_ipv4(base: ipaddress.IPv4Address, length: int, address: ipaddress.IPv4Address) -> None:
    found = str(ipaddress.ip_network(f"{base}/{length}", strict=False))
    assert fits(expression((found,)), str(base))
    assert fits(expression((found,)), str(address)) is within(str(address), (found,))


@given(addresses6, st.integers(0, 8), addresses6)
def test_of_ipv6(base: ipaddress.IPv6Address, parts: int, address: ipaddress.IPv6Address) -> None:
    if (base.ipv4_mapped or address.ipv4_mapped) is not None:
        return  # no client has such an address: sockets of the gateway are of one family
    found = str(ipaddress.ip_network(f"{base}/{parts * 16}", strict=False))
    pattern = expression((found,))
    assert fits(pattern, str(base)), pattern
    assert fits(pattern, str(address)) is within(str(address), (found,)), pattern


def test_of_many_addresses_near_a_network() -> None:
    dice = random.Random(7)
    for _ in range(300):
        parts = [dice.choice([0, 0, 1, 0xFD00]) for _ in range(8)]
        length = dice.randrange(0, 9)
        address = [*parts[:length], *(dice.choice([0, 1]) for _ in range(8 - length))]
        if dice.random() < 0.5 and length:
            address[dice.randrange(length)] ^= dice.choice([0, 1])
        texts = [str(ipaddress.IPv6Address(":".join(f"{each:x}" for each in found))) for found in (parts, address)]
        found = str(ipaddress.ip_network(f"{texts[0]}/{length * 16}", strict=False))
        assert fits(expression((found,)), texts[1]) is within(texts[1], (found,)), (found, texts[1])


@pytest.mark.parametrize(
    ("text", "found"),
    [("10.1.2.3", "10.1.2.3/32"), (" 10.0.0.0/8 ", "10.0.0.0/8"), ("::1", "::1/128"), ("fd00::/16", "fd00::/16")],
)
def test_an_address_is_a_network(text: str, found: str) -> None:
    assert network(text) == found


@pytest.mark.parametrize(
    ("text", "why"),
    [("10.0.0.1/8", "not an address"), ("shop", "not an address"), ("", "not an address"), ("fd00::/8", "at a colon")],
)
def test_what_is_none_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        network(text)
    assert not within(text, ("0.0.0.0/0",))
