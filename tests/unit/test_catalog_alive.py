"""Agents that share a store look after each other's nodes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gapless.core.ports import Store
from gapless.discovery.catalog.alive import LOOK_S, TTL_S, Alive
from gapless.discovery.catalog.catalog import Catalog
from gapless.discovery.catalog.values import Check, Instance, Node
from gapless.store.memory import MemoryStore
from gapless.testing import FakeWorld

ITSELF = Instance(service="consul", id="consul")
NOTICED_S = TTL_S + 3.5 * LOOK_S


@asynccontextmanager
async def agent(store: Store, world: FakeWorld, name: str) -> AsyncIterator[Catalog]:
    catalog = Catalog(store, world, name=name, itself=ITSELF)
    alive = Alive(catalog, store, world)
    await catalog.start()
    await alive.start()
    yield catalog
    await alive.aclose()
    await catalog.aclose()


def status(catalog: Catalog, node: str) -> str:
    row = catalog.check("serfHealth", node)
    return row.check.status if row else "absent"


async def test_the_node_of_a_dead_agent_is_critical_until_it_is_back() -> None:
    world = FakeWorld()
    store = MemoryStore(world)
    async with agent(store, world, "a") as a:
        async with agent(store, world, "b") as b:
            await b.register(Instance(service="web"))
            await world.advance(100)
            assert status(a, "b") == "passing"
        await world.advance(TTL_S / 2)
        assert status(a, "b") == "passing"
        await world.advance(NOTICED_S)
        assert status(a, "b") == "critical"
        assert a.instances("web", passing=True) == ()
        async with agent(store, world, "b"):
            assert status(a, "b") == "passing"
            assert len(a.instances("web", passing=True)) == 1


async def test_an_agent_that_is_back_soon_was_never_missed() -> None:
    world = FakeWorld()
    store = MemoryStore(world)
    async with agent(store, world, "a") as a:
        for _ in range(5):
            async with agent(store, world, "b"):
                await world.advance(TTL_S / 3)
            before = len(a.checks_in("any"))
            await world.advance(TTL_S / 3)
            assert status(a, "b") == "passing"
            assert len(a.checks_in("any")) == before


async def test_who_was_paused_says_that_it_is_well_and_accuses_nobody() -> None:
    world = FakeWorld()
    store = MemoryStore(world)
    async with agent(store, world, "a") as a, agent(store, world, "b"):
        await world.advance(10)
        world.stall(100)
        await world.advance(100)
        assert status(a, "a") == status(a, "b") == "passing"


async def test_nodes_without_an_agent_are_nobodys_concern() -> None:
    world = FakeWorld()
    store = MemoryStore(world)
    async with agent(store, world, "a") as a:
        await a.put(Node(name="far", address="10.0.0.1"), None, [Check(node="", id="serfHealth", status="passing")])
        await world.advance(100)
        assert status(a, "far") == "passing"


async def test_an_agents_own_node_comes_back_when_it_is_deregistered() -> None:
    world = FakeWorld()
    store = MemoryStore(world)
    async with agent(store, world, "a") as a:
        await a.remove("a")
        await world.settle()
        assert a.node("a") is not None
        assert status(a, "a") == "passing"
        assert len(a.instances("consul")) == 1
