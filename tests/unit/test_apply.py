"""`gapless apply`: a changed gapless.yaml becomes what holds, whole or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from gapless.cli.apply import told
from gapless.config import load
from gapless.config.file import System, same_file
from gapless.control.changelog import change_status
from gapless.core.errors import Busy, ConfigError, InvalidTransition, ReleaseError, TrafficRefused
from gapless.core.model import Change, Phase, Protocol, Route, Service, Upstream
from tests.unit.control_kit import ME, WEB, Rig

CART = Service(name="cart", app="cart:app", source="c1", instances=1, routes=(Route(path="/cart"),))


@pytest_asyncio.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    await rig.up()
    await rig.settle()
    yield rig
    await rig.down()


async def applied(rig: Rig, *services: Service) -> tuple[Change, ...]:
    """While time goes on, as it must for the gateway to obey."""
    task = asyncio.create_task(apply(rig, *services))
    while not task.done():
        await rig.pass_time(0.25)
    return await task


async def apply(rig: Rig, *services: Service, dry_run: bool = False) -> tuple[Change, ...]:
    system = replace(rig.plane.system, services={service.name: service for service in services})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gapless.control.plane.load", lambda path: system)
        return await rig.plane.apply(system.path, ME, dry_run=dry_run)


def routes(rig: Rig) -> dict[str, list[str]]:
    """What the gateway obeys."""
    return {each.service: [route.path for route in each.routes] for each in rig.traffic.table.services}


async def test_routes_change_and_services_come_and_go_at_once(rig: Rig) -> None:
    web = replace(WEB, routes=(Route(path="/shop"), Route(path="/api", methods=("GET",))), timeout_s=3.0)
    changes = await applied(rig, web, CART)
    assert [change.what for change in changes] == [
        "definition of web changed in gapless.yaml",
        changes[1].what,
    ]
    assert changes[1].what.startswith("cart enters with release ")
    await rig.settle()
    assert routes(rig) == {"web": ["/shop", "/api"], "cart": ["/cart"]}
    assert rig.traffic.ask("/cart").status == 200
    (change,) = await applied(rig, CART)
    assert change.what.startswith("web leaves")
    assert rig.plane.ready
    assert rig.traffic.ask("/shop").status == 404
    await rig.pass_time(5.0)
    await rig.plane.commands.forget()
    assert [service.name for service in rig.plane.records.services()] == ["cart"]


async def test_a_new_service_takes_no_request_before_it_can_answer(rig: Rig) -> None:
    """Those for /cart were answered by web until now."""
    task = asyncio.create_task(apply(rig, WEB, CART))
    entered = False
    while not task.done() or not entered:
        await rig.pass_time(0.25)
        answer = rig.traffic.ask("/cart")
        assert answer.status == 200
        entered = answer.instance.startswith("cart")
    assert routes(rig)["cart"] == ["/cart"]


async def test_the_log_tells_what_each_service_has_become(rig: Rig) -> None:
    await applied(rig, replace(WEB, timeout_s=3.0), CART)
    told = {change.service: [each.where for each in change.diff] for change in rig.plane.records.changes(2)}
    assert told["web"] == ["services/web timeout_s"]
    assert "pools/cart service" in told["cart"]
    assert not [where for where in told["cart"] if "web" in where]


async def test_a_dry_run_tells_the_same_and_changes_nothing(rig: Rig) -> None:
    revision = rig.plane.records.revision
    changes = await apply(rig, replace(WEB, timeout_s=3.0), CART, dry_run=True)
    assert [change.what for change in changes] == ["definition of web changed in gapless.yaml", "cart enters"]
    assert [(each.where, each.before, each.after) for each in changes[0].diff] == [
        ("services/web timeout_s", "15.0", "3.0")
    ]
    assert rig.plane.records.revision == revision
    assert [each.name for each in rig.plane.records.services()] == ["web"]


async def test_applying_the_same_file_changes_nothing(rig: Rig) -> None:
    revision = rig.plane.records.revision
    assert await applied(rig, WEB) == ()
    assert rig.plane.records.revision == revision


async def test_a_new_service_that_cannot_be_made_leaves_all_as_it_was(rig: Rig) -> None:
    def broken(*_: Any) -> Any:
        raise ReleaseError("there is no cart", "Write one.")

    before = [*rig.plane.records.services()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rig.fleet, "snapshot", broken)
        with pytest.raises(ReleaseError, match="there is no cart"):
            await apply(rig, replace(WEB, timeout_s=3.0), CART)
    assert rig.plane.records.services() == before
    assert list(rig.plane.system.services) == ["web"]


async def test_what_the_gateway_refuses_is_taken_back(rig: Rig) -> None:
    before = rig.plane.records.service("web")
    split = rig.plane.records.split("web")
    rig.traffic.refuse = "bad regex"
    with pytest.raises(TrafficRefused, match=r"bad regex; nothing of gapless\.yaml was applied"):
        await applied(rig, replace(WEB, routes=(Route(path="/x("),)), CART)
    rig.traffic.refuse = ""
    assert rig.plane.records.service("web") == before
    assert rig.plane.records.split("web") == split
    assert rig.plane.records.split("cart") is None
    newest = rig.plane.records.changes(1)[0]
    assert newest.what == "gapless.yaml taken back: cart, web"
    assert "bad regex" in newest.why
    await rig.pass_time(6.0)
    await rig.settle()
    assert routes(rig) == {"web": ["/"]}
    assert rig.traffic.ask("/").status == 200
    await rig.plane.commands.forget()
    assert [each.name for each in rig.plane.records.services()] == ["web"]


async def test_a_service_that_leaves_comes_back_whole_when_the_gateway_refuses(rig: Rig) -> None:
    await applied(rig, WEB, CART)
    await rig.settle()
    await rig.plane.rollouts.deploy("cart", None, "new", {"A": "1"}, ME)
    split = rig.plane.records.split("cart")
    assert split
    live = rig.live("cart")
    rig.traffic.refuse = "no"
    with pytest.raises(TrafficRefused):
        await applied(rig, WEB)
    rig.traffic.refuse = ""
    back = rig.plane.records.split("cart")
    assert back
    assert (back.stable, rig.plane.records.pool("cart").sizes[split.stable]) == (split.stable, 1)  # type: ignore[union-attr]
    ready = {each.id for each in live if each.phase is Phase.READY}
    assert ready <= {each.id for each in rig.live("cart") if each.phase is Phase.READY}
    rollout = rig.plane.records.rollout("cart")
    assert rollout
    assert not rollout.state.ended


async def test_capacity_waits_for_a_rollout_and_routes_do_not(rig: Rig) -> None:
    await rig.plane.rollouts.deploy("web", None, "new", {"A": "1"}, ME)
    with pytest.raises(Busy, match="rollout 1 of web"):
        await apply(rig, replace(WEB, instances=5))
    await applied(rig, replace(WEB, routes=(Route(path="/shop"),)))
    assert routes(rig)["web"] == ["/shop"]
    pool = rig.plane.records.pool("web")
    assert pool
    assert len(pool.sizes) == 2
    assert await rig.end_rollout() == "promoted"


async def test_running_instances_are_not_asked_in_another_tongue(rig: Rig) -> None:
    known = rig.plane.records.service("web")
    with pytest.raises(InvalidTransition, match=r"instances of web speak http, and .* says grpc now"):
        await apply(rig, replace(WEB, upstream=Upstream(protocol=Protocol.GRPC), timeout_s=3.0))
    assert rig.plane.records.service("web") == known
    await applied(rig, replace(WEB, upstream=Upstream(protocol=Protocol.HTTP2)))  # what speaks both is only asked anew


async def test_what_scale_has_set_stays(rig: Rig) -> None:
    await rig.plane.commands.scale("web", 3, ME)
    await applied(rig, replace(WEB, timeout_s=3.0))
    service = rig.plane.records.service("web")
    assert service
    assert (service.instances, service.timeout_s) == (3, 3.0)


FILE = """system: shop
gateway: {{listen: "127.0.0.1:{port}"}}
services:
  web:
    command: [./web, "{{port}}"]
