"""What callers tell of instances, and what the registry makes of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gapless.api.consul.agent_sights import AgentSights
from gapless.api.consul.app import ConsulApi
from gapless.core.errors import StoreFull
from gapless.core.ports import Op
from gapless.discovery.catalog import topic
from gapless.discovery.catalog.catalog import Catalog
from gapless.discovery.catalog.values import Instance, Weights
from gapless.discovery.eyes import EVIDENCE_S, Opinion, Sight
from gapless.discovery.health import LOOK_S, Health, share_of
from gapless.discovery.sights import Report, Told
from gapless.store.memory import MemoryStore
from gapless.testing import FakeWorld
from tests.unit.consul_kit import Client


def told(number: int, sight: Sight) -> Told:
    return Told(service="s", id=f"i{number}", address=f"127.0.0.1:{80 + number}", sight=sight)


class Rig:
    """Three instances of weight 100, and three callers who ask all of them."""

    def __init__(self, world: FakeWorld, store: MemoryStore) -> None:
        self.world, self.store = world, store
        self.catalog = Catalog(store, world, name="here")
        self.health = Health(self.catalog, world)

    def saw(self, sight: Sight, *observers: str) -> None:
        """Of instance 0; the others are well."""
        for observer in observers:
            sights = (told(0, sight), told(1, Sight.WELL), told(2, Sight.WELL), told(3, Sight.WELL))
            self.health.saw(Report(observer=observer, sights=sights))

    def weight(self, number: int = 0) -> tuple[int, str]:
        found = self.catalog.instance(f"i{number}")
        assert found is not None
        return found.instance.weights.passing, found.instance.meta.get("weight", "")

    def passing(self) -> list[str]:
        return [found.instance.id for found in self.catalog.instances("s", passing=True)]


@asynccontextmanager
async def opened(world: FakeWorld | None = None, store: MemoryStore | None = None) -> AsyncIterator[Rig]:
    world = world or FakeWorld()
    rig = Rig(world, store or MemoryStore(world))
    await rig.catalog.start()
    await rig.health.start()
    for number in range(4):
        await rig.catalog.register(Instance(service="s", id=f"i{number}", port=80 + number, weights=Weights(100, 1)))
    yield rig
    await rig.health.aclose()
    await rig.catalog.aclose()


@pytest.mark.parametrize(("weight", "share"), [(1.0, 1), (0.99, 0.75), (0.5, 0.5), (0.26, 0.25), (0.01, 0.25)])
def test_weights_sink_by_quarters(weight: float, share: float) -> None:
    assert share_of(Opinion(True, weight, 1, 4)) == share
    assert share_of(Opinion(False, 0.0, 4, 4)) == 0


async def test_one_caller_lets_the_weight_sink_and_a_quorum_takes_it_out() -> None:
    async with opened() as rig:
        rig.saw(Sight.WELL, "a", "b", "c")
        rig.saw(Sight.REFUSED, "a")
        await rig.world.settle()
        assert rig.weight() == (50, "50")
        assert len(rig.passing()) == 4
        rig.saw(Sight.REFUSED, "b")
        await rig.world.settle()
        assert rig.passing() == ["i1", "i2", "i3"]
        mark = rig.catalog.check("gapless:witnesses:i0")
        assert mark is not None
        assert mark.check.output == "2 of 3 callers complain"
        assert rig.weight() == (100, "")


async def test_the_mark_goes_when_its_evidence_expires() -> None:
    async with opened() as rig:
        rig.saw(Sight.WELL, "a", "b", "c")
        rig.saw(Sight.REFUSED, "a", "b")
        await rig.world.advance(EVIDENCE_S)
        assert len(rig.passing()) == 3
        await rig.world.advance(2 * LOOK_S)
        assert len(rig.passing()) == 4
        assert rig.weight() == (100, "")
        await rig.world.advance(60)
        assert rig.world.pending == 0


async def test_who_recovers_is_told_well_and_gets_its_weight_back() -> None:
    async with opened() as rig:
        rig.saw(Sight.WELL, "a", "b", "c")
        rig.saw(Sight.SLOW, "a")
        await rig.world.settle()
        assert rig.weight() == (50, "50")
        rig.saw(Sight.WELL, "a")
        await rig.world.settle()
        assert rig.weight() == (100, "")


async def test_a_sunk_weight_moves_the_indexes_and_outlives_registering_again() -> None:
    async with opened() as rig:
        rig.saw(Sight.WELL, "a", "b", "c")
        before = rig.catalog.index(topic.health("s"))
        rig.saw(Sight.REFUSED, "a")
        await rig.world.settle()
        sunk = rig.catalog.index(topic.health("s"))
        assert sunk > before
        await rig.catalog.register(Instance(service="s", id="i0", port=80, weights=Weights(100, 1)))
        assert rig.catalog.index(topic.health("s")) == sunk
        await rig.catalog.register(Instance(service="s", id="i0", port=80, weights=Weights(10, 1)))
        assert rig.weight() == (5, "5")
        await rig.catalog.deregister("i0")
        assert (await rig.store.list("catalog/weight/")).entries == ()


async def test_what_an_earlier_registry_wrote_is_taken_back_unless_confirmed() -> None:
    world = FakeWorld()
    store = MemoryStore(world)
    async with opened(world, store) as rig:
        rig.saw(Sight.WELL, "a", "b", "c")
        rig.saw(Sight.REFUSED, "a", "b")
        await world.settle()
    async with opened(world, store) as rig:
        index = rig.catalog.index(topic.health("s"))
        await world.advance(EVIDENCE_S - 1)
        assert len(rig.passing()) == 3
        await world.advance(2)
        assert len(rig.passing()) == 4
        assert rig.catalog.index(topic.health("s")) > index


async def test_what_cannot_be_written_is_written_later(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened() as rig:
        rig.saw(Sight.WELL, "a", "b", "c")

        async def full(*_: Op) -> int:
            raise StoreFull

        with monkeypatch.context() as patch:
            patch.setattr(rig.store, "transact", full)
            rig.saw(Sight.REFUSED, "a", "b")
            await rig.world.settle()
            assert len(rig.passing()) == 4
        await rig.world.advance(2 * LOOK_S)
        assert len(rig.passing()) == 3


async def test_strangers_are_not_counted() -> None:
    async with opened() as rig:
        strange = (told(9, Sight.REFUSED), Told(service="s", id="i0", address="10.0.0.1:80", sight=Sight.REFUSED))
        assert rig.health.saw(Report(observer="a", sights=strange)) == 0


@pytest.mark.parametrize(("address", "passing"), [("127.0.0.1", 3), ("10.0.0.7", 4)])
async def test_one_address_from_elsewhere_is_one_observer(address: str, passing: int) -> None:
    async with opened() as rig:
        client = Client(ConsulApi(AgentSights(rig.health).routes()), address)
        rig.saw(Sight.WELL, "x")
        for observer in ("a", "b"):
            sights = [
                {"Service": "s", "ID": f"i{n}", "Address": f"127.0.0.1:{80 + n}", "Sight": "well"} for n in range(4)
            ]
            sights[0]["Sight"] = "refused"
            response = await client.put("/v1/agent/gapless/sights", {"Observer": observer, "Sights": sights})
            assert response.status == 200
        await rig.world.settle()
        assert len(rig.passing()) == passing
        assert (await client.put("/v1/agent/gapless/sights", {"Observer": "a"})).status == 400
        many = {"Observer": "a", "Sights": sights * 300}
        assert (await client.put("/v1/agent/gapless/sights", many)).status == 400
