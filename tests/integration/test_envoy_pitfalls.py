"""Pitfalls of Envoy that no other file meets with the real one; CONTRIBUTING.md has the list of all."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio

from gapless.core.model import BUCKETS, HISTOGRAM_BOUNDS_S, Endpoint, ServiceTable, Upstream
from gapless.core.world import RealWorld
from gapless.gateway.envoy import admin, resources
from gapless.gateway.envoy.bootstrap import ADMIN_SOCKET
from gapless.gateway.envoy.clusters import cluster
from gapless.gateway.envoy.delta import Connection, Told
from tests.integration.envoy_kit import Client, Rig, ask, running, service, table

pytestmark = pytest.mark.asyncio(loop_scope="module")

WARMING_S = 15.0
"""Envoy's `initial_fetch_timeout`: so long it waits for a load assignment that does not come."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def envoy() -> AsyncIterator[Rig]:
    async with running() as rig:
        yield rig


@pytest_asyncio.fixture(loop_scope="module")
async def rig(envoy: Rig) -> AsyncIterator[Rig]:
    yield envoy
    await envoy.clear()


async def active_cluster(rig: Rig, name: str) -> Mapping[str, Any]:
    """As Envoy itself has it, once it is warm."""
    socket = rig.state / "envoy" / ADMIN_SOCKET
    told = json.loads(await admin.ask(socket, "GET", "/config_dump?resource=dynamic_active_clusters"))
    found: Mapping[str, Any] = next(each["cluster"] for each in told["configs"] if each["cluster"]["name"] == name)
    return found


async def test_a_changed_cluster_is_not_left_warming(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """By itself Envoy waits for the load assignment that it has already. Our clusters do not change, but for another
    version of Gapless that makes other ones."""
    old = await rig.upstream("old")
    await rig.traffic.apply(table(service([old.endpoint()])))
    monkeypatch.setattr(resources, "cluster", lambda *told: {**cluster(*told), "connect_timeout": "0.777s"})
    began = time.monotonic()
    await rig.traffic.apply(table(service([old.endpoint()], timeout_s=1.5), version=2))
    assert time.monotonic() - began < WARMING_S / 2
    assert (await active_cluster(rig, "orders@1"))["connect_timeout"] == "0.777s"
    assert (await ask(rig.port, "/orders")).body == b"old"


async def test_a_release_of_nobody_is_not_waited_for_and_answers_with_its_first_instance(rig: Rig) -> None:
    """A cluster without any load assignment would be warming, and hold up all that comes after it."""
    began = time.monotonic()
    await rig.traffic.apply(table(service([])))
    assert time.monotonic() - began < WARMING_S / 2
    reply = await ask(rig.port, "/orders")
    assert (reply.status, reply.release) == (503, "1")
    first = await rig.upstream("first")
    await rig.traffic.apply(table(service([first.endpoint()]), version=2))
    assert (await ask(rig.port, "/orders")).body == b"first"


async def test_no_change_of_health_is_put_off(rig: Rig) -> None:
    """`update_merge_window`: by itself Envoy puts off a second one to the end of the second. It counts those that it
    would not have put off, too."""
    sick, well = await rig.upstream("sick"), await rig.upstream("well")
    await rig.traffic.apply(table(zoned([sick.endpoint(), well.endpoint()])))
    before = (await cluster_manager(rig))["cluster_updated"]
    await sick.stop()
    rig.upstreams.remove(sick)
    async with asyncio.timeout(20):
        while (await cluster_manager(rig))["cluster_updated"] == before:
            await asyncio.sleep(0.05)
    told = await cluster_manager(rig)
    assert (told["cluster_updated_via_merge"], told["update_out_of_merge_window"]) == (0, 0)


async def cluster_manager(rig: Rig) -> Mapping[str, int]:
    """What Envoy counts of its clusters' updates."""
    told = await admin.ask(rig.state / "envoy" / ADMIN_SOCKET, "GET", "/stats?filter=^cluster_manager.*update")
    counts = (line.rpartition(": ") for line in told.splitlines())
    return {name.rpartition(".")[2]: int(value) for name, _, value in counts if value.isdecimal()}


def zoned(endpoints: Sequence[Endpoint]) -> ServiceTable:
    """With the gateway's own health checks."""
    return replace(service(endpoints), upstream=Upstream(zones=("a", "b")))


async def test_what_is_removed_is_gone_though_its_health_checks_pass(rig: Rig) -> None:
    """`ignore_health_on_host_removal`: by itself Envoy goes on with it until a check fails, which none does as long as
    the instance lives."""
    gone, other = await rig.upstream("gone"), await rig.upstream("other")
    both = [gone.endpoint(), other.endpoint()]
    await rig.traffic.apply(table(zoned(both)))
    async with asyncio.timeout(20):
        while not gone.seen or not other.seen:
            await ask(rig.port, "/orders")
    await rig.traffic.apply(table(zoned(both[1:]), version=2))
    gone.seen.clear()
    for _ in range(30):
        assert (await ask(rig.port, "/orders")).body == b"other"
    assert gone.seen == []


@pytest.mark.promise
async def test_releases_come_and_go_and_nothing_leads_to_what_is_not_there(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one table each: a new release with its users; its end with the release's users elsewhere."""
    told = spy(monkeypatch)
    old, new = await rig.upstream("old"), await rig.upstream("new")
    both = service([old.endpoint("1"), new.endpoint("2")], canary=BUCKETS)
    alone = replace(both, split=replace(both.split, weights=(("1", BUCKETS),)), endpoints=both.endpoints[:1])
    await rig.traffic.apply(table(alone))
    counts: dict[int, int] = {}
    asking = asyncio.create_task(ask_on(rig.port, counts))
    for version in range(2, 12):
        told.clear()
        await rig.traffic.apply(table(both if version % 2 == 0 else alone, version=version))
        comes = ["Cluster", "ClusterLoadAssignment", "RouteConfiguration", "Runtime"]
        goes = ["RouteConfiguration", "Runtime", "Cluster"]
        assert [kind for kind, _ in itertools.groupby(told)] == (comes if version % 2 == 0 else goes)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert set(counts) == {200}, counts


def spy(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kinds of what is sent from now on."""
    sent: list[str] = []
    tell = Connection._tell

    def noted(self: Connection, what: Told) -> Told:
        sent.append(what.type_url.rpartition(".")[2])
        return tell(self, what)

    monkeypatch.setattr(Connection, "_tell", noted)
    return sent


async def ask_on(port: int, counts: dict[int, int]) -> None:
    client = Client(port)
    try:
        while True:
            status = (await client.ask("/orders", method="POST")).status
            counts[status] = counts.get(status, 0) + 1
    finally:
        await client.close()


async def test_a_latency_below_a_millisecond_is_told_as_it_is(rig: Rig) -> None:
    """Envoy's own `upstream_rq_time` knows milliseconds only: all of these would be one or none."""
    quick, world = await rig.upstream("quick"), RealWorld()
    await rig.traffic.apply(table(service([quick.endpoint()], name="quick")))
    client, since_at = Client(rig.port), int(world.time())
    async with asyncio.timeout(30):
        while True:
            await client.ask("/quick")
            found = await rig.traffic.window("quick", "1", since_at, world.time() + 1)
            counts = zip((0.0, *HISTOGRAM_BOUNDS_S), HISTOGRAM_BOUNDS_S, found.latency, strict=False)
            if any(count and low > 0 and high < 0.001 for low, high, count in counts):
                break
    await client.close()