"""


def written(directory: Path, port: int, name: str = "gapless.yaml") -> System:
    (directory / name).write_text(FILE.format(port=port))
    return load(directory / name)


def test_what_a_running_system_cannot_change_is_refused(tmp_path: Path) -> None:
    running = replace(written(tmp_path, 8080), store="somewhere else, by --store")
    same_file(running, written(tmp_path, 8080))
    with pytest.raises(ConfigError, match=r"gateway cannot change while the system runs; nothing was applied"):
        same_file(running, written(tmp_path, 8081))
    with pytest.raises(ConfigError, match=r"was started with .*gapless.yaml, not with .*other.yaml"):
        same_file(running, written(tmp_path, 8080, "other.yaml"))


async def test_what_others_have_changed_meanwhile_is_not_put_back(rig: Rig) -> None:
    applying = rig.plane._applying
    done = await applying.apply({"web": replace(WEB, timeout_s=3.0)}, ME)
    await rig.plane.commands.scale("web", 3, ME)
    await applying.restore(done, ME)
    service = rig.plane.records.service("web")
    assert service
    assert (service.timeout_s, service.instances) == (3.0, 3)


async def test_it_is_told_to_people(rig: Rig) -> None:
    changes = await apply(rig, replace(WEB, timeout_s=3.0), dry_run=True)
    shown = [change_status(rig.plane.records, change) for change in changes]
    assert told({"applied": False, "changes": shown}) == [
        "definition of web changed in gapless.yaml",
        "  ~ services/web timeout_s: 15.0 → 3.0",
        "nothing was changed: this was a dry run",
    ]
    changes = await apply(rig, replace(WEB, env={"A": "1"}, source="v2"), dry_run=True)
    shown = [change_status(rig.plane.records, change) for change in changes]
    assert "  ~ services/web source: v1 → v2  (with the next deploy)" in told({"applied": False, "changes": shown})
    assert told({"applied": True, "changes": []}) == ["nothing to apply: all is as gapless.yaml says"]
