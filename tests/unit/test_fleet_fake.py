"""The fake fleet: the conformance suite, and what a test can make it do."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gapless.core.errors import Busy, InstanceFailed, ReloadRefused
from gapless.core.model import Address, Instance, Service
from gapless.core.ports import Running
from gapless.testing.fleet import FLEET_CHECKS, FakeFleet, FleetRig, Script, check_fleet, run_check

SERVICE = Service(name="orders", app="orders:app")
INSTANCE = Instance(id="orders-1", service="orders", release="1", address=Address(host="127.0.0.1", port=1))


@asynccontextmanager
async def make() -> AsyncIterator[FleetRig]:
    fleet = FakeFleet()

    async def crash(running: Running) -> None:
        fleet.crash(running.id)

    yield FleetRig(fleet=fleet, service=SERVICE, source=Path("shop"), crash=crash)


@pytest.mark.parametrize("check", FLEET_CHECKS, ids=lambda check: check.__name__)
async def test_the_fake_passes(check):
    async with make() as rig:
        await run_check(check, rig)


async def test_the_whole_suite_in_one_call():
    await check_fleet(make)


async def test_a_failing_check_names_itself():
    async def nothing_is_right(rig):
        raise AssertionError

    async with make() as rig:
        with pytest.raises(AssertionError) as caught:
            await run_check(nothing_is_right, rig)
    assert caught.value.__notes__ == ["in the fleet check 'nothing_is_right'"]


async def start(script: Script) -> FakeFleet:
    fleet = FakeFleet({"1": script})
    release = await fleet.snapshot(SERVICE, Path("shop"), "1", {})
    await fleet.start(INSTANCE, release, SERVICE)
    return fleet


async def test_a_script_decides_readiness():
    assert (await start(Script())).probe("orders-1")
    assert not (await start(Script(ready=False))).probe("orders-1")
    assert not (await start(Script(crash="exited with status 1"))).probe("orders-1")


async def test_a_script_crashes_with_a_log():
    fleet = await start(Script(crash="exited with status 3", log="one\ntwo"))
    assert [(r.alive, r.detail) for r in await fleet.list()] == [(False, "exited with status 3")]
    assert fleet.tail("orders-1", 1) == "two"
    assert fleet.tail("orders-1", 0) == ""


async def test_a_script_refuses_a_start():
    with pytest.raises(InstanceFailed, match="no room"):
        await start(Script(refuse_start="no room"))


async def test_reloads():
    fleet = await start(Script())
    assert await fleet.reload(INSTANCE) == "reloaded"
    fleet.reloading.add("orders-1")
    with pytest.raises(Busy):
        await fleet.reload(INSTANCE)
    fleet = await start(Script(refuse_reload="no"))
    with pytest.raises(ReloadRefused):
        await fleet.reload(INSTANCE)


async def test_calls_are_recorded_and_snapshots_pruned():
    fleet = await start(Script())
    await fleet.stop(INSTANCE, 1.0)
    assert fleet.calls == [("snapshot", "orders"), ("start", "orders-1"), ("stop", "orders-1")]
    (digest,) = fleet.snapshots
    assert await fleet.prune({digest}) == ()
    assert await fleet.prune(set()) == (digest,)
