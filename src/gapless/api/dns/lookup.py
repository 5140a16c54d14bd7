"""What DNS needs to know of the catalog, and how its zone is set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

DOMAIN = "consul"
DATACENTER = "dc1"
PAYLOAD = 8192
"""Bytes of the greatest answer over UDP, the client permitting. Much for the Internet, where what is above 1,232 may be
lost; but HAProxy never asks again over TCP, and a list that is cut short takes servers out of its rotation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """An instance, as a name leads to it. `address` is an IP address, a host name, or empty: then the node's holds."""

    node: str
    node_address: str
    port: int
    address: str = ""
    tags: tuple[str, ...] = ()
    weight: int = 1
    """Its share beside the others, in its present state (SRV weight: 0 to 65535)."""
    status: str = "passing"
    """The worst of its checks and its node's: passing, warning or critical."""


class Lookup(Protocol):
    """The catalog as DNS reads it: from memory, so that no question waits. Names are given in lower case and mean
    every name that is written like them but for case."""

    @property
    def revision(self) -> int:
        """Rises with every change; the zone's serial number."""
        ...

    def targets(self, service: str) -> Sequence[Target]:
        """Every instance, whatever its status; none for an unknown service."""
        ...

    def node_address(self, node: str) -> str | None:
        """Its IP address or host name; None: there is no such node."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Zone:
    """How the zone is served."""

    domain: str = DOMAIN
    datacenter: str = DATACENTER
    address: str = "127.0.0.1"
    """Of the name server: what `ns.<domain>` leads to."""
    ttl_s: int = 0
    """How long an answer may be kept by others. At 0 nobody is sent to an instance that has left."""
    only_passing: bool = False
    """Leave out instances in warning, too."""
    payload: int = PAYLOAD


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Of the listener: what one client can take from the others."""

    connections: int = 512
    """At once, over TCP. Above it the one that was idle longest makes room."""
    idle_s: float = 10.0
    """A connection that asks nothing (complete) for so long is closed (RFC 7766 wants some seconds)."""
    backlog: int = 256 * 1024
    """Bytes of answers over UDP that the kernel does not take yet; above them answers are dropped, as a network may."""
