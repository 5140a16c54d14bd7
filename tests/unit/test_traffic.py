"""The pretended data plane passes what every real one passes."""

from __future__ import annotations

import pytest

from gapless.core.errors import TrafficRefused
from gapless.core.model import RouteTable
from gapless.testing.traffic import TRAFFIC_CHECKS, FakeTraffic, FakeTrafficRig, TrafficCheck, run_check
from gapless.testing.world import FakeWorld


@pytest.mark.parametrize("check", TRAFFIC_CHECKS, ids=lambda check: check.__name__)
async def test_conformance(check: TrafficCheck) -> None:
    await run_check(check, FakeTrafficRig(FakeTraffic(FakeWorld())))


async def test_a_refused_table_leaves_the_one_before() -> None:
    traffic = FakeTraffic(FakeWorld())
    await traffic.apply(RouteTable(version=1, services=()))
    traffic.refuse = "bad regex"
    with pytest.raises(TrafficRefused, match="bad regex"):
        await traffic.apply(RouteTable(version=2, services=()))
    assert traffic.table.version == 1


async def test_figures_are_those_put_in() -> None:
    world = FakeWorld()
    traffic = FakeTraffic(world)
    traffic.record("orders", "1", requests=10, errors=2, latency_s=0.02, users=("a", "b"))
    await world.advance(2)
    traffic.record("orders", "1", requests=5)
    first = await traffic.window("orders", "1", world.time() - 2, world.time())
    assert (first.requests, first.errors, first.failed, sum(first.latency)) == (10, 2, ("a", "b"), 10)
    assert (await traffic.window("orders", "2", 0, world.time() + 1)).requests == 0
