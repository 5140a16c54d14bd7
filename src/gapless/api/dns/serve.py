"""Puts the zone together on a catalog. dnspython is imported here, and only when there is a zone to serve."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gapless.api.dns.lookup import Zone
from gapless.core.errors import ConfigError
from gapless.core.model import Address
from gapless.core.ports import World
from gapless.discovery.catalog.catalog import Catalog


@asynccontextmanager
async def naming(catalog: Catalog, zone: Zone, at: Address | None, world: World) -> AsyncIterator[Address | None]:
    """Answer for the zone until the block ends; at None, do not. Gives the address, with the port that was free when 0
    was asked for. Raises ConfigError."""
    if at is None:
        yield None
        return
    try:
        from gapless.api.dns.catalog import CatalogLookup
        from gapless.api.dns.listen import listening
    except ModuleNotFoundError as error:
        raise ConfigError("DNS needs dnspython, which is not installed", "pip install 'gapless[registry]'") from error
    async with listening(CatalogLookup(catalog), zone, at, world) as bound:
        yield bound
