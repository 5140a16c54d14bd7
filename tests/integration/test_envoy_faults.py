"""Faults on purpose: what they do, to whom, and that they end by themselves."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio

from gapless.core.model import Fault
from gapless.core.world import RealWorld
from tests.integration.envoy_kit import Rig, ask, gateway, running, service, table

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def envoy() -> AsyncIterator[Rig]:
    async with running() as rig:
        yield rig


@pytest_asyncio.fixture(loop_scope="module")
async def rig(envoy: Rig) -> AsyncIterator[Rig]:
    yield envoy
    await envoy.clear()


def fault(**given: object) -> Fault:
    return Fault(service="orders", until_at=RealWorld().time() + 60, **given)  # type: ignore[arg-type]


async def statuses(rig: Rig, count: int = 100, **headers: str) -> Counter[int]:
    replies = [await ask(rig.port, "/orders", headers=headers) for _ in range(count)]
    return Counter(reply.status for reply in replies)


async def test_a_share_is_aborted_and_the_release_is_not_blamed(rig: Rig) -> None:
    found = service([(await rig.upstream("old")).endpoint()])
    world = RealWorld()
    since_at = int(world.time())
    await rig.traffic.apply(table(replace(found, fault=fault(abort=418, share=50.0))))
    counts = await statuses(rig, 200)
    assert set(counts) == {200, 418}
    assert 60 <= counts[418] <= 140
    async with asyncio.timeout(10):
        while (told := await rig.traffic.window("orders", "1", since_at, world.time() + 1)).requests < counts[200]:
            await asyncio.sleep(0.05)
    assert (told.requests, told.errors) == (counts[200], 0)
    await rig.traffic.apply(table(found, version=2))
    assert set(await statuses(rig)) == {200}


async def test_only_requests_with_the_header_are_delayed(rig: Rig) -> None:
    found = service([(await rig.upstream("old")).endpoint()])
    await rig.traffic.apply(table(replace(found, fault=fault(delay_s=0.5, header="x-chaos=1"))))
    loop = asyncio.get_running_loop()
    began = loop.time()
    await ask(rig.port, "/orders", headers={"x-chaos": "1"})
    assert loop.time() - began >= 0.45  # timers round
    quick = []
    for headers in ({"x-chaos": "2"}, {}) * 5:
        began = loop.time()
        await ask(rig.port, "/orders", headers=headers)
        quick.append(loop.time() - began)
    assert min(quick) < 0.5


async def test_a_fault_ends_by_itself_though_nobody_controls_the_gateway_any_more(rig: Rig) -> None:
    found = service([(await rig.upstream("old")).endpoint()])
    ending = replace(fault(abort=503), until_at=RealWorld().time() + 3)
    await rig.traffic.apply(table(replace(found, fault=ending)))
    assert set(await statuses(rig, 5)) == {503}
    await rig.traffic.detach()
    try:
        async with asyncio.timeout(30):
            while set(await statuses(rig, 5)) != {200}:
                await asyncio.sleep(0.1)
        assert RealWorld().time() >= ending.until_at - 0.1
    finally:
        rig.traffic = gateway(rig.port, rig.state, rig.events)
        await rig.traffic.start()
