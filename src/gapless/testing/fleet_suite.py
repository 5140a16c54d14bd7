"""The checks that every fleet passes, real or fake. Each gets an empty fleet:

    @asynccontextmanager
    async def make():
        fleet = MyFleet(...)
        yield FleetRig(fleet=fleet, service=service, source=directory, crash=kill_it)
        await fleet.close()

    await check_fleet(make)                                     # or, one test for each:
    @pytest.mark.parametrize("check", FLEET_CHECKS, ids=lambda check: check.__name__)

The service's `source` must be something that the fleet can make a release of and that runs until it is stopped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

from gapless.core.errors import GaplessError, InvalidTransition, ReleaseError
from gapless.core.model import Address, Instance, Release, Service
from gapless.core.ports import Fleet, Running

LIMIT_S = 60.0
"""Real seconds after which a check counts as hanging: generous, because test machines are busy."""


@dataclass(slots=True, kw_only=True)
class FleetRig:
    """A fleet under test: a service that it can run, a directory of its code, and the way to make an instance crash."""

    fleet: Fleet
    service: Service
    source: Path
    crash: Callable[[Running], Awaitable[None]]
    _numbers: count[int] = field(default_factory=lambda: count(1))

    async def release(self, version: str = "1") -> Release:
        return await self.fleet.snapshot(self.service, self.source, version, {})

    async def instance(self) -> Instance:
        """A new one, not started."""
        name = self.service.name
        address = await self.fleet.allocate()
        return Instance(id=f"{name}-{next(self._numbers)}", service=name, release="1", address=address)

    async def started(self) -> Instance:
        instance = await self.instance()
        pid = await self.fleet.start(instance, await self.release(), self.service)
        return replace(instance, pid=pid)

    async def running(self, instance: Instance) -> Running | None:
        found = [one for one in await self.fleet.list() if one.id == instance.id]
        require(len(found) <= 1, f"{instance.id} is listed {len(found)} times")
        return found[0] if found else None


FleetCheck = Callable[[FleetRig], Awaitable[None]]
MakeFleet = Callable[[], AbstractAsyncContextManager[FleetRig]]


async def check_fleet(make: MakeFleet) -> None:
    """Run every check on an empty fleet of its own. Raises AssertionError, with the check's name in a note."""
    for check in FLEET_CHECKS:
        async with make() as rig:
            await run_check(check, rig)


async def run_check(check: FleetCheck, rig: FleetRig) -> None:
    """Run one check, stop what it started. Raises AssertionError or TimeoutError, with the check's name in a note."""
    try:
        async with asyncio.timeout(LIMIT_S):
            await check(rig)
    except BaseException as error:
        error.add_note(f"in the fleet check {getattr(check, '__name__', check)!r}")
        raise
    finally:
        for one in await rig.fleet.list():
            address = Address(host="127.0.0.1", port=0)
            await rig.fleet.stop(Instance(id=one.id, service="", release="", address=address), 0.0)
            await rig.fleet.forget(one.id)


def require(truth: bool, otherwise: str) -> None:
    """A check's assertion, which also holds under `python -O`."""
    if not truth:
        raise AssertionError(otherwise)


async def an_empty_fleet_lists_nothing(rig: FleetRig) -> None:
    require(not await rig.fleet.list(), "a new fleet lists something")


async def the_same_content_is_one_snapshot(rig: FleetRig) -> None:
    first, second = await rig.release("1"), await rig.release("2")
    require(first.digest == second.digest, "the same content has two digests")
    require((first.version, second.version) == ("1", "2"), "the version is not the one asked for")
    require(first.service == rig.service.name, "the release is not the service's")


async def a_release_keeps_the_settings(rig: FleetRig) -> None:
    service = replace(rig.service, env={"KEPT": "service", "GIVEN": "service"})
    release = await rig.fleet.snapshot(service, rig.source, "1", {"GIVEN": "release"})
    require(dict(release.env) == {"KEPT": "service", "GIVEN": "release"}, f"settings are {release.env}")


async def an_absent_source_is_refused(rig: FleetRig) -> None:
    await raises(ReleaseError, rig.fleet.snapshot(rig.service, rig.source / "absent", "1", {}))


async def addresses_differ(rig: FleetRig) -> None:
    found = [await rig.fleet.allocate() for _ in range(5)]
    require(len(set(found)) == len(found), f"an address was handed out twice: {found}")


async def a_started_instance_is_listed(rig: FleetRig) -> None:
    instance = await rig.started()
    running = await rig.running(instance)
    require(running is not None and running.alive, f"{running} is not alive")
    require(running is not None and running.pid == instance.pid > 0, f"the pid of {running} is not {instance.pid}")


