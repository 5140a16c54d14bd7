"""The registry of a system: Consul's HTTP API and DNS in the control plane's process, on its store."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gapless.config import Registry
    from gapless.control.plane import ControlPlane
    from gapless.discovery.catalog.catalog import Catalog


@asynccontextmanager
async def system_registry(plane: ControlPlane) -> AsyncIterator[None]:
    """Serve it until the block ends, if the system has one. It begins before anything of the system is started, and
    outlasts its end: who leaves, leaves it seen. Raises ConfigError, PortTaken, and what the store raises."""
    registry, catalog = plane.system.registry, plane.catalog
    if registry is None or catalog is None:
        yield
        return
    async with _serving(plane, registry, catalog):
        yield


@asynccontextmanager
async def _serving(plane: ControlPlane, registry: Registry, catalog: Catalog) -> AsyncIterator[None]:
    from gapless.api.consul.agent_self import Agent
    from gapless.api.consul.compose import consul_api
    from gapless.api.dns.lookup import Zone
    from gapless.api.dns.serve import naming
    from gapless.cli.reach import check_reach
    from gapless.core.garbage import calm
    from gapless.core.world import RealWorld
    from gapless.server.descriptors import shared_limits
    from gapless.server.embedded import serving

    http, token = str(registry.http), os.environ.get("GAPLESS_REGISTRY_TOKEN", "")
    check_reach([http], token, "registry.http")
    agent = Agent(
        node=catalog.name,
        datacenter=registry.datacenter,
        address=catalog.address,
        script_checks=registry.script_checks,
    )
    zone = Zone(
        domain=registry.domain,
        datacenter=registry.datacenter,
        address=catalog.address,
        ttl_s=registry.ttl_s,
        only_passing=registry.only_passing,
    )
    world = RealWorld()
    async with (
        consul_api(plane.store, world, agent, token=token, catalog=catalog) as app,
        naming(catalog, zone, registry.dns, world),
        serving(app, [http], limits=shared_limits()),
    ):
        calm()
        try:
            yield
        finally:
            app.release()
