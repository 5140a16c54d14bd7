"""The control plane on pretended parts: what is wanted comes about, in an order in which nobody is asked in vain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gapless.control.commands import RELEASES_KEPT
from gapless.core.errors import Busy, InvalidTransition, ReleaseError, UnknownName
from gapless.core.events import ChangeRecorded, GatewayRefused
from gapless.core.model import Phase, Service, Window
from gapless.core.ports import Running
from gapless.testing.fleet import Script
from tests.unit.control_kit import ME, POLICY, WEB, Rig, wanting


async def test_a_system_comes_up_and_goes_down() -> None:
    rig = Rig()
    await rig.up()
    await rig.settle()
    assert rig.traffic.ask("/").status == 200
    assert len(rig.live()) == 2
    await rig.down()
    assert await rig.fleet.list() == ()
    assert rig.traffic.pid == 0


async def test_a_service_waits_for_what_it_needs() -> None:
    rig = Rig(replace(WEB, needs=("db",)), Service(name="db", app="db:app", source="db", instances=1))
    rig.fleet.scripts["r-"] = Script()
    await rig.up()
    await rig.settle()
    started = [name.partition("-")[0] for verb, name in rig.fleet.calls if verb == "start"]
    assert started == ["db", "web", "web"]
    await rig.down()


async def test_a_service_that_needs_what_is_broken_is_started_in_the_end() -> None:
    rig = Rig(replace(WEB, needs=("db",)), Service(name="db", app="db:app", source="db", instances=1))
    await rig.up()
    db = rig.plane.records.split("db")
    assert db
    rig.fleet.scripts[db.stable] = Script(ready=False)
    await rig.pass_time(20.0)
    assert rig.live("web") == []
    await rig.pass_time(20.0)
    assert [i.phase for i in rig.live("web")] == [Phase.READY, Phase.READY]
    await rig.down()


async def test_an_instance_is_stopped_only_after_every_table_has_left_it_out() -> None:
    rig = Rig(wanting(3))
    plane = await rig.up()
    await rig.settle()
    routed: list[tuple[str, set[str]]] = []
    stop = rig.fleet.stop

    async def watched(instance, drain_s):  # type: ignore[no-untyped-def]
        table = rig.traffic.table.services[0]
        routed.append((instance.id, {e.instance for e in table.endpoints}))
        await stop(instance, drain_s)

    rig.fleet.stop = watched  # type: ignore[method-assign]
    await plane.commands.scale("web", 1, ME)
    await rig.pass_time(3.0)
    assert len(routed) == 2
    assert all(name not in table for name, table in routed)
    assert len(rig.live()) == 1
    await rig.down()


async def test_a_crashed_instance_is_replaced_and_its_words_are_kept() -> None:
    rig = Rig()
    await rig.up()
    await rig.settle()
    victim = rig.live()[0]
    rig.fleet.crash(victim.id, "killed by SIGKILL", "error: out of luck")
    await rig.pass_time(1.0)
    assert victim.id not in {e.instance for e in rig.traffic.table.services[0].endpoints}
    await rig.settle()
    ended = next(i for i in rig.plane.records.instances("web") if i.id == victim.id)
    assert ended.failed
    assert ended.detail.splitlines()[0] == "killed by SIGKILL: out of luck"
    await rig.down()


async def test_a_list_that_is_old_when_it_arrives_ends_nobody() -> None:
    rig = Rig()
    listed = rig.fleet.list

    async def slow():  # type: ignore[no-untyped-def]
        found = await listed()
        await rig.world.sleep(0.7)
        return found

    rig.fleet.list = slow  # type: ignore[method-assign]
    await rig.up()
    await rig.pass_time(10.0)
    assert [i.phase for i in rig.plane.records.instances("web")] == [Phase.READY, Phase.READY]
    rig.fleet.list = listed  # type: ignore[method-assign]
    await rig.down()


async def test_a_refused_table_is_told_and_offered_again() -> None:
    rig = Rig()
    plane = await rig.up()
    await rig.settle()
    before = rig.traffic.table
    rig.traffic.refuse = "the regex is bad"
    await plane.commands.scale("web", 3, ME)
    await rig.pass_time(3.0)
    assert "the regex is bad" in plane.status()["gateway"]["refusal"]
    assert any(isinstance(event, GatewayRefused) for event in rig.events)
    assert rig.traffic.table == before
    rig.traffic.refuse = ""
    await rig.pass_time(7.0)
    assert plane.status()["gateway"]["refusal"] == ""
    assert len(rig.traffic.table.services[0].endpoints) == 3
    await rig.down()


async def test_a_good_release_is_promoted_and_a_bad_one_is_not() -> None:
    rig = Rig()
    plane = await rig.up()
    await rig.settle()
    await plane.rollouts.deploy("web", None, "good", {"A": "1"}, ME)
    assert await rig.end_rollout() == "promoted"
    rig.bad.add("bad")
    await plane.rollouts.deploy("web", None, "bad", {"A": "2"}, ME)
    assert await rig.end_rollout() == "rolled back"
    assert rig.releases() == ["good", "good"]
    assert rig.traffic.table.services[0].split.stable == "good"
    decision = next(
        e.change for e in reversed(rig.events) if isinstance(e, ChangeRecorded) and "back to" in e.change.what
    )
    assert decision.numbers["canary_errors"] > 0
    await rig.down()


@pytest.mark.parametrize(("bad", "end"), [(False, "promoted"), (True, "rolled back")])
async def test_a_service_without_routes_is_judged_by_its_instances_count(bad: bool, end: str) -> None:
    rig = Rig(replace(WEB, routes=()))
    plane = await rig.up()
    await rig.settle()
    await plane.rollouts.deploy("web", None, "new", {"A": "1"}, ME)
    for second in range(60):
        rollout = plane.records.rollout("web")
        if rollout and rollout.state.ended:
            break
        for instance in rig.live():
            errors = 5 * second if bad and instance.release == "new" else 0
            rig.fleet.answered[instance.id] = Window(requests=20 * second, errors=errors)
        await rig.pass_time(1.0)
    assert await rig.end_rollout() == end
    ended = plane.records.rollout("web")
    assert ended
    assert ended.evidence.stable_requests > 0
    await rig.down()


@pytest.mark.parametrize(
    ("script", "why"),
    [
        (Script(crash="exited with status 4", log="error: no such module"), "no such module"),
        (Script(ready=False), "still warming up"),
        (Script(refuse_start="no such program"), "no such program"),
    ],
)
async def test_a_release_that_cannot_start_is_refused(script: Script, why: str) -> None:
    rig = Rig()
    rig.fleet.scripts["new"] = script
    plane = await rig.up()
    await rig.settle()
    before = rig.releases()
    await plane.rollouts.deploy("web", None, "new", {"A": "1"}, ME)
    assert await rig.end_rollout() == "rolled back"
    rollout = plane.records.rollout("web")
    assert rollout
    assert rollout.refused
    assert why in rollout.reason
    assert all("new" not in dict(t.services[0].split.weights) for t in rig.traffic.applied if t.services)
    await rig.pass_time(2.0)
    assert rig.releases() == before
    await rig.down()


async def test_capacity_set_by_scale_survives_a_restart_until_the_file_changes_it() -> None:
    rig = Rig()
    plane = await rig.up()
    await rig.settle()
    await plane.commands.scale("web", 3, ME)
    await rig.kill()
    await rig.up()
    await rig.settle()
    assert len(rig.live()) == 3
    await rig.kill()
    rig.services["web"] = wanting(1)
    await rig.up()
    await rig.pass_time(3.0)
    assert len(rig.live()) == 1
    await rig.down()


async def test_what_died_while_nobody_watched_is_not_called_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig()
    await rig.up()
    await rig.settle()
    await rig.kill()
    for instance in rig.live():
        rig.fleet.crash(instance.id)
    look = rig.fleet.list

    async def look_slowly() -> Sequence[Running]:
        await rig.world.sleep(1.0)
        return await look()

    monkeypatch.setattr(rig.fleet, "list", look_slowly)
    plane = await rig.up()
    for _ in range(30):
        await rig.world.advance(0.05)
        assert not plane.ready or all(one.alive for one in await look())
    monkeypatch.undo()
    await rig.settle()
    await rig.down()


async def test_a_service_that_left_the_file_is_drained_and_forgotten() -> None:
    rig = Rig(WEB, Service(name="old", app="old:app", source="old", instances=1))
    plane = await rig.up()
    await rig.settle()
    await plane.rollouts.deploy("old", None, "new", {"A": "1"}, ME)
    await rig.pass_time(1.0)
    await rig.kill()
    del rig.services["old"]
    await rig.up()
    await rig.pass_time(3.0)
    assert rig.live("old") == []
    cut_short = rig.plane.records.rollout("old")
    assert cut_short
    assert cut_short.state.ended
    await rig.kill()
    await rig.up()
    assert [s.name for s in rig.plane.records.services()] == ["web"]
    await rig.down()


async def test_what_cannot_be_done_changes_nothing() -> None:
    rig = Rig()
    plane = await rig.up()
    await rig.settle()
    stable = rig.releases()[0]
    with pytest.raises(UnknownName, match="there is no service 'wbe'"):
        await plane.rollouts.deploy("wbe", None, "x", {}, ME)
    with pytest.raises(ReleaseError, match="already the stable release"):
        await plane.rollouts.deploy("web", None, stable, {}, ME)
    with pytest.raises(ReleaseError, match="already has a release"):
        await plane.rollouts.deploy("web", rig.plane.system.path, stable, {}, ME)
    with pytest.raises(UnknownName, match="no release before"):
        await plane.rollouts.rollback("web", ME)
    with pytest.raises(UnknownName, match="no rollout"):
        await plane.rollouts.steer("web", "pause", ME)
    with pytest.raises(InvalidTransition):
        await plane.commands.scale("web", 0, ME)
    assert len(plane.records.changes()) == 1
    await plane.rollouts.deploy("web", None, "new", {"A": "1"}, ME)
    with pytest.raises(Busy, match="rollout 1 of web"):
        await plane.rollouts.deploy("web", None, "newer", {"A": "2"}, ME)
    with pytest.raises(Busy):
        await plane.commands.scale("web", 5, ME)
    await plane.rollouts.rollback("web", ME)
    assert await rig.end_rollout() == "rolled back"
    await rig.down()


async def test_going_back_to_the_release_before() -> None:
    rig = Rig()
    plane = await rig.up()
    await rig.settle()
    first = rig.releases()[0]
    await plane.rollouts.deploy("web", None, "new", {"A": "1"}, ME)
    await rig.end_rollout()
    await plane.rollouts.rollback("web", ME)
    assert await rig.end_rollout() == "promoted"
    assert rig.releases() == [first, first]
    await rig.down()


async def test_snapshots_that_nobody_goes_back_to_are_removed() -> None:
    rig = Rig(replace(WEB, rollout=replace(POLICY, hold_s=0.0, min_samples=0)))
    plane = await rig.up()
    await rig.settle()
    for number in range(7):
        await plane.rollouts.deploy("web", rig.plane.system.path.parent / f"v{number}", f"v{number}", {}, ME)
        await rig.end_rollout()
    await rig.pass_time(1.0)
    await plane.commands.tidy()
    kept = {release.digest for release in plane.records.releases("web")} & rig.fleet.snapshots
    assert len(kept) == RELEASES_KEPT + 1
    await rig.down()


async def test_hot_restart_asks_every_ready_instance() -> None:
    rig = Rig()
    plane = await rig.up()
    await rig.settle()
    told = await plane.commands.reload("web", ME)
    assert len(told) == 2
    assert "hot restart" in plane.records.changes()[0].what
    await rig.down()


@given(st.lists(st.floats(0.1, 6.0), min_size=1, max_size=4), st.booleans())
@settings(max_examples=12, deadline=None)
async def test_killed_at_any_moment_it_ends_the_same(pauses: list[float], bad: bool) -> None:
    rig = Rig()
    if bad:
        rig.bad.add("new")
    plane = await rig.up()
    await rig.settle()
    stable = rig.releases()[0]
    await plane.rollouts.deploy("web", None, "new", {"A": "1"}, ME)
    for pause in pauses:
        await rig.pass_time(pause)
        await rig.kill()
        await rig.pass_time(1.0)
        await rig.up()
    assert await rig.end_rollout() == ("rolled back" if bad else "promoted")
    await rig.settle()
    winner = stable if bad else "new"
    assert rig.releases() == [winner, winner]
    assert {r.id for r in await rig.fleet.list() if r.alive} == {i.id for i in rig.live()}
    await rig.down()
