"""Instances that a name server knows: `dns://[SERVER[:PORT]]/DOMAIN[?port=PORT]`.

SRV records of `SERVICE.DOMAIN` tell address, port and weight; with `?port=` A and AAAA records are asked for, and the
port is that one. A DOMAIN with `{service}` in it is the whole name: `dns:///_http._tcp.{service}.shop.svc.cluster.local`.
Without SERVER the system's resolvers are asked. DNS tells nothing by itself: it is asked again when its time to live is
over.

Needs the package `dnspython` (`gapless[registry]`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote

from gapless.core.errors import ConfigError, DiscoveryLost
from gapless.core.model import Address, Endpoint
from gapless.core.ports import World
from gapless.discovery.sources.source import USAGE, Reporter, options_of

LEAST_S = 1.0
"""Between two looks, whatever the time to live: registries say 0, so that nobody else keeps an answer."""
MOST_S = 60.0
"""Nobody shall be asked for longer on an old answer."""
ANSWER_S = 5.0
HERE = "{service}"
WEIGHTLESS = 0.1
"""The weight of who has 0: by RFC 2782 it is asked, but rarely."""


class Zone(NamedTuple):
    """Where to ask, and for what. `port` 0: SRV records tell it."""

    template: str
    server: str = ""
    server_port: int = 53
    port: int = 0

    def name(self, service: str) -> str:
        return self.template.replace(HERE, service)


class Srv(NamedTuple):
    priority: int
    weight: int
    port: int
    target: str


class Looked(NamedTuple):
    """What an answer says, and for how many seconds."""

    endpoints: tuple[Endpoint, ...]
    ttl_s: float


def zone_of(address: str) -> Zone:
    """Raises ConfigError."""
    parts, given = options_of(address, "port")
    template, port = unquote(parts.path).strip("/"), dict(given).get("port", "0")
    if not template or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"discovery {address!r} names no domain, or a port that is none", USAGE)
    if HERE not in template:
        template = f"{HERE}.{template}"
    return Zone(template, parts.hostname or "", parts.port or 53, int(port))


def pause_s(ttl_s: float) -> float:
    """Until the next look."""
    return min(max(ttl_s, LEAST_S), MOST_S)


def placed(records: Iterable[Srv], hosts: Mapping[str, tuple[str, ...]]) -> tuple[Endpoint, ...]:
    """One endpoint per record whose target has an address. Those of a worse priority are draining: they are asked when
    there is nobody better (RFC 2782)."""
    known = sorted(record for record in records if hosts.get(record.target) and record.port)
    best = known[0].priority if known else 0
    return tuple(
        Endpoint(
            instance=f"{record.target}:{record.port}",
            release="",
            address=Address(host=hosts[record.target][0], port=record.port),
            weight=float(record.weight) or WEIGHTLESS,
            draining=record.priority > best,
        )
        for record in known
    )


class DnsSource:
    """`discovery.source.Source`."""

    def __init__(self, zone: Zone, world: World) -> None:
        self._zone, self._world = zone, world
        self._resolver: Any = None

    async def follow(self, service: str) -> AsyncGenerator[tuple[Endpoint, ...]]:
        while True:
            looked = await self._look(self._zone.name(service))
            yield looked.endpoints
            await self._world.sleep(pause_s(looked.ttl_s))

    def reporter(self) -> Reporter | None:
        return None

    async def aclose(self) -> None: ...

    async def _look(self, name: str) -> Looked:
        return await (self._places(name) if self._zone.port else self._services(name))

    async def _services(self, name: str) -> Looked:
        answer = await self._ask(name, "SRV")
        if answer is None:
            return Looked((), 0.0)
        records = [Srv(each.priority, each.weight, each.port, each.target.to_text()) for each in answer]
        hosts = _additional(answer)
        missing = {record.target for record in records} - hosts.keys()
        for target, found in zip(missing, await asyncio.gather(*map(self._hosts, missing)), strict=True):
            hosts[target] = found.hosts
        return Looked(placed(records, hosts), float(answer.rrset.ttl))

    async def _places(self, name: str) -> Looked:
        found, port = await self._hosts(name), self._zone.port
        return Looked(
            tuple(
                Endpoint(instance=f"{host}:{port}", release="", address=Address(host=host, port=port))
                for host in found.hosts
            ),
            found.ttl_s,
        )

    async def _hosts(self, name: str) -> _Hosts:
        answers = [each for each in await asyncio.gather(self._ask(name, "A"), self._ask(name, "AAAA")) if each]
        hosts = tuple(record.address for answer in answers for record in answer)
        return _Hosts(hosts, min((float(answer.rrset.ttl) for answer in answers), default=0.0))

    async def _ask(self, name: str, kind: str) -> Any:
        """The answer; None when there are no such records. Raises DiscoveryLost."""
        import dns.exception
        import dns.name
        import dns.resolver

        resolver = self._opened()
        try:
            absolute = dns.name.from_text(name)
            return await resolver.resolve(absolute, kind, lifetime=ANSWER_S, search=False)
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            return None
        except (dns.exception.DNSException, OSError) as error:
            server = self._zone.server or "the system's resolver"
            raise DiscoveryLost(f"{server} does not answer for {name}: {error}") from error

    def _opened(self) -> Any:
        """Raises ConfigError without dnspython, or for a server that is no IP address."""
        if self._resolver is None:
            try:
                from dns.asyncresolver import Resolver
            except ImportError as error:
                raise ConfigError("dns:// needs dnspython", "pip install 'gapless[registry]'") from error
            resolver = Resolver(configure=not self._zone.server)
            if self._zone.server:
                try:
                    resolver.nameservers = [self._zone.server]
                except ValueError as error:
                    raise ConfigError(f"the name server {self._zone.server!r} is no IP address", USAGE) from error
                resolver.port = self._zone.server_port
            self._resolver = resolver
        return self._resolver


class _Hosts(NamedTuple):
    hosts: tuple[str, ...]
    ttl_s: float


def _additional(answer: Any) -> dict[str, tuple[str, ...]]:
    """The addresses that the server sent along."""
    hosts: dict[str, tuple[str, ...]] = {}
    for rrset in answer.response.additional:
        for record in rrset:
            if (host := getattr(record, "address", None)) is not None:
                name = rrset.name.to_text()
                hosts[name] = (*hosts.get(name, ()), host)
    return hosts
