"""Instances that somebody wrote down: `static://10.0.0.5:9001,10.0.0.6:9001` for whatever service is asked for, or
`static://?inventory=10.0.0.5:9001&payment=10.0.0.7:9001,10.0.0.8:9001` by name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping
from urllib.parse import parse_qsl, urlsplit

from gapless.core.errors import ConfigError
from gapless.core.model import Address, Endpoint
from gapless.discovery.sources.source import USAGE, Reporter


class StaticSource:
    """`discovery.source.Source`. `anybody` stands for the services that `by_name` does not name."""

    def __init__(self, by_name: Mapping[str, tuple[Endpoint, ...]], anybody: tuple[Endpoint, ...] = ()) -> None:
        self._by_name, self._anybody = by_name, anybody

    @classmethod
    def of(cls, address: str) -> StaticSource:
        """Raises ConfigError."""
        parts = urlsplit(address)
        try:
            by_name = {name: endpoints(_listed(text)) for name, text in parse_qsl(parts.query, strict_parsing=True)}
            return cls(by_name, endpoints(_listed(parts.netloc)))
        except ValueError as error:
            raise ConfigError(f"discovery {address!r}: {error}", USAGE) from error

    async def follow(self, service: str) -> AsyncGenerator[tuple[Endpoint, ...]]:
        yield self._by_name.get(service, self._anybody)
        await asyncio.Event().wait()

    def reporter(self) -> Reporter | None:
        return None

    async def aclose(self) -> None: ...


def endpoints(addresses: Iterable[str], release: str = "") -> tuple[Endpoint, ...]:
    """One per `host:port`. Raises ValueError for anything else."""
    return tuple(Endpoint(instance=each, release=release, address=place(each)) for each in addresses)


def place(address: str) -> Address:
    """Raises ValueError for what is not `host:port`."""
    host, colon, port = address.rpartition(":")
    if not (host and colon and port.isdigit()):
        raise ValueError(f"{address!r} is not host:port")
    return Address(host=host.strip("[]"), port=int(port))


def _listed(text: str) -> list[str]:
    return [each for each in text.split(",") if each]
