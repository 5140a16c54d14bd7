"""What every registry must do, as checks that all of them pass alike: on a store in memory, SQLite or etcd, and behind
an agent's HTTP API.

    @asynccontextmanager
    async def make():
        world = FakeWorld()
        store = MemoryStore(world)
        async with registry_on(store, world, ttl_s=2) as one, registry_on(store, world, ttl_s=2) as two:
            yield RegistryRig(one=one, two=two, world=world, lose=…)

    await check_registry(make)                                  # or, one test for each:
    @pytest.mark.parametrize("check", REGISTRY_CHECKS, ids=lambda check: check.__name__)

`make` gives two processes' registries, which nobody has registered in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass

from gapless.core.errors import UnknownName
from gapless.core.model import Endpoint
from gapless.core.ports import World
from gapless.discovery.registry import Registration, Registry
from gapless.testing.world import FakeWorld

LIMIT_S = 60.0
"""Real seconds after which a check counts as hanging: generous, because test machines are busy."""
STEP_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryRig:
    """Two processes' views of one registry. `lose` makes it forget an instance, as an accident would."""

    one: Registry
    two: Registry
    world: World
    lose: Callable[[str], Awaitable[None]]
    ttl_s: float = 2.0

    async def pass_time(self, seconds: float) -> None:
        """Virtual seconds in a FakeWorld, real ones otherwise."""
        if isinstance(self.world, FakeWorld):
            await self.world.advance(seconds)
        else:
            await self.world.sleep(seconds)

    async def until(self, service: str, *wanted: str) -> None:
        """Until the second process finds these instances of the service, and no others."""
        await self.until_told(service, lambda endpoint: endpoint.instance, *wanted)

    async def until_told(self, service: str, told: Callable[[Endpoint], str], *wanted: str) -> None:
        """Until this is what the second process is told of the service's instances."""
        until_at = asyncio.get_running_loop().time() + LIMIT_S / 2
        while (found := set(map(told, await self.two.list(service)))) != set(wanted):
            if asyncio.get_running_loop().time() > until_at:
                raise AssertionError(f"{sorted(found)} are found, not {sorted(wanted)}")
            await self.step()

    async def step(self) -> None:
        """A little time; of the real one as well, which a store on a disk takes in any world."""
        await self.pass_time(STEP_S)
        await asyncio.sleep(0.001)


RegistryCheck = Callable[[RegistryRig], Awaitable[None]]
MakeRegistry = Callable[[], AbstractAsyncContextManager[RegistryRig]]


def orders(number: int = 1, service: str = "orders") -> Registration:
    """An instance where nobody listens."""
    return Registration(service=service, id=f"{service}-{number}", address="127.0.0.1", port=number)


async def who_registers_is_found_with_what_it_said(rig: RegistryRig) -> None:
    said = Registration(
        service="orders",
        address="127.0.0.1",
        port=7,
        version="1.4",
        zone="eu-1",
        weight=0.5,
        tags=("a",),
        meta={"x": "y"},
    )
    await rig.one.register(said)
    await rig.until("orders", "orders-127.0.0.1-7")
    (found,) = await rig.two.list("orders")
    assert (str(found.address), found.zone, found.weight) == ("127.0.0.1:7", "eu-1", 0.5), found
    assert await rig.two.list("stock") == ()


async def who_deregisters_is_not_found(rig: RegistryRig) -> None:
    await rig.one.register(orders(1))
    await rig.one.register(orders(2))
    await rig.until("orders", "orders-1", "orders-2")
    await rig.one.deregister("orders-1")
    await rig.one.deregister("orders-1")
    await rig.until("orders", "orders-2")


async def registering_again_replaces(rig: RegistryRig) -> None:
    await rig.one.register(orders(1))
    await rig.one.register(Registration(service="orders", id="orders-1", address="127.0.0.1", port=9))
    await rig.until_told("orders", lambda endpoint: str(endpoint.address.port), "9")


async def names_are_any_text(rig: RegistryRig) -> None:
    for number, name in enumerate(("a/b", "ç é", "50%", "x#1?y=z")):
        await rig.one.register(Registration(service=name, id=name, address="127.0.0.1", port=number + 1))
        await rig.until(name, name)
        await rig.one.warn(name, "a note: 50% ç")
        await rig.until(name)


async def its_owner_says_how_it_is(rig: RegistryRig) -> None:
    await rig.one.register(orders(1))
    for say in (rig.one.warn, rig.one.fail):
        await say("orders-1", "because")
        await rig.until("orders")
        await rig.one.passing("orders-1")
        await rig.until("orders", "orders-1")


