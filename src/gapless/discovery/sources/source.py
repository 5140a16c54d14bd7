"""Where instances are found: one seam for registries, DNS and fixed lists, and how each is written as an address.

    consul://127.0.0.1:8500               any agent that speaks Consul's HTTP API, `gapless registry` too
    dns://127.0.0.1:8600/service.consul   SRV records, or A and AAAA with ?port=…
    static://10.0.0.5:9001,10.0.0.6:9001  a fixed list
    etcd://10.0.0.7:2379                  a registry in a store that this process reaches by itself

Whatever the source, `?cache=DIRECTORY` keeps what was known last over a restart of the caller.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Protocol
from urllib.parse import SplitResult, parse_qsl, urlsplit

from gapless.core.errors import ConfigError
from gapless.core.model import Address, Endpoint
from gapless.core.ports import World
from gapless.discovery.sights import Report
from gapless.store import SHARED, open_store

USAGE = (
    "Write consul://HOST:8500, dns://[SERVER[:PORT]]/DOMAIN, static://HOST:PORT[,HOST:PORT…] or etcd://HOST:2379; "
    "docs/discovery.md tells their options."
)
Reporter = Callable[[Report], Awaitable[None]]
"""Tells the registry what was seen of instances. Raises GaplessError or OSError where nobody hears."""


class Source(Protocol):
    """Tells who may be asked."""

    def follow(self, service: str) -> AsyncGenerator[tuple[Endpoint, ...]]:
        """The instances of a service that may be asked: all of them at once, and again after each change. The same ones
        may come twice. Raises GaplessError, OSError or EOFError when the source is lost; it may be followed anew."""
        ...

    def reporter(self) -> Reporter | None:
        """The way to tell what was seen of instances; None where there is nobody to tell."""
        ...

    async def aclose(self) -> None: ...


def source_of(address: str, world: World) -> Source:
    """The source that an address names. Whether it answers shows later. Raises ConfigError."""
    scheme = urlsplit(address).scheme
    if scheme in ("consul", "consuls"):
        from gapless.discovery.sources.consul import ConsulSource, agent_of

        return ConsulSource(agent_of(address), world)
    if scheme == "static":
        from gapless.discovery.sources.static import StaticSource

        return StaticSource.of(address)
    if scheme == "dns":
        from gapless.discovery.sources.dns import DnsSource, zone_of

        return DnsSource(zone_of(address), world)
    if scheme in SHARED:
        from gapless.discovery.sources.store import StoreSource

        return StoreSource(lambda: open_store(address, world), world)
    raise ConfigError(f"discovery {address!r} is no address of a registry", USAGE)


def options_of(address: str, *known: str) -> tuple[SplitResult, list[tuple[str, str]]]:
    """The parts of an address, and the options behind its `?`. Raises ConfigError for one that is not known."""
    try:
        parts = urlsplit(address)
        _ = parts.port  # raises for one that is no number
    except ValueError as error:
        raise ConfigError(f"discovery {address!r} is no address: {error}", USAGE) from error
    options = parse_qsl(parts.query, keep_blank_values=True)
    unknown = sorted({name for name, _ in options} - set(known))
    if unknown:
        there = f"There are: {', '.join(known)}." if known else "It has none."
        raise ConfigError(f"discovery {parts.scheme}://… has no option {', '.join(unknown)}", there)
    return parts, options


def without_option(address: str, name: str) -> tuple[str, str]:
    """The address without an option, and the option's value (empty when it was not there)."""
    head, mark, query = address.partition("?")
    pairs = query.split("&") if mark else []
    rest = [pair for pair in pairs if pair.partition("=")[0] != name]
    found = dict(parse_qsl(query)).get(name, "")
    return f"{head}?{'&'.join(rest)}" if rest else head, found


def endpoint_of(instance: str, host: str, port: int, meta: Mapping[str, str], weight: float) -> Endpoint:
    """What a registry knows of an instance, as its callers see it: `meta` tells its zone, and its weight where the
    registry's own are whole numbers. Weight 0: no new requests while there is anybody else."""
    weight = _weight(meta.get("weight", ""), weight)
    return Endpoint(
        instance=instance,
        release="",  # a registry has no split: all versions that it lists are asked alike
        address=Address(host=host, port=port),
        zone=meta.get("zone", ""),
        weight=weight if weight > 0 else 1.0,
        draining=weight <= 0,
    )


def _weight(told: str, registered: float) -> float:
    try:
        weight = float(told)
    except ValueError:
        return registered
    return weight if math.isfinite(weight) else registered
