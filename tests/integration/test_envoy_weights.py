"""Weights by Envoy's runtime: a step changes no routes, and nobody ever meets a release that should get nothing."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from gapless.core.model import BUCKETS, ServiceTable, SplitBy, bucket_of
from gapless.gateway.envoy import admin, bootstrap
from gapless.gateway.envoy.bootstrap import ADMIN_SOCKET
from tests.integration.envoy_kit import HOST, Client, Rig, gateway, service, table
from tests.ports import free_port

pytestmark = pytest.mark.asyncio

USERS = [f"u{n}" for n in range(40)]
SALT = "orders-7"


@asynccontextmanager
async def fresh() -> AsyncIterator[Rig]:
    state, port = Path(tempfile.mkdtemp(prefix="g-")), free_port(HOST)
    rig = Rig(gateway(port, state, []), port, state, [])
    try:
        await rig.traffic.start()
        yield rig
    finally:
        for upstream in rig.upstreams:
            await upstream.stop()
        await rig.traffic.stop(drain_s=1)
        shutil.rmtree(state)


async def pair(rig: Rig, **options: SplitBy) -> ServiceTable:
    """A service with an instance of each release."""
    return service([await rig.endpoint("orders", release, release) for release in "12"], **options)


def step(orders: ServiceTable, share: int) -> ServiceTable:
    return replace(orders, split=replace(orders.split, weights=(("2", share), ("1", BUCKETS - share))))


def ended(orders: ServiceTable) -> ServiceTable:
    """Rolled back: one release has all, the other one still runs."""
    return replace(orders, split=replace(orders.split, weights=(("1", BUCKETS),)))


async def routes_of(rig: Rig) -> str:
    """The version of the routes that Envoy has."""
    told = json.loads(await admin.ask(rig.state / "envoy" / ADMIN_SOCKET, "GET", "/config_dump"))
    return str(
        next(config["dynamic_route_configs"][0]["version_info"] for config in told["configs"] if _routed(config))
    )


def _routed(config: dict[str, object]) -> bool:
    return bool(config.get("dynamic_route_configs"))


async def releases_of(rig: Rig, users: list[str] = USERS) -> dict[str, str]:
    client, found = Client(rig.port), dict[str, str]()
    for user in users:
        found[user] = (await client.ask("/orders", headers={"x-user-id": user})).release
    await client.close()
    return found


def placed(share: int) -> dict[str, str]:
    return {user: "2" if bucket_of(user, SALT) < share else "1" for user in USERS}


async def test_a_step_is_obeyed_and_changes_no_routes() -> None:
    async with fresh() as rig:
        orders = await pair(rig)
        await rig.traffic.apply(table(step(orders, 0)))
        told = await routes_of(rig)
        for version, share in enumerate((1, 500, 2_500, BUCKETS, 5_000, 0), start=2):
            await rig.traffic.apply(table(step(orders, share), version=version))
            assert await releases_of(rig) == placed(share)
        await rig.traffic.apply(table(step(orders, 5_000), version=20))
        await rig.traffic.apply(table(ended(orders), version=21))
        assert await releases_of(rig) == placed(0)
        assert await routes_of(rig) == told


async def test_numbers_are_placed_by_whole_percents() -> None:
    async with fresh() as rig:
        orders = await pair(rig, by=SplitBy.ID)
        for version, percent in enumerate((0, 30, 100, 7), start=1):
            await rig.traffic.apply(table(step(orders, percent * 100), version=version))
            found = await releases_of(rig, [str(n) for n in range(95, 205)])
            assert found == {user: "2" if int(user) % 100 < percent else "1" for user in found}


@pytest.mark.promise
async def test_routes_that_come_and_go_bring_no_weight_of_before() -> None:
    """The share goes up and back by the runtime; then other routes are told, under load. Nobody meets the newcomer."""
    async with fresh() as rig:
        orders = await pair(rig)
        seen, stopping = Counter[tuple[int, str]](), asyncio.Event()

        async def ask(user: str) -> None:
            client = Client(rig.port)
            while not stopping.is_set():
                reply = await client.ask("/orders", headers={"x-user-id": user})
                seen[reply.status, reply.release] += 1
            await client.close()

        version = 0
        for _ in range(6):
            for share in (0, 9_000, 0):
                await rig.traffic.apply(table(step(orders, share), version=(version := version + 1)))
            seen.clear()
            stopping.clear()
            async with asyncio.TaskGroup() as group:
                for user in USERS[:6]:
                    group.create_task(ask(user))
                for changed in (replace(orders, timeout_s=3.0), replace(ended(orders), timeout_s=4.0), ended(orders)):
                    split = replace(changed.split, salt=f"other-{version}")
                    for found in (changed, replace(changed, split=split), step(changed, 0)):
                        await rig.traffic.apply(table(found, version=(version := version + 1)))
                stopping.set()
            assert seen.keys() == {(200, "1")}, seen


@pytest.mark.promise
async def test_another_envoy_and_another_control_plane_have_the_weights_at_once() -> None:
    async with fresh() as rig:
        orders = await pair(rig)
        for version, share in enumerate((0, 5_000, 2_500), start=1):
            await rig.traffic.apply(table(step(orders, share), version=version))
        seen: dict[str, set[tuple[int, str]]] = {user: set() for user in USERS}
        stopping = asyncio.Event()

        async def ask() -> None:
            while not stopping.is_set():
                client = Client(rig.port)
                for user in USERS:
                    reply = await client.ask("/orders", headers={"x-user-id": user})
                    seen[user].add((reply.status, reply.release))
                await client.close()

        asking = asyncio.create_task(ask())
        await rig.traffic.renew()
        told = await routes_of(rig)
        await rig.traffic.detach()
        rig.traffic = gateway(rig.port, rig.state, [])
        await rig.traffic.start()
        assert rig.traffic.adopted
        await rig.traffic.apply(table(step(orders, 2_500), version=4))
        stopping.set()
        await asking
        assert seen == {user: {(200, release)} for user, release in placed(2_500).items()}
        assert await routes_of(rig) == told, "nothing is told again"
        await rig.traffic.apply(table(step(orders, 100), version=5))
        assert await releases_of(rig) == placed(100)


async def test_an_envoy_without_the_layer_is_told_routes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Started by an earlier version of Gapless, and adopted."""
    told = bootstrap._told
    none = {"name": "weights", "static_layer": {}}
    monkeypatch.setattr(bootstrap, "_told", lambda name, layer: none if name == "weights" else told(name, layer))
    async with fresh() as rig:
        orders = await pair(rig)
        for version, share in enumerate((0, 2_500, BUCKETS), start=1):
            await rig.traffic.apply(table(step(orders, share), version=version))
            assert await releases_of(rig) == placed(share)
