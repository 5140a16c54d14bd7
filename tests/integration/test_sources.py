"""Directories that are fed by a real `gapless registry`, by DNS and by a store; and what callers tell back."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from gapless.api.dns.listen import listening
from gapless.api.dns.lookup import Target, Zone
from gapless.core.errors import ConfigError, DiscoveryLost
from gapless.core.model import Address
from gapless.core.world import RealWorld
from gapless.discovery.catalog.catalog import Catalog
from gapless.discovery.catalog.values import Check, Definition, Instance, Weights
from gapless.discovery.directory import Directory
from gapless.discovery.load import PROBATION_S
from gapless.discovery.sources import dns as source_dns
from gapless.discovery.sources.source import source_of
from gapless.discovery.sources.store import StoreSource
from gapless.service.client import Client
from gapless.store.memory import MemoryStore
from tests.integration.agent_kit import Agent
from tests.integration.instances_kit import accepts
from tests.integration.test_client_sockets import answers, serving
from tests.integration.test_source_consul import ports, until
from tests.ports import free_port


@asynccontextmanager
async def registry(port: int, store: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """The real one."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gapless", "registry", "--http", f"127.0.0.1:{port}", "--store", f"sqlite:{store}",
        stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        await accepts(port)
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def put(port: int, path: str, body: Any = None) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        (await client.put(path, json=body)).raise_for_status()


async def test_the_registry_of_this_project_is_followed_and_its_death_outlived(tmp_path: Path) -> None:
    port, store = free_port("127.0.0.1"), tmp_path / "registry.db"
    directory = Directory.at(f"consul://127.0.0.1:{port}", RealWorld())
    await directory.start("stock")
    try:
        async with registry(port, store) as process:
            for number in (1, 2):
                body = {"Name": "stock", "ID": f"s{number}", "Address": "127.0.0.1", "Port": number}
                await put(port, "/v1/agent/service/register", {**body, "Meta": {"zone": "b", "weight": "2.5"}})
            await until(lambda: ports(directory) == [1, 2])
            found = directory.service("stock")
            assert found
            assert {(each.zone, each.weight) for each in found.endpoints} == {("b", 2.5)}
            os.kill(process.pid, signal.SIGKILL)
        assert ports(directory) == [1, 2]
        async with registry(port, store):
            await put(port, "/v1/agent/service/deregister/s1")
            await until(lambda: ports(directory) == [2])
    finally:
        await directory.aclose()


@pytest.mark.slow
async def test_no_request_fails_while_the_registry_is_away_for_five_seconds(tmp_path: Path) -> None:
    port, store = free_port("127.0.0.1"), tmp_path / "registry.db"
    said: list[str] = []

    async def call(client: Client) -> None:
        while True:
            answer = await client.get("/")
            assert answer.content == b"ok"
            said.append(answer.headers["x-port"])
            await asyncio.sleep(0.005)

    async with (
        serving(answers, answers) as instances,
        Client("stock", discovery=f"consul://127.0.0.1:{port}") as client,
    ):
        async with registry(port, store) as process:
            for number in instances:
                body = {"Name": "stock", "ID": f"at-{number}", "Address": "127.0.0.1", "Port": number}
                await put(port, "/v1/agent/service/register", body)
            calls = [asyncio.create_task(call(client)) for _ in range(4)]
            await until(lambda: len(set(said)) == 2)
            os.kill(process.pid, signal.SIGKILL)
            await process.wait()
        said.clear()
        await asyncio.sleep(5)
        assert set(said) == set(map(str, instances))
        assert len(said) > 100
        async with registry(port, store):
            await put(port, f"/v1/agent/service/deregister/at-{instances[0]}")
            await until(lambda: set(said[-50:]) == {str(instances[1])})
        assert [task for task in calls if task.done()] == [], "a request has failed"
        for task in calls:
            task.cancel()
        await asyncio.gather(*calls, return_exceptions=True)


async def test_what_a_caller_sees_takes_an_instance_out_for_all_callers(tmp_path: Path) -> None:
    """Its own check, a time to live, would have found out a minute later."""
    port, dead = free_port("127.0.0.1"), free_port("127.0.0.1")
    other = Directory.at(f"consul://127.0.0.1:{port}", RealWorld())
    try:
        async with registry(port, tmp_path / "registry.db"), serving(answers) as (well,):
            for instance in (well, dead):
                body = {"Name": "stock", "ID": f"s{instance}", "Address": "127.0.0.1", "Port": instance}
                await put(port, "/v1/agent/service/register", {**body, "Check": {"TTL": "60s", "Status": "passing"}})
            await other.start("stock")
            await until(lambda: sorted(ports(other)) == sorted([well, dead]))
            async with Client("stock", discovery=f"consul://127.0.0.1:{port}") as client, asyncio.timeout(30):
                while ports(other) != [well]:
                    assert (await client.get("/")).content == b"ok"
                    await asyncio.sleep(0.02)
    finally:
        await other.aclose()