async def what_its_owner_said_lasts(rig: RegistryRig) -> None:
    await rig.one.register(orders(1))
    await rig.one.warn("orders-1")
    await rig.pass_time(2 * rig.ttl_s)
    assert await rig.two.list("orders") == ()


async def a_stranger_says_nothing(rig: RegistryRig) -> None:
    try:
        await rig.one.fail("orders-9")
    except UnknownName:
        return
    raise AssertionError("an instance that is not registered was told of")


async def who_lives_is_found_as_long_as_it_lives(rig: RegistryRig) -> None:
    await rig.one.register(orders(1))
    for _ in range(6):
        await rig.pass_time(rig.ttl_s / 2)
        assert [endpoint.instance for endpoint in await rig.two.list("orders")] == ["orders-1"]


async def who_dies_is_not_found_any_more(rig: RegistryRig) -> None:
    await rig.one.register(orders(1))
    await rig.two.register(orders(2))
    await rig.until("orders", "orders-1", "orders-2")
    await rig.one.aclose()
    await rig.until("orders", "orders-2")


async def who_comes_back_is_found_at_once(rig: RegistryRig) -> None:
    await rig.one.register(orders(1))
    await rig.one.aclose()
    await rig.until("orders")
    await rig.two.register(orders(1))
    await rig.until("orders", "orders-1")


async def what_was_lost_comes_back_by_itself(rig: RegistryRig) -> None:
    await rig.one.register(orders(1))
    await rig.until("orders", "orders-1")
    await rig.lose("orders-1")
    await rig.until("orders")
    await rig.until("orders", "orders-1")


async def what_was_deregistered_does_not_come_back(rig: RegistryRig) -> None:
    await rig.one.register(orders(1))
    await rig.one.deregister("orders-1")
    await rig.pass_time(2 * rig.ttl_s)
    assert await rig.two.list("orders") == ()


async def a_watch_tells_the_present_and_each_change(rig: RegistryRig) -> None:
    await rig.one.register(orders(1))
    await rig.until("orders", "orders-1")
    seen: asyncio.Queue[set[str]] = asyncio.Queue()

    async def follow() -> None:
        async with aclosing(rig.two.watch("orders")) as changes:
            async for endpoints in changes:
                await seen.put(_ids(endpoints))

    task = asyncio.create_task(follow())
    try:
        await _told(rig, seen, {"orders-1"})
        await rig.one.register(orders(2))
        await _told(rig, seen, {"orders-1", "orders-2"})
        await rig.one.deregister("orders-1")
        await _told(rig, seen, {"orders-2"})
    finally:
        task.cancel()
        await asyncio.wait({task})


def _ids(endpoints: tuple[Endpoint, ...]) -> set[str]:
    return {endpoint.instance for endpoint in endpoints}


async def _told(rig: RegistryRig, seen: asyncio.Queue[set[str]], wanted: set[str]) -> None:
    until_at = asyncio.get_running_loop().time() + LIMIT_S / 2
    while asyncio.get_running_loop().time() < until_at:
        while not seen.empty():
            if seen.get_nowait() == wanted:
                return
        await rig.step()
    raise AssertionError(f"the watch did not tell of {sorted(wanted)}")


REGISTRY_CHECKS: tuple[RegistryCheck, ...] = (
    who_registers_is_found_with_what_it_said,
    who_deregisters_is_not_found,
    registering_again_replaces,
    names_are_any_text,
    its_owner_says_how_it_is,
    what_its_owner_said_lasts,
    a_stranger_says_nothing,
    who_lives_is_found_as_long_as_it_lives,
    who_dies_is_not_found_any_more,
    who_comes_back_is_found_at_once,
    what_was_lost_comes_back_by_itself,
    what_was_deregistered_does_not_come_back,
    a_watch_tells_the_present_and_each_change,
)


async def check_registry(make: MakeRegistry) -> None:
    """Run every check on a registry of its own. Raises AssertionError or TimeoutError, with the check's name in a
    note."""
    for check in REGISTRY_CHECKS:
        async with make() as rig:
            await run_registry_check(check, rig)


async def run_registry_check(check: RegistryCheck, rig: RegistryRig) -> None:
    """Run one check. Raises as `check_registry`."""
    try:
        async with asyncio.timeout(LIMIT_S):
            await check(rig)
    except BaseException as error:
        error.add_note(f"in the registry check {getattr(check, '__name__', check)!r}")
        raise
