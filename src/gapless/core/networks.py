"""Networks of addresses, as a test and as a regular expression over addresses in their usual text form (RFC 5952).

Data planes route by headers; the one with the client's address is text.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache

_OCTET = r"\d+"
_GROUP = "[0-9a-f]{1,4}"


def network(text: str) -> str:
    """`10.1.2.3` or `10.0.0.0/8` as `10.1.2.3/32`, `10.0.0.0/8`. Raises ValueError."""
    try:
        found = ipaddress.ip_network(text.strip())
    except ValueError:
        raise ValueError('not an address or a network; write for instance "10.0.0.0/8"') from None
    if found.version == 6 and found.prefixlen % 16:
        raise ValueError("networks of IPv6 end at a colon: /16, /32, /48, /64 … /128")
    return str(found)


def within(address: str, networks: tuple[str, ...]) -> bool:
    """Whether an address is in one of them. What is no address is in none."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(found in _network(each) for each in networks)


@lru_cache(maxsize=1_000)
def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    return ipaddress.ip_network(text)


@lru_cache(maxsize=1_000)
def expression(networks: tuple[str, ...]) -> str:
    """Fits, as a whole, exactly the addresses in one of the networks."""
    return "|".join(alternative for each in networks for alternative in _alternatives(_network(each)))


def _alternatives(found: ipaddress.IPv4Network | ipaddress.IPv6Network) -> list[str]:
    return [_ipv4(found)] if isinstance(found, ipaddress.IPv4Network) else _ipv6(found)


def _ipv4(found: ipaddress.IPv4Network) -> str:
    whole, bits = divmod(found.prefixlen, 8)
    octets = found.network_address.packed
    parts = [str(octet) for octet in octets[:whole]]
    if bits:
        parts.append(f"(?:{'|'.join(str(octets[whole] + more) for more in range(1 << 8 - bits))})")
    return r"\.".join([*parts, *[_OCTET] * (4 - len(parts))])


def _ipv6(found: ipaddress.IPv6Network) -> list[str]:
    """Of an address's zero groups the longest run (of two or more) is written `::`. It may lie behind the network's own
    groups, reach into them, or lie among them."""
    packed = found.network_address.packed
    groups = [f"{packed[i] << 8 | packed[i + 1]:x}" for i in range(0, found.prefixlen // 8, 2)]
    rest = 8 - len(groups)
    if not rest:
        return [str(found.network_address)]
    if not groups:
        return ["[0-9a-f:.]*:[0-9a-f:.]*"]
    behind = "".join(f"{group}:" for group in groups)
    ways = [f"{behind}[0-9a-f:]+"]
    for first, last in _runs(groups):
        before, after = ":".join(groups[:first]), groups[last:]
        if last == len(groups):
            ways.append(f"{before}::(?:{_GROUP}(?::{_GROUP}){{0,{rest - 1}}})?")
        elif last - first > 1:
            ways.append(f"{before}::{':'.join(after)}(?::{_GROUP}){{{rest}}}")
    return ways


def _runs(groups: list[str]) -> list[tuple[int, int]]:
    """Each run of zeros: where it begins and ends."""
    starts = [i for i, group in enumerate(groups) if group == "0" and (not i or groups[i - 1] != "0")]
    return [(i, next((j for j in range(i, len(groups)) if groups[j] != "0"), len(groups))) for i in starts]