class Names:
    """A catalog as DNS reads it."""

    def __init__(self) -> None:
        self.revision = 1
        self.found: list[Target] = []

    def targets(self, service: str) -> Sequence[Target]:
        return self.found if service == "stock" else []

    def node_address(self, node: str) -> str | None:
        return "127.0.0.1"


def target(port: int, **more: Any) -> Target:
    return Target(node="n1", node_address="127.0.0.1", port=port, **more)


async def test_dns_is_asked_again_and_outlived() -> None:
    names = Names()
    async with serving(answers) as (port,):
        async with listening(names, Zone(), Address(host="127.0.0.1", port=0), RealWorld()) as server:
            names.found = [target(port, weight=3), target(9, address="127.0.0.7")]
            where = f"dns://{server}/service.consul"
            directory = Directory.at(where, RealWorld())
            await directory.start("stock")
            await until(lambda: sorted(ports(directory)) == sorted([port, 9]))
            found = directory.service("stock")
            assert found
            assert {(str(each.address), each.weight) for each in found.endpoints} == {
                (f"127.0.0.1:{port}", 3.0),
                ("127.0.0.7:9", 1.0),
            }
            names.found = [target(port)]
            await until(lambda: ports(directory) == [port])
            assert await anext(source_of(where, RealWorld()).follow("nobody")) == ()
            by_address = source_of(f"{where}?port={port}", RealWorld())
            assert [str(each.address) for each in await anext(by_address.follow("stock"))] == [f"127.0.0.1:{port}"]
        async with Client("stock", directory=directory) as client:
            assert (await client.get("/")).content == b"ok"
        await directory.aclose()


async def test_a_name_server_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_dns, "ANSWER_S", 0.3)
    with pytest.raises(ConfigError, match="is no IP address"):
        await anext(source_of("dns://nowhere/x", RealWorld()).follow("stock"))
    dead = f"dns://127.0.0.1:{free_port('127.0.0.1')}/x"
    with pytest.raises(DiscoveryLost, match="does not answer"):
        await anext(source_of(dead, RealWorld()).follow("stock"))


async def test_a_registry_in_a_store_is_read() -> None:
    world = RealWorld()
    store = MemoryStore(world)
    catalog = Catalog(store, world, name="n1", address="127.0.0.1")
    await catalog.start()
    directory = Directory(world, source=StoreSource.of(store, world))
    await directory.start("stock")
    two = Instance(service="stock", id="two", port=2, meta={"zone": "a"}, weights=Weights(passing=5))
    await catalog.register(Instance(service="stock", id="one", port=1))
    await catalog.register(two, [Check(node="n1", id="c", status="critical", definition=Definition(ttl="60s"))])
    await until(lambda: ports(directory) == [1])
    await catalog.update_check("c", "passing", "it is well")
    await until(lambda: ports(directory) == [1, 2])
    found = directory.service("stock")
    assert found
    assert [(each.zone, each.weight) for each in found.endpoints] == [("", 1.0), ("a", 5.0)]
    await directory.aclose()
    await catalog.aclose()
    await store.close()


async def test_a_refused_connection_takes_an_instance_out_at_once_and_is_told() -> None:
    free = free_port("127.0.0.1")
    async with serving(answers) as (port,), Agent() as agent:
        agent.now(port, free)
        async with Client("stock", discovery=agent.address) as client:
            loads = client._callee._loads
            dead = Address(host="127.0.0.1", port=free)
            while (seen := loads.of(dead)) is None or not seen.refused:
                assert (await client.get("/")).content == b"ok"
            tried = seen.tried
            for _ in range(50):
                await client.get("/")
                again = loads.of(dead)
                assert again
                assert again.tried == tried or again.tried - tried >= PROBATION_S  # nobody asks it, but for its probe
            await until(lambda: any(len(report["Sights"]) == 2 for _, report in agent.told))
        told = {sight["Address"]: sight["Sight"] for _, report in agent.told for sight in report["Sights"]}
        assert told == {f"127.0.0.1:{port}": "well", f"127.0.0.1:{free}": "refused"}
        assert {target for target, _ in agent.told} == {"/v1/agent/gapless/sights"}
        assert agent.told[0][1]["Observer"] == os.uname().nodename


async def test_an_agent_that_does_not_want_to_know_is_no_harm() -> None:
    async with serving(answers) as (port,), Agent() as agent:
        agent.hears = False
        agent.now(port)
        async with Client("stock", discovery=agent.address) as client:
            while not agent.told:
                assert (await client.get("/")).content == b"ok"
                await asyncio.sleep(0.02)
            assert (await client.get("/")).content == b"ok"
