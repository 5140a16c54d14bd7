"""Who a request comes from when a proxy passes it on: what trusted peers say, and nobody else.

Believed are `X-Forwarded-For` and `X-Forwarded-Proto`, or, where neither is there, `Forwarded` (RFC 7239). Both at once
would let a client speak through a proxy that knows only one of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import NamedTuple

from gapless.core.errors import ConfigError
from gapless.server.settings import LOOPBACK
from gapless.service.asgi import App, Receive, Scope, Send

EVERYBODY = "*"
SCHEMES = frozenset({"http", "https", "ws", "wss"})

Network = IPv4Network | IPv6Network


class Trust(NamedTuple):
    """The networks whose word counts. A Unix socket's peers are on this machine, as loopback's are."""

    networks: tuple[Network, ...] = tuple(map(ip_network, LOOPBACK))

    def trusts(self, host: str | None) -> bool:
        """`host` is None, empty or a path for a Unix socket."""
        return not host or host.startswith("/") or _within(self.networks, host)

    def apply(self, scope: Scope, fields: Mapping[bytes, bytes]) -> None:
        """Of a request that came from a trusted peer: set the client and the scheme that it speaks for."""
        chain = fields.get(b"x-forwarded-for")
        scheme = fields.get(b"x-forwarded-proto")
        if chain is None and scheme is None:
            if b"forwarded" not in fields:
                return
            chain, scheme = self._forwarded(fields[b"forwarded"])
        if chain and (client := self._client(chain.decode("latin-1").split(","))):
            scope["client"] = client
        if scheme and (name := scheme.strip().lower().decode("latin-1")) in SCHEMES:
            scope["scheme"] = scheme_for(scope["type"], name)

    def _client(self, hops: Sequence[str]) -> tuple[str, int] | None:
        """The last that is not one of ours; each proxy adds the peer that it saw at the end."""
        seen = [address for hop in hops if (address := host_and_port(hop.strip()))]
        return next((one for one in reversed(seen) if not _within(self.networks, one[0])), seen[0] if seen else None)

    def _forwarded(self, value: bytes) -> tuple[bytes, bytes | None]:
        """The hops' addresses, and the scheme at the first of them that is told."""
        pairs = [dict(_pairs(element)) for element in value.decode("latin-1").split(",")]
        hops = ",".join(pair["for"] for pair in pairs if "for" in pair)
        scheme = next((pair["proto"] for pair in pairs if "proto" in pair), "")
        return hops.encode("latin-1"), scheme.encode("latin-1")


class Forwarded:
    """ASGI: what trusted proxies say, put into the scope (HTTP/1.1 does so itself)."""

    def __init__(self, app: App, trust: Trust) -> None:
        self._app = app
        self._trust = trust

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        client = scope.get("client")
        if self._trust.trusts(client and client[0]):
            self._trust.apply(scope, dict(scope["headers"]))
        await self._app(scope, receive, send)


def _pairs(element: str) -> list[tuple[str, str]]:
    found = (pair.partition("=") for pair in element.split(";"))
    return [(name.strip().lower(), value.strip().strip('"')) for name, _, value in found]


@lru_cache(maxsize=4096)
def _within(networks: tuple[Network, ...], host: str) -> bool:
    try:
        address = ip_address(host)
    except ValueError:
        return False
    return any(address in network for network in networks)


def host_and_port(text: str) -> tuple[str, int] | None:
    """`192.0.2.7`, `192.0.2.7:80`, `2001:db8::7`, `[2001:db8::7]:80`; None for whatever is no address (`unknown`)."""
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
        port = port.removeprefix(":")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    else:
        host, port = text, ""
    try:
        ip_address(host)
    except ValueError:
        return None
    return host, int(port) if port.isascii() and port.isdigit() else 0


def scheme_for(kind: str, scheme: str) -> str:
    """A WebSocket's are ws and wss."""
    secure = scheme in ("https", "wss")
    if kind == "websocket":
        return "wss" if secure else "ws"
    return "https" if secure else "http"


def trust_of(given: Sequence[str]) -> Trust:
    """From addresses, networks, or `*` for everybody. Raises ConfigError."""
    if EVERYBODY in given:
        return Trust((ip_network("0.0.0.0/0"), ip_network("::/0")))
    try:
        return Trust(tuple(ip_network(text) for text in given))
    except ValueError as error:
        raise ConfigError(f"--trust: {error}", 'Write an address or a network, like "10.0.0.0/8", or "*".') from error


def checked(given: Sequence[str]) -> tuple[str, ...]:
    """The same texts. Raises ConfigError."""
    trust_of(given)
    return tuple(given)
