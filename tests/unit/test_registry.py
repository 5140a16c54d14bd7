"""The conformance suite of registries: on stores of our own, and behind the HTTP API of an agent, without sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import httpcore
import pytest

from gapless.api.consul.agent_checks import AgentChecks
from gapless.api.consul.agent_services import AgentServices
from gapless.api.consul.app import ConsulApi
from gapless.api.consul.health import HealthEndpoints
from gapless.api.consul.watches import Watches
from gapless.core.errors import ConfigError, DiscoveryLost
from gapless.core.ports import Store
from gapless.discovery.catalog.catalog import Catalog
from gapless.discovery.catalog.values import Definition, Status
from gapless.discovery.checks.ask import Result
from gapless.discovery.checks.runner import Runner
from gapless.discovery.registry import Registration, checks_of, registry_at
from gapless.discovery.registry_agent import AgentRegistry, body_of
from gapless.discovery.registry_store import registry_on
from gapless.discovery.sources.consul import Agent, AgentRefused, ConsulSource
from gapless.store.memory import MemoryStore
from gapless.testing import REGISTRY_CHECKS, FakeWorld, RegistryRig
from gapless.testing.registry import RegistryCheck, orders, run_registry_check
from tests.unit.consul_kit import Client
from tests.unit.store_kit import sqlite_store

TTL_S = 2.0


@asynccontextmanager
async def on_store(store: Store, world: FakeWorld) -> AsyncIterator[RegistryRig]:
    async with registry_on(store, world, ttl_s=TTL_S, node="a") as one, registry_on(store, world, ttl_s=TTL_S) as two:

        async def lose(identity: str) -> None:
            await two._catalog.remove("a", instance=identity)

        yield RegistryRig(one=one, two=two, world=world, lose=lose, ttl_s=TTL_S)


@asynccontextmanager
async def memory() -> AsyncIterator[RegistryRig]:
    world = FakeWorld()
    async with on_store(MemoryStore(world), world) as rig:
        yield rig


@asynccontextmanager
async def sqlite() -> AsyncIterator[RegistryRig]:
    world = FakeWorld()
    with sqlite_store(world) as store:
        await store.open()
        async with on_store(store, world) as rig:
            yield rig
        await store.close()


class Direct(ConsulSource):
    """An agent without a socket. `up` is whether it answers."""

    def __init__(self, client: Client, world: FakeWorld) -> None:
        super().__init__(Agent(host="127.0.0.1"), world)
        self.client, self.up = client, True

    async def send(self, method: str, path: str, body: bytes, read_s: float) -> httpcore.Response:
        if not self.up:
            raise DiscoveryLost("nobody there")
        answer = await self.client.ask(method, path, body)
        if answer.status != 200:
            raise AgentRefused(answer.status, answer.text)
        headers = [(name.encode(), value.encode()) for name, value in answer.headers.items()]
        response = httpcore.Response(200, headers=headers, content=answer.body)
        await response.aread()
        return response


async def nobody_answers(_: Definition) -> Result:
    return Result(Status.CRITICAL, "refused")


@asynccontextmanager
async def agent() -> AsyncIterator[RegistryRig]:
    world = FakeWorld()
    catalog = Catalog(MemoryStore(world), world, name="here")
    runner = Runner(catalog, world, nobody_answers)
    watches = Watches(world)
    async with AsyncExitStack() as stack:
        for part in (catalog, runner):
            stack.push_async_callback(part.aclose)
            await part.start()
        parts = (AgentServices(catalog), AgentChecks(catalog, runner.heard), HealthEndpoints(catalog, watches))
        client = Client(ConsulApi([route for part in parts for route in part.routes()]))
        one, two = (AgentRegistry(Direct(client, world), world, TTL_S) for _ in range(2))
        stack.push_async_callback(one.aclose)
        stack.push_async_callback(two.aclose)
        yield RegistryRig(one=one, two=two, world=world, lose=catalog.deregister, ttl_s=TTL_S)
        watches.release()


@pytest.mark.parametrize("make", [memory, sqlite, agent], ids=lambda make: make.__name__)
@pytest.mark.parametrize("check", REGISTRY_CHECKS, ids=lambda check: check.__name__)
async def test_conformance(check: RegistryCheck, make: Callable[[], AsyncIterator[RegistryRig]]) -> None:
    async with make() as rig:  # type: ignore[attr-defined]
        await run_registry_check(check, rig)


async def test_an_agent_that_was_away_hears_again_and_silence_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    async with agent() as rig:
        assert isinstance(rig.one, AgentRegistry)
        source = rig.one._agent
        assert isinstance(source, Direct)
        await rig.one.register(orders())
        source.up = False
        await rig.until("orders")
        await rig.pass_time(10)
        assert caplog.text.count("does not hear") == 1
        source.up = True
        await rig.until("orders", "orders-1")


async def test_registering_where_nobody_answers_is_an_error_and_is_not_kept() -> None:
    async with agent() as rig:
        assert isinstance(rig.one, AgentRegistry)
        source = rig.one._agent
        assert isinstance(source, Direct)
        source.up = False
        with pytest.raises(DiscoveryLost):
            await rig.one.register(orders())
        source.up = True
        await rig.pass_time(10)
        assert await rig.two.list("orders") == ()


@pytest.mark.parametrize("wrong", [{"service": ""}, {"address": ""}, {"port": 0}, {"port": 70_000}, {"weight": -1.0}])
def test_who_cannot_be_found_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="give"):
        Registration(**{"service": "s", "address": "a", "port": 1, **wrong})  # type: ignore[arg-type]


async def test_an_address_that_means_nothing_is_refused() -> None:
    with pytest.raises(ConfigError):
        async with registry_at("gopher://x", FakeWorld()):
            pass
    with pytest.raises(ConfigError):
        async with registry_at("http://127.0.0.1:8500/path", FakeWorld()):
            pass


async def test_a_store_by_its_address() -> None:
    async with registry_at("memory:", FakeWorld()) as registry:
        await registry.register(orders())
        assert len(await registry.list("orders")) == 1


def test_checks_are_told_as_an_agent_takes_them() -> None:
    asked = Registration(service="s", address="a", port=1, checks=(Definition(args=("x",), interval="1s"),))
    body = body_of(asked, checks_of(asked, 10))
    assert body["Checks"][0]["TTL"] == "10s"
    assert body["Checks"][1] == {
        "Args": ("x",),
        "Interval": "1s",
        "CheckID": "service:s-a-1:1",
        "Name": "",
        "Status": "critical",
    }
