"""The way in: where it listens, how it asks the instances of a service, and what is done to requests for a test."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from gapless.core.model.address import Address

FAULTS_FOR_S = 3600.0
"""Longest time that a fault may last: nobody forgets one for longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """Paths of two PEM files: the chain, leaf first, and its key."""

    cert: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrance:
    """Where the gateway listens. With certificates the clients speak TLS; the name they ask for chooses the one."""

    listen: Address
    certificates: tuple[Certificate, ...] = ()
    redirect: Address | None = None
    """Plain HTTP that sends everybody to https on `listen`."""
    zone: str = ""
    """Where the gateway is: instances there are asked first. Empty: all are equal."""
    proxies: int = 0
    """Trusted proxies before it: the client is the address so far from the end of `x-forwarded-for`. 0: whoever
    connects."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """Where gateways elsewhere are told their routes, and what they must show. The paths are of PEM files."""

    listen: Address
    token: str = field(default="", repr=False)
    """Empty: none is asked for. In the file it is a reference to a secret."""
    cert: str = ""
    """With `key`: the door speaks TLS."""
    key: str = ""
    client_ca: str = ""
    """Only who shows a certificate of one of these is let in."""


class Protocol(StrEnum):
    """What the instances of a service speak, without TLS. `grpc` is HTTP/2 with deadlines and errors of gRPC's own."""

    HTTP = "http"
    HTTP2 = "http2"
    GRPC = "grpc"


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """How the gateway asks the instances of a service."""

    protocol: Protocol = Protocol.HTTP
    connect_s: float = 1.0
    idle_s: float = 1.0
    """How long an unused connection is kept: shorter than the instances' own limit (see `gateway.envoy.clusters`)."""
    slow_start_s: float = 0.0
    """In which a new instance's share grows to that of the others."""
    eject_after: int = 5
    """Answers of 502, 503 or 504 in a row that set an instance aside; 0: none do."""
    eject_for_s: float = 5.0
    eject_most: int = 50
    """Percent of a release's instances that may be set aside at once."""
    connections: int = 0
    """Most connections to a release's instances; 0: only against memory."""
    zones: tuple[str, ...] = ()
    """Where the instances are to run; with two or more, one takes over from another."""
    hedge_s: float = 0.5
    """With zones: after so long without an answer, what may be repeated is asked elsewhere too. 0: never."""
    check: str = ""
    """With zones: the path by which the gateway itself asks whether an instance is there; empty: it must accept a
    connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cors:
    """Which pages of other origins may ask, and how (Fetch §3.2)."""

    origins: tuple[str, ...]
    """`https://shop.example`, `https://*.shop.example` or `*`."""
    methods: tuple[str, ...] = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
    headers: tuple[str, ...] = ()
    expose: tuple[str, ...] = ()
    credentials: bool = False
    max_age_s: int = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What is done to a share of a service's requests on purpose, until a moment."""

    service: str
    until_at: float
    delay_s: float = 0.0
    abort: int = 0
    """Status that is answered in the service's place; 0: none."""
    share: float = 100.0
    """Percent of the requests."""
    header: str = ""
    """`name` or `name=value`: only requests with it."""
