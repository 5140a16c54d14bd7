"""The suite of all registries, against a real etcd and a real agent; the rest of it runs in the unit tests."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

from gapless.core.world import RealWorld
from gapless.discovery.registry import registry_at
from gapless.discovery.registry_store import registry_on
from gapless.store import open_store
from gapless.testing import REGISTRY_CHECKS, RegistryRig
from gapless.testing.registry import RegistryCheck, run_registry_check
from tests.integration.etcd_kit import Etcd
from tests.integration.test_registry_verb import running

WORLD = RealWorld()


@asynccontextmanager
async def on_etcd(address: str) -> AsyncIterator[RegistryRig]:
    one_store, two_store = await open_store(address, WORLD), await open_store(address, WORLD)
    try:
        async with (
            registry_on(one_store, WORLD, ttl_s=2, node="a") as one,
            registry_on(two_store, WORLD, ttl_s=2, node="b") as two,
        ):

            async def lose(identity: str) -> None:
                await two._catalog.remove("a", instance=identity)

            yield RegistryRig(one=one, two=two, world=WORLD, lose=lose, ttl_s=2)
    finally:
        await one_store.close()
        await two_store.close()


async def test_on_etcd() -> None:
    """All at once, each below a prefix of its own."""
    with Etcd() as etcd:

        async def run(check: RegistryCheck) -> None:
            async with on_etcd(etcd.address()) as rig:
                await run_registry_check(check, rig)

        await asyncio.gather(*map(run, REGISTRY_CHECKS))


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running(tmp_path_factory.mktemp("agent")) as registry:
        yield registry.said["http"][0]


def forget(agent: str, identity: str) -> None:
    url = f"{agent}/v1/agent/service/deregister/{quote(identity, safe='')}"
    with urllib.request.urlopen(urllib.request.Request(url, method="PUT"), timeout=20):
        pass


def forget_all(agent: str) -> None:
    with urllib.request.urlopen(f"{agent}/v1/agent/services", timeout=20) as response:
        for identity in json.load(response):
            forget(agent, identity)


@pytest.mark.parametrize("check", REGISTRY_CHECKS, ids=lambda check: check.__name__)
async def test_behind_an_agent(agent: str, check: RegistryCheck) -> None:
    async with registry_at(agent, ttl_s=1) as one, registry_at(agent, ttl_s=1) as two:

        async def lose(identity: str) -> None:
            await asyncio.to_thread(forget, agent, identity)

        rig = RegistryRig(one=one, two=two, world=WORLD, lose=lose, ttl_s=1)
        await run_registry_check(check, rig)
    await asyncio.to_thread(forget_all, agent)


async def test_in_a_file(tmp_path: Path) -> None:
    """What a process leaves behind is found by the next one, until its time to live is over."""
    from gapless.testing.registry import orders

    address = f"sqlite:{tmp_path}/store.db"
    async with registry_at(address, ttl_s=1) as registry:
        await registry.register(orders(1))
    async with registry_at(address, ttl_s=1) as registry:
        assert len(await registry.list("orders")) == 1
        await registry.register(orders(2))
        await asyncio.sleep(2)
        assert [endpoint.instance for endpoint in await registry.list("orders")] == ["orders-2"]