async def a_start_is_idempotent(rig: FleetRig) -> None:
    instance = await rig.started()
    again = await rig.fleet.start(instance, await rig.release(), rig.service)
    require(again == instance.pid, "a second start gave another process")
    require(len(await rig.fleet.list()) == 1, "a second start is listed")


async def starts_at_once_are_one(rig: FleetRig) -> None:
    instance, release = await rig.instance(), await rig.release()
    pids = await asyncio.gather(*(rig.fleet.start(instance, release, rig.service) for _ in range(3)))
    require(len(set(pids)) == 1, f"{len(set(pids))} processes for one instance")


async def a_stopped_one_is_listed_until_forgotten(rig: FleetRig) -> None:
    instance = await rig.started()
    await rig.fleet.stop(instance, 5.0)
    running = await rig.running(instance)
    require(running is not None and not running.alive, f"{running} instead of one that has ended")
    require(running is not None and bool(running.detail), "an end without a word about how")
    await rig.fleet.forget(instance.id)
    require(await rig.running(instance) is None, "a forgotten instance is listed")


async def a_stop_is_idempotent(rig: FleetRig) -> None:
    instance = await rig.started()
    await asyncio.gather(*(rig.fleet.stop(instance, 5.0) for _ in range(2)))
    await rig.fleet.stop(instance, 5.0)
    await rig.fleet.stop(await rig.instance(), 5.0)
    await rig.fleet.forget(instance.id)
    await rig.fleet.stop(instance, 0.0)
    await rig.fleet.forget(instance.id)


async def a_stop_without_drain_ends_it(rig: FleetRig) -> None:
    instance = await rig.started()
    await rig.fleet.stop(instance, 0.0)
    running = await rig.running(instance)
    require(running is not None and not running.alive, f"{running} instead of one that has ended")


async def a_stop_touches_only_its_own(rig: FleetRig) -> None:
    one, other = await rig.started(), await rig.started()
    await rig.fleet.stop(one, 0.0)
    running = await rig.running(other)
    require(running is not None and running.alive and running.pid == other.pid, f"the other is {running}")


async def a_crash_ticks_and_is_reported(rig: FleetRig) -> None:
    instance = await rig.started()
    running = await rig.running(instance)
    require(running is not None, "a started instance is not listed")
    async with rig.fleet.changed() as ticks:
        await rig.crash(running or Running(id="", pid=0, alive=False))
        await anext(ticks)
        ended = await rig.running(instance)
    require(ended is not None and not ended.alive and bool(ended.detail), f"{ended} after a crash")


async def every_listener_hears_a_crash(rig: FleetRig) -> None:
    instance = await rig.started()
    async with rig.fleet.changed() as first, rig.fleet.changed() as second:
        await rig.fleet.stop(instance, 0.0)
        await anext(first)
        await anext(second)


async def an_ended_one_can_be_started_again(rig: FleetRig) -> None:
    instance = await rig.started()
    await rig.fleet.stop(instance, 0.0)
    again = await rig.fleet.start(instance, await rig.release(), rig.service)
    running = await rig.running(instance)
    require(running is not None and running.alive and running.pid == again, f"{running} after a second start")


async def the_living_are_not_forgotten(rig: FleetRig) -> None:
    instance = await rig.started()
    await raises(InvalidTransition, rig.fleet.forget(instance.id))
    running = await rig.running(instance)
    require(running is not None and running.alive, f"{running} after a refused forget")


async def what_does_not_run_is_not_reloaded(rig: FleetRig) -> None:
    await raises(InvalidTransition, rig.fleet.reload(await rig.instance()))


async def an_unknown_log_is_empty(rig: FleetRig) -> None:
    require(rig.fleet.tail("nobody") == "", "an unknown instance has a log")


async def raises(kind: type[GaplessError], call: Awaitable[object]) -> None:
    try:
        await call
    except kind:
        return
    raise AssertionError(f"no {kind.__name__}")


FLEET_CHECKS: tuple[FleetCheck, ...] = (
    an_empty_fleet_lists_nothing,
    the_same_content_is_one_snapshot,
    a_release_keeps_the_settings,
    an_absent_source_is_refused,
    addresses_differ,
    a_started_instance_is_listed,
    a_start_is_idempotent,
    starts_at_once_are_one,
    a_stopped_one_is_listed_until_forgotten,
    a_stop_is_idempotent,
    a_stop_without_drain_ends_it,
    a_stop_touches_only_its_own,
    a_crash_ticks_and_is_reported,
    every_listener_hears_a_crash,
    an_ended_one_can_be_started_again,
    the_living_are_not_forgotten,
    what_does_not_run_is_not_reloaded,
    an_unknown_log_is_empty,
)
