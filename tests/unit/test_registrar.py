"""The instances of a system in the registry: in step with their phases, never passing when they must not be asked."""

from __future__ import annotations

from gapless.config import Registry
from gapless.control.registrar import OWNER
from gapless.core.errors import StoreFull
from gapless.core.model import Phase, RouteTable
from gapless.discovery.catalog.catalog import Catalog
from gapless.discovery.catalog.keys import weight_key
from gapless.discovery.catalog.values import Instance, Status
from gapless.testing.fleet import Script
from gapless.testing.traffic import FakeTraffic
from tests.unit.control_kit import ME, Rig, wanting

REGISTRY = Registry(zone="z1")


class Witness(FakeTraffic):
    """Notes at each new table who passes in the registry and who is routed to, and the statuses when it is stopped."""

    def __init__(self, rig: Rig) -> None:
        super().__init__(rig.world)
        self.rig = rig
        self.seen: list[tuple[set[str], set[str]]] = []
        self.at_the_end: set[str] = set()

    async def apply(self, table: RouteTable) -> int:
        routed = {it.instance for service in table.services for it in service.endpoints if not it.draining}
        self.seen.append(({name for name, status in standing(self.rig).items() if status == Status.PASSING}, routed))
        return await super().apply(table)

    async def stop(self, drain_s: float = 0.0) -> None:
        self.at_the_end = set(standing(self.rig).values())
        await super().stop(drain_s)


def catalog_of(rig: Rig) -> Catalog:
    assert rig.catalog is not None
    return rig.catalog


def standing(rig: Rig) -> dict[str, str]:
    return {found.instance.id: found.status for found in catalog_of(rig).instances("web")}


async def started(*services, registry: Registry = REGISTRY) -> Rig:  # type: ignore[no-untyped-def]
    rig = Rig(*services, registry=registry)
    await rig.up()
    await rig.settle()
    await rig.pass_time(0.5)
    return rig


async def test_what_is_ready_is_passing_with_all_that_is_known_of_it() -> None:
    rig = await started()
    assert set(standing(rig).values()) == {Status.PASSING}
    for live in rig.live():
        found = catalog_of(rig).instance(live.id)
        assert found is not None
        assert (found.address, found.instance.port) == (live.address.host, live.address.port)
        assert found.instance.tags == (live.release,)
        assert found.instance.meta == {"version": live.release, "zone": "z1", OWNER: "tiny"}
    await rig.down()


async def test_what_is_not_ready_is_there_but_critical() -> None:
    rig = await started()
    rig.fleet.scripts[rig.live()[0].release] = Script(ready=False)
    await rig.pass_time(5.0)
    assert {live.phase for live in rig.live()} == {Phase.UNREADY}
    assert standing(rig) == {live.id: Status.CRITICAL for live in rig.live()}
    assert "unready: still warming up" in {row.check.output for row in catalog_of(rig).checks_of("web")}
    await rig.down()


async def test_an_instance_leaves_the_registry_before_the_gateway_and_the_gateway_before_it_ends() -> None:
    rig = Rig(wanting(3), registry=REGISTRY)
    rig.traffic = traffic = Witness(rig)
    await rig.up()
    await rig.settle()
    traffic.seen.clear()
    await rig.plane.commands.scale("web", 1, ME)
    await rig.pass_time(5.0)
    assert traffic.seen
    assert all(passing <= routed for passing, routed in traffic.seen)
    assert list(standing(rig).values()) == [Status.PASSING]
    await rig.down()
    assert traffic.at_the_end == {Status.CRITICAL}, "a system that ends says so before it does"
    assert standing(rig) == {}


async def test_what_others_registered_stays_and_what_they_changed_of_ours_is_put_right() -> None:
    rig = await started()
    catalog = catalog_of(rig)
    await catalog.register(Instance(service="db", id="db-1", port=5432))
    mine = rig.live()[0].id
    await catalog.update_check(f"service:{mine}", Status.CRITICAL, "says somebody")
    await catalog.deregister(rig.live()[1].id)
    await rig.pass_time(2.0)
    assert standing(rig) == {live.id: Status.PASSING for live in rig.live()}
    assert [found.instance.id for found in catalog.instances("db")] == ["db-1"]
    await rig.down()
    assert catalog.instance("db-1") is not None


async def test_the_next_control_plane_finds_and_corrects_what_a_killed_one_left() -> None:
    rig = await started()
    await rig.kill()
    ended = rig.live()[0]
    rig.fleet.crash(ended.id, "killed by SIGKILL")
    await rig.up()
    await rig.pass_time(0.5)
    assert ended.id not in standing(rig)
    await rig.settle()
    await rig.pass_time(0.5)
    assert sorted(standing(rig).values()) == [Status.PASSING, Status.PASSING]
    await rig.down()


async def test_requests_do_not_wait_for_a_registry_that_cannot_be_written() -> None:
    rig = await started()
    put = catalog_of(rig).put

    async def full(*_: object, **__: object) -> None:
        raise StoreFull

    rig.catalog.put = full  # type: ignore[method-assign, union-attr]
    await rig.plane.commands.scale("web", 3, ME)
    await rig.pass_time(3.0)
    routed = {endpoint.instance for endpoint in rig.traffic.table.services[0].endpoints}
    assert len(routed) == 3
    rig.catalog.put = put  # type: ignore[method-assign, union-attr]
    await rig.pass_time(2.0)
    assert len(standing(rig)) == 3
    await rig.down()


async def test_a_weight_that_callers_have_sunk_is_left_to_them() -> None:
    rig = await started()
    mine = rig.live()[0].id
    await rig.store.put(weight_key("web", REGISTRY.node, mine), b"0.5")
    await rig.pass_time(0.5)
    found = catalog_of(rig).instance(mine)
    assert found is not None
    assert found.instance.meta["weight"] == "0.5"
    revision = catalog_of(rig).revision
    await rig.pass_time(5.0)
    assert catalog_of(rig).revision == revision, "nothing is written again and again"
    await rig.down()


async def test_an_instance_serves_on_for_as_long_as_others_take_to_look_again() -> None:
    rig = await started(wanting(2), registry=Registry(linger_s=3.0))
    await rig.plane.commands.scale("web", 1, ME)
    await rig.pass_time(2.0)
    assert sorted(standing(rig).values()) == [Status.CRITICAL, Status.PASSING]
    assert "stop" not in {verb for verb, _ in rig.fleet.calls}
    await rig.pass_time(2.5)
    assert [verb for verb, _ in rig.fleet.calls].count("stop") == 1
    await rig.down()
