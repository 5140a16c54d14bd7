"""DNS and http_sd on the registry itself."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless.api.consul.app import ConsulApi
from gapless.api.dns.catalog import CatalogLookup, Spellings
from gapless.api.dns.lookup import Zone
from gapless.api.dns.serve import naming
from gapless.api.http_sd import PATH, HttpSd
from gapless.core.errors import ConfigError
from gapless.core.model import Address
from gapless.discovery.catalog.catalog import Catalog
from gapless.discovery.catalog.values import Check, Instance, Node, Status, Weights
from gapless.store.memory import MemoryStore
from gapless.testing import FakeWorld
from tests.unit.consul_kit import Client
from tests.unit.dns_rig import ask, texts


@asynccontextmanager
async def opened() -> AsyncIterator[Catalog]:
    world = FakeWorld()
    catalog = Catalog(MemoryStore(world), world, name="here", address="10.0.0.9")
    await catalog.start()
    yield catalog
    await catalog.aclose()


async def put(catalog: Catalog, service: str, number: int, status: str = Status.PASSING, **more: Any) -> None:
    instance = Instance(service=service, id=f"{service}-{number}", port=8000 + number, **more)
    check = Check(node="", id=f"c-{service}-{number}", status=status, service_id=instance.id)
    await catalog.put(Node(name=f"Node{number}", address=f"10.0.0.{number}"), instance, [check])


def srv(lookup: CatalogLookup, name: str = "web.service.consul") -> list[str]:
    return texts(ask(lookup, name, "SRV").answer)


async def test_what_is_registered_is_found_until_it_turns_critical_or_goes() -> None:
    async with opened() as catalog:
        lookup = CatalogLookup(catalog)
        assert srv(lookup) == []
        await put(catalog, "web", 1, weights=Weights(passing=7, warning=2))
        passing = "web.service.consul. SRV 1 7 8001 Node1.node.dc1.consul."
        assert srv(lookup) == [passing]
        await catalog.update_check("c-web-1", Status.WARNING, "", "Node1")
        assert srv(lookup) == [passing.replace(" 7 ", " 2 ")]
        await catalog.update_check("c-web-1", Status.CRITICAL, "", "Node1")
        assert srv(lookup) == []
        await catalog.update_check("c-web-1", Status.PASSING, "", "Node1")
        assert srv(lookup) == [passing]
        await catalog.remove("Node1", instance="web-1")
        assert srv(lookup) == []


async def test_a_node_that_moves_takes_its_instances_along() -> None:
    async with opened() as catalog:
        lookup = CatalogLookup(catalog)
        await put(catalog, "web", 1)
        assert texts(ask(lookup, "node1.node.consul").answer) == ["node1.node.consul. A 10.0.0.1"]
        await catalog.put(Node(name="Node1", address="10.9.9.9"))
        for name in ("web.service.consul", "NODE1.node.consul", "Node1.node.consul"):
            assert texts(ask(lookup, name).answer) == [f"{name}. A 10.9.9.9"]


async def test_names_that_differ_by_case_are_one_name() -> None:
    async with opened() as catalog:
        lookup = CatalogLookup(catalog)
        await put(catalog, "Web", 1)
        await put(catalog, "web", 2, tags=("V2",))
        assert len(srv(lookup)) == 2
        assert len(srv(lookup, "v2.WEB.service.consul")) == 1


async def test_what_has_gone_is_not_kept() -> None:
    async with opened() as catalog:
        lookup = CatalogLookup(catalog)
        for number in range(9):
            await put(catalog, f"s{number}", number)
            lookup.targets(f"s{number}")
            await catalog.remove(f"Node{number}")
        assert len(lookup._kept) <= 1


@given(st.lists(st.sampled_from(["a", "A", "bB", "Bb", "c"]), unique=True))
def test_spellings(names: list[str]) -> None:
    spellings = Spellings()
    for index, known in enumerate((names, names[::-1], names[1:])):
        for name in known:
            assert set(spellings.of(name.lower(), known, index)) == {it for it in known if it.lower() == name.lower()}
        assert spellings.of("x", known, index) == ()


async def groups(catalog: Catalog, query: str = "") -> list[str]:
    """The targets."""
    client = Client(ConsulApi(HttpSd(catalog).routes()))
    response = await client.get(PATH + query)
    assert response.headers["content-type"] == "application/json"
    return [target for one in response.json for target in one["targets"]]


async def test_prometheus_is_told_of_every_instance_or_of_those_it_asks_for() -> None:
    async with opened() as catalog:
        await put(catalog, "api", 1, tags=("v1", "blue"))
        await put(catalog, "api", 2, Status.CRITICAL, tags=("v2", "blue"), address="::1")
        await put(catalog, "web", 3, Status.WARNING)
        await put(catalog, "consul", 4)
        assert await groups(catalog, "?service=consul") == ["10.0.0.4:8004"]
        assert await groups(catalog) == ["10.0.0.1:8001", "[::1]:8002", "10.0.0.3:8003"]
        assert await groups(catalog, "?service=web&service=nobody") == ["10.0.0.3:8003"]
        assert await groups(catalog, "?service=web&service=api") == ["10.0.0.3:8003", "10.0.0.1:8001", "[::1]:8002"]
        assert await groups(catalog, "?tag=blue&tag=v2") == ["[::1]:8002"]
        assert await groups(catalog, "?passing") == ["10.0.0.1:8001"]
        assert await groups(catalog, "?passing=false&tag=v9") == []
        assert (await Client(ConsulApi(HttpSd(catalog).routes())).get(f"{PATH}?passing=perhaps")).status == 400


async def test_labels_tell_all_there_is() -> None:
    async with opened() as catalog:
        node = Node(name="n1", address="10.0.0.1", meta={"rack-row": "7"})
        instance = Instance(
            service="web", id="web-1", address="10.1.1.1", tags=("a", "b"), meta={"version": "1.4", "zone": "z1"}
        )
        await catalog.put(node, instance)
        response = await Client(ConsulApi(HttpSd(catalog).routes())).get(PATH)
        (one,) = response.json
        assert one["targets"] == ["10.1.1.1"]
        assert {name.removeprefix("__meta_gapless_"): value for name, value in one["labels"].items()} == {
            "service": "web",
            "service_id": "web-1",
            "service_address": "10.1.1.1",
            "service_port": "0",
            "node": "n1",
            "address": "10.0.0.1",
            "dc": "dc1",
            "tags": ",a,b,",
            "health": "passing",
            "service_metadata_version": "1.4",
            "service_metadata_zone": "z1",
            "metadata_rack_row": "7",
        }


async def test_without_dnspython_it_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("dns.", "gapless.api.dns."))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "dns", None)
    async with opened() as catalog:
        with pytest.raises(ConfigError, match="DNS needs dnspython") as caught:
            async with naming(catalog, Zone(), Address(host="127.0.0.1", port=0), FakeWorld()):
                raise AssertionError
    assert caught.value.remedy == "pip install 'gapless[registry]'"
    async with opened() as catalog, naming(catalog, Zone(), None, FakeWorld()) as at:
        assert at is None
