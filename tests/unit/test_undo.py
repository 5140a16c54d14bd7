"""Undo of any change by its number."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from gapless.cli.watch import describe
from gapless.control.commands import Author
from gapless.control.rollouts import Order, Terms
from gapless.control.status import rollout_status
from gapless.core.errors import InvalidTransition, UnknownName
from gapless.core.model import Change, Phase, Route, Undo
from tests.unit.control_kit import ME, WEB, Rig

OOPS = Author(who="eve", why="that was wrong", ticket="T-7")


async def running() -> Rig:
    rig = Rig()
    await rig.up()
    await rig.settle()
    return rig


def newest(rig: Rig, what: str) -> Change:
    return next(change for change in rig.plane.records.changes() if what in change.what)


async def deployed(rig: Rig, version: str, end: str = "promoted") -> Change:
    await rig.plane.rollouts.deploy("web", None, version, {"A": version}, ME)
    assert await rig.end_rollout() == end
    return newest(rig, f"deploy web {version}")


async def test_scale_back_with_its_author_and_once_only() -> None:
    rig = await running()
    await rig.plane.commands.scale("web", 3, ME)
    scaled = newest(rig, "scale web")
    told = {each.where: (each.before, each.after) for each in scaled.diff}
    assert told["services/web instances"] == ("2", "3")
    undone = await rig.plane.undoing.undo(scaled.number, OOPS)
    assert (undone.change.who, undone.change.why, undone.change.ticket) == ("eve", "that was wrong", "T-7")
    assert undone.change.undoes == scaled.number
    await rig.pass_time(3.0)
    assert len([i for i in rig.live() if i.phase is Phase.READY]) == 2
    again = await rig.plane.undoing.undo(scaled.number, OOPS)
    assert (again.already, again.change.number) == (True, undone.change.number)
    await rig.down()


async def test_the_undoing_of_an_undoing_brings_it_back() -> None:
    rig = await running()
    await rig.plane.commands.scale("web", 3, ME)
    scaled = newest(rig, "scale web")
    undone = await rig.plane.undoing.undo(scaled.number, OOPS)
    await rig.plane.undoing.undo(undone.change.number, OOPS)
    assert rig.plane.records.service("web").instances == 3  # type: ignore[union-attr]
    assert not (await rig.plane.undoing.undo(scaled.number, OOPS)).already
    assert rig.plane.records.service("web").instances == 2  # type: ignore[union-attr]
    await rig.down()


async def test_what_rests_on_it_is_named() -> None:
    rig = await running()
    await rig.plane.commands.scale("web", 3, ME)
    first = newest(rig, "scale web")
    await rig.plane.commands.scale("web", 4, ME)
    second = newest(rig, "scale web")
    with pytest.raises(InvalidTransition, match=rf"change {second.number} \(scale web from 3 to 4 instances\)") as told:
        await rig.plane.undoing.undo(first.number, OOPS)
    assert f"gapless undo {second.number}" in told.value.remedy
    await rig.plane.undoing.undo(second.number, OOPS)
    await rig.plane.undoing.undo(first.number, OOPS)
    assert rig.plane.records.service("web").instances == 2  # type: ignore[union-attr]
    await rig.down()


async def test_a_definition_goes_back_and_what_else_was_changed_stays() -> None:
    rig = await running()
    await rig.plane._applying.apply({"web": replace(WEB, timeout_s=3.0)}, ME)
    defined = newest(rig, "definition of web changed")
    await rig.plane.commands.scale("web", 3, ME)
    await rig.plane.undoing.undo(defined.number, OOPS)
    service = rig.plane.records.service("web")
    assert service
    assert (service.timeout_s, service.instances) == (WEB.timeout_s, 3)
    await rig.down()


async def test_a_promoted_release_goes_back_by_a_rollout() -> None:
    rig = await running()
    stable = rig.plane.records.split("web").stable  # type: ignore[union-attr]
    change = await deployed(rig, "new")
    assert change.rollout == 1
    undone = await rig.plane.undoing.undo(change.number, OOPS)
    assert undone.rollout
    assert undone.rollout.after == stable
    assert await rig.end_rollout() == "promoted"
    assert rig.plane.records.split("web").stable == stable  # type: ignore[union-attr]
    await rig.down()


async def test_a_rollout_under_way_is_ended() -> None:
    rig = await running()
    await rig.plane.rollouts.deploy("web", None, "new", {"A": "1"}, ME)
    await rig.pass_time(1.0)
    undone = await rig.plane.undoing.undo(newest(rig, "deploy web").number, OOPS)
    assert undone.change.what.startswith("abort rollout 1 of web")
    assert await rig.end_rollout() == "rolled back"
    await rig.down()


@pytest.mark.parametrize("verb", ["undo", "abort"])
async def test_a_rollout_whose_time_has_not_come_is_called_off(verb: str) -> None:
    rig = await running()
    terms = Terms(scheduled=True, begin_at=rig.world.time() + 30)
    await rig.plane.rollouts.deploy("web", None, "new", {"A": "1"}, ME, terms)
    await rig.pass_time(1.0)
    scheduled = newest(rig, "deploy web")
    if verb == "undo":
        undone = await rig.plane.undoing.undo(scheduled.number, OOPS)
        assert undone.change.undoes == scheduled.number
        with pytest.raises(InvalidTransition, match="cannot be undone by itself") as told:
            await rig.plane.undoing.undo(undone.change.number, OOPS)
        assert "gapless deploy web" in told.value.remedy
    else:
        await rig.plane.rollouts.steer("web", verb, OOPS)
    assert newest(rig, "call off rollout 1 of web").who == "eve"
    await rig.pass_time(35.0)
    rollout = rig.plane.records.rollout("web")
    assert rollout
    said = describe(rollout_status(rollout))
    assert said.endswith("→ new: called off before it began: that was wrong"), said
    assert newest(rig, "rollout 1 of web: called off before it began").why == "that was wrong"
    assert [call for call, _ in rig.fleet.calls].count("start") == 2, "nothing of it was ever started"
    await rig.down()


async def test_what_was_rolled_back_has_nothing_to_undo() -> None:
    rig = await running()
    rig.bad.add("worse")
    change = await deployed(rig, "worse", "rolled back")
    with pytest.raises(InvalidTransition, match="rollout 1 of web was rolled back"):
        await rig.plane.undoing.undo(change.number, OOPS)
    await rig.down()


async def test_a_later_release_rests_on_an_earlier_one_unless_it_came_to_nothing() -> None:
    rig = await running()
    first = await deployed(rig, "one")
    rig.bad.add("worse")
    await deployed(rig, "worse", "rolled back")
    second = await deployed(rig, "two")
    with pytest.raises(InvalidTransition, match=f"change {second.number} \\(deploy web two\\) came after it"):
        await rig.plane.undoing.undo(first.number, OOPS)
    await rig.down()


async def test_configuration_goes_back_to_the_revision_before() -> None:
    rig = await running()
    config = rig.plane.config
    await config.set("web", {"price": 3}, [], ME, unchecked=True)
    first = newest(rig, "configuration of web, revision 1")
    await config.set("web", {"price": 5}, [], ME, unchecked=True)
    second = newest(rig, "configuration of web, revision 2")
    with pytest.raises(InvalidTransition, match=f"change {second.number} "):
        await rig.plane.undoing.undo(first.number, OOPS)
    asked = asyncio.ensure_future(rig.plane.undoing.undo(second.number, OOPS))
    while not asked.done():
        await rig.pass_time(0.25)
    assert (await asked).change.what.startswith("configuration of web, revision 3")
    current = rig.plane.records.config_revision("web", rig.plane.records.config("web").current)
    assert current
    assert current.values == {"price": 3}
    await rig.down()


async def test_a_train_goes_back_as_a_whole_and_only_once() -> None:
    rig = Rig(WEB, replace(WEB, name="api", app="api:app", routes=(Route(path="/api"),)))
    await rig.up()
    await rig.settle()
    orders = [Order(service=name, version="new", source=Path(f"{name}-2"), env={"A": "1"}) for name in ("web", "api")]
    await rig.plane.rollouts.deploy_all(orders, ME, Terms(train="both"))
    for name in ("web", "api"):
        assert await rig.end_rollout(name) == "promoted"
    changes = {name: newest(rig, f"deploy {name} new") for name in ("web", "api")}
    assert {name: change.rollout for name, change in changes.items()} == {"web": 1, "api": 1}
    await rig.plane.undoing.undo(changes["web"].number, OOPS)
    for name in ("web", "api"):
        assert await rig.end_rollout(name) == "promoted"
        assert rig.plane.records.split(name).stable != "new"  # type: ignore[union-attr]
    with pytest.raises(InvalidTransition, match="has no effect any more: the release of api is"):
        await rig.plane.undoing.undo(changes["api"].number, OOPS)
    await rig.down()


async def test_a_pause_is_undone_by_going_on() -> None:
    rig = await running()
    await rig.plane.rollouts.deploy("web", None, "new", {"A": "1"}, ME)
    await rig.pass_time(1.0)
    await rig.plane.rollouts.steer("web", "pause", ME)
    paused = newest(rig, "pause rollout")
    await rig.plane.undoing.undo(paused.number, OOPS)
    assert await rig.end_rollout() == "promoted"
    await rig.down()


async def test_a_step_of_a_rollout_is_part_of_it() -> None:
    rig = await running()
    change = await deployed(rig, "new")
    step = newest(rig, "of the users to new")
    assert step.rollout == change.rollout
    with pytest.raises(InvalidTransition) as told:
        await rig.plane.undoing.undo(step.number, OOPS)
    assert f"gapless undo {change.number}" in told.value.remedy
    await rig.down()


async def test_what_has_no_opposite_and_what_never_was() -> None:
    rig = await running()
    entered = newest(rig, "enters with release")
    with pytest.raises(InvalidTransition, match="cannot be undone by itself"):
        await rig.plane.undoing.undo(entered.number, OOPS)
    with pytest.raises(UnknownName, match="there is no change 999"):
        await rig.plane.undoing.undo(999, OOPS)
    await rig.down()


async def test_while_another_change_is_under_way_it_waits() -> None:
    rig = await running()
    await rig.plane.commands.scale("web", 3, ME)
    scaled = newest(rig, "scale web")
    await rig.plane.rollouts.deploy("web", None, "new", {"A": "1"}, ME)
    with pytest.raises(Exception, match="is under way"):
        await rig.plane.undoing.undo(scaled.number, OOPS)
    await rig.down()


async def test_records_that_say_what_is_wanted_are_put_back() -> None:
    rig = await running()
    records = rig.plane.records
    split = records.split("web")
    assert split
    salted = replace(split, salt="by hand")
    change = Change(number=records.next_change(), at=1.0, who="me", what="salt web", service="web")
    await records.write(change, salted)
    assert records.change(change.number).undo.act == "records"  # type: ignore[union-attr]
    await rig.plane.undoing.undo(change.number, OOPS)
    assert records.split("web") == split
    other = Change(number=records.next_change(), at=1.0, who="me", what="salt web", service="web")
    await records.write(other, salted)
    await records.write(replace(split, salt="and again"))
    with pytest.raises(InvalidTransition, match="has been changed since"):
        await rig.plane.undoing.undo(other.number, OOPS)
    await rig.down()


async def test_secrets_are_masked_in_what_changed() -> None:
    rig = await running()
    env = {"DB": "postgres://app:hunter2@db/x", "API_TOKEN": "t0ps3cret", "MODE": "fast"}
    await rig.plane._applying.apply({"web": replace(WEB, env=env)}, ME)
    told = " ".join(f"{each.where} {each.after}" for each in newest(rig, "definition of web").diff)
    assert "hunter2" not in told
    assert "t0ps3cret" not in told
    assert "services/web env.MODE fast" in told
    await rig.down()


def test_older_entries_of_the_change_log_still_load() -> None:
    from gapless.core import codec

    old = b'{"number":1,"at":1.0,"who":"me","what":"scale","service":"web"}'
    assert codec.decode(old, Change) == Change(number=1, at=1.0, who="me", what="scale", service="web")
    assert Undo(act="steer") == codec.decode(codec.encode(Undo(act="steer")), Undo)
