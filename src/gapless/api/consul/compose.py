"""Puts Consul's API together on a store: what keeps copies and watches, and the endpoints over it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

from gapless.api.consul import absent
from gapless.api.consul.agent_checks import AgentChecks
from gapless.api.consul.agent_cluster import AgentCluster
from gapless.api.consul.agent_self import Agent, AgentSelf
from gapless.api.consul.agent_services import AgentServices
from gapless.api.consul.agent_sights import AgentSights
from gapless.api.consul.app import ConsulApi
from gapless.api.consul.catalog import CatalogEndpoints
from gapless.api.consul.coordinate import Coordinates
from gapless.api.consul.event import Events
from gapless.api.consul.health import HealthEndpoints
from gapless.api.consul.kv import Kv
from gapless.api.consul.router import Route
from gapless.api.consul.session import Sessions
from gapless.api.consul.status import Status
from gapless.api.consul.txn import Txn
from gapless.api.consul.watches import Watches, WatchLimits
from gapless.api.http_sd import HttpSd
from gapless.core.ports import Store, World
from gapless.discovery.catalog.alive import Alive
from gapless.discovery.catalog.catalog import Catalog
from gapless.discovery.catalog.values import Instance
from gapless.discovery.checks.ask import Asker
from gapless.discovery.checks.runner import Runner
from gapless.discovery.events import EventLog
from gapless.discovery.health import Health
from gapless.discovery.kv.kv import KeyValues
from gapless.discovery.kv.session_checks import SessionChecks

BEGAN = "registry/began"
"""Absent things have index 1, so that no change may have it: the first revision of a store is this key's."""
DEFAULT_LIMITS = WatchLimits()


@asynccontextmanager
async def consul_api(
    store: Store,
    world: World,
    agent: Agent,
    *,
    token: str = "",
    limits: WatchLimits = DEFAULT_LIMITS,
    catalog: Catalog | None = None,
) -> AsyncIterator[ConsulApi]:
    """The app, everything behind it running until the block ends. `catalog`: one that others look into as well, on the
    same store and not started yet. Raises what the store raises."""
    if (await store.get(BEGAN)) is None:
        await store.put(BEGAN, b"1")
    catalog = catalog or catalog_of(store, world, agent)
    keys = KeyValues(store, world)
    checks = SessionChecks(keys, catalog, world)
    runner = Runner(catalog, world, Asker(world, commands=agent.script_checks))
    health = Health(catalog, world)
    async with AsyncExitStack() as stack:
        for part in (catalog, keys, checks, runner, health, Alive(catalog, store, world)):
            stack.push_async_callback(part.aclose)
            await part.start()
        watches = Watches(world, limits)
        stack.callback(watches.release)
        routes = [
            *_catalog(agent, catalog, runner, watches, world),
            *_keys(agent, catalog, keys, watches, world),
            *AgentSights(health).routes(),
        ]
        yield ConsulApi(routes, datacenter=agent.datacenter, token=token, release=watches.release)


def catalog_of(store: Store, world: World, agent: Agent) -> Catalog:
    """The one that the agent is a node of."""
    return Catalog(
        store,
        world,
        name=agent.node,
        address=agent.address,
        datacenter=agent.datacenter,
        itself=Instance(service="consul", id="consul", port=agent.server_port),
    )


def _catalog(agent: Agent, catalog: Catalog, runner: Runner, watches: Watches, world: World) -> Iterator[Route]:
    yield from Status(agent.leader).routes()
    yield from CatalogEndpoints(catalog, watches).routes()
    yield from HealthEndpoints(catalog, watches).routes()
    yield from AgentSelf(agent, catalog, world).routes()
    yield from AgentServices(catalog, script_checks=agent.script_checks).routes()
    yield from AgentChecks(catalog, runner.heard, script_checks=agent.script_checks).routes()
    yield from AgentCluster(catalog, world).routes()
    yield from HttpSd(catalog).routes()


def _keys(agent: Agent, catalog: Catalog, keys: KeyValues, watches: Watches, world: World) -> Iterator[Route]:
    yield from Kv(keys, watches).routes()
    yield from Sessions(keys, catalog, watches, world, agent.node).routes()
    yield from Txn(keys).routes()
    yield from Events(EventLog(world), watches, world, agent.node).routes()
    yield from Coordinates(watches, agent.node, agent.datacenter).routes()
    yield from absent.routes()
