"""Strategies, gates by hand, freezes, trains and bakes on a whole control plane, on pretended parts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gapless.control.rollouts import Order, Terms
from gapless.core.errors import Busy, ConfigError, Frozen, GaplessError, UnknownName
from gapless.core.model import (
    BUCKETS,
    Calendar,
    Freeze,
    Phase,
    Rollout,
    RolloutState,
    Route,
    Service,
    StepRule,
    Strategy,
)
from gapless.testing.world import FakeWorld
from tests.unit.control_kit import ME, POLICY, WEB, Rig

BLUE_GREEN = replace(WEB, rollout=replace(POLICY, strategy=Strategy.BLUE_GREEN, keep_s=30.0))
ORDERS = replace(WEB, name="orders", app="o:app", routes=(Route(path="/o"),), needs=("payment",))
PAYMENT = replace(WEB, name="payment", app="p:app", routes=(Route(path="/p"),))
BOTH = [Order(service="orders", version="1.5", env={"A": "1"}), Order(service="payment", version="2.1", env={"A": "1"})]


def newest(rig: Rig, service: str = "web") -> Rollout:
    found = rig.plane.records.rollout(service)
    assert found
    return found


def share(rig: Rig, release: str, service: str = "web") -> int:
    table = next(t for t in rig.traffic.table.services if t.service == service)
    return dict(table.split.weights).get(release, 0)


async def begun(*services: Service) -> Rig:
    rig = Rig(*services)
    await rig.up()
    await rig.settle()
    return rig


async def deploy(rig: Rig, version: str = "new", terms: Terms | None = None) -> Rollout:
    return await rig.plane.rollouts.deploy("web", None, version, {"A": version}, ME, terms or Terms())


async def test_blue_green_switches_whole_pools_and_returns_at_once_while_the_old_one_is_kept() -> None:
    rig = await begun(BLUE_GREEN)
    before = rig.releases()[0]
    await deploy(rig)
    assert await rig.end_rollout() == "promoted"
    assert rig.releases() == sorted([before, before, "new", "new"])
    weights = {dict(t.services[0].split.weights).get("new", 0) for t in rig.traffic.applied if t.services}
    assert weights == {0, BUCKETS}, "users were moved bit by bit"
    starts = len(rig.fleet.calls)
    await rig.plane.rollouts.rollback("web", ME)
    await rig.pass_time(0.5)
    assert share(rig, before) == BUCKETS, "the way back took more than a look and a table"
    assert await rig.end_rollout() == "promoted"
    assert not [call for call in rig.fleet.calls[starts:] if call[0] == "start"]
    await rig.pass_time(3.0)
    assert rig.releases() == [before, before]
    await rig.down()


async def test_the_kept_pool_goes_when_its_time_is_over_and_survives_scaling_and_a_restart() -> None:
    rig = await begun(BLUE_GREEN)
    await deploy(rig)
    await rig.end_rollout()
    await rig.plane.commands.scale("web", 3, ME)
    await rig.kill()
    await rig.up()
    await rig.pass_time(5.0)
    assert len(rig.live()) == 5
    await rig.pass_time(30.0)
    assert rig.releases() == ["new", "new", "new"]
    told = [c.what for c in rig.plane.records.changes()]
    assert any("2 instances of" in what and "are drained" in what for what in told)
    await rig.down()


async def test_a_release_that_does_harm_after_its_promotion_goes_back_by_itself_once() -> None:
    rig = await begun(replace(WEB, rollout=replace(POLICY, bake_s=60.0)))
    before = rig.releases()[0]
    await deploy(rig)
    assert await rig.end_rollout() == "promoted"
    await rig.pass_time(5.0)
    rig.bad |= {"new", before}  # the way back does not help: it is not taken back again
    await rig.pass_time(20.0)
    undone = newest(rig)
    assert (undone.number, undone.after, undone.undoes, undone.automatic) == (2, before, 1, True)
    assert undone.state is RolloutState.PROMOTED
    assert "does harm after its promotion: error rate" in undone.reason
    assert share(rig, before) == BUCKETS
    change = next(c for c in rig.plane.records.changes() if "it does harm and goes back" in c.what)
    assert change.numbers["canary_errors"] > 0
    await rig.pass_time(20.0)
    assert newest(rig) == undone
    await rig.down()


async def test_trouble_that_both_releases_have_at_the_last_step_ends_no_rollout() -> None:
    rig = await begun(replace(WEB, rollout=replace(POLICY, hold_s=4.0, patience_s=600.0)))
    before = rig.releases()[0]
    await deploy(rig)

    async def until_it_has(weight: int) -> None:
        for _ in range(100):
            if share(rig, "new") == weight:
                return
            await rig.pass_time(0.25)
        raise AssertionError(rig.plane.status())

    await until_it_has(BUCKETS)
    rig.bad |= {"new", before}
    await until_it_has(3_000)
    await rig.kill()
    await rig.up()
    await rig.pass_time(6.0)
    assert (share(rig, "new"), newest(rig).winner) == (3_000, "")
    assert rig.releases().count("new") == 2, "it is to go on, and keeps its instances"
    rig.bad.clear()
    assert await rig.end_rollout() == "promoted"
    assert any("back to 30 % of the users" in change.what for change in rig.plane.records.changes())
    await rig.down()


async def test_a_good_release_outlives_its_bake() -> None:
    rig = await begun(replace(WEB, rollout=replace(POLICY, bake_s=10.0)))
    await deploy(rig)
    await rig.end_rollout()
    await rig.pass_time(12.0)
    assert newest(rig).baked_at
    rig.bad.add("new")
    await rig.pass_time(20.0)
    assert newest(rig).number == 1
    await rig.down()


GATED = replace(WEB, rollout=replace(POLICY, patience_s=20.0, rules=(StepRule(weight=BUCKETS, approve=True),)))


async def test_a_gate_waits_for_an_approval_that_is_recorded() -> None:
    rig = await begun(GATED)
    await deploy(rig)
    await rig.pass_time(24.0)  # more than the patience
    waiting = newest(rig)
    assert waiting.waiting == "approval of 100 % of the users: `gapless rollout web approve`"
    assert share(rig, "new") == 3_000
    await rig.plane.rollouts.steer("web", "approve", ME)
    assert await rig.end_rollout() == "promoted"
    (approval,) = newest(rig).approvals
    assert (approval.step, approval.who, approval.why) == (1, "tester", "a test")
    await rig.down()


async def test_a_release_that_begins_to_fail_at_a_gate_goes_back() -> None:
    rig = await begun(GATED)
    await deploy(rig)
    await rig.pass_time(20.0)
    assert newest(rig).waiting
    rig.bad.add("new")
    assert await rig.end_rollout() == "rolled back"
    await rig.down()


async def test_a_step_that_pauses_goes_on_when_it_is_resumed_or_its_time_is_over() -> None:
    rules = (StepRule(weight=1_000, pause_s=0.0), StepRule(weight=3_000, pause_s=9.0))
    rig = await begun(replace(WEB, rollout=replace(POLICY, steps=(1_000, 3_000, BUCKETS), rules=rules)))
    await deploy(rig)
    await rig.pass_time(20.0)
    assert newest(rig).paused
    assert share(rig, "new") == 1_000
    await rig.plane.rollouts.steer("web", "resume", ME)
    await rig.pass_time(6.0)
    assert share(rig, "new") == 3_000
    assert newest(rig).paused
    assert await rig.end_rollout() == "promoted"
    await rig.down()


async def test_one_step_is_passed_by_hand_without_evidence() -> None:
    rig = await begun(GATED)
    rig.load = 0
    await deploy(rig)
    await rig.pass_time(5.0)
    assert share(rig, "new") == 3_000
    await rig.plane.rollouts.steer("web", "skip", ME)
    await rig.pass_time(2.0)
    assert share(rig, "new") == BUCKETS
    assert newest(rig).state is RolloutState.SHIFTING
    await rig.plane.rollouts.steer("web", "skip", ME)
    assert await rig.end_rollout() == "promoted"
    await rig.down()


def frozen(rig_now: float, begin_s: float, until_s: float) -> tuple[Calendar, ...]:
    freeze = Freeze(from_at=rig_now + begin_s, until_at=rig_now + until_s, reason="year's end")
    return (Calendar(owner="the system", freezes=(freeze,)),)


async def test_in_a_freeze_nothing_begins_but_what_was_told_why() -> None:
    now_at = FakeWorld().time()
    rig = await begun(replace(WEB, calendars=frozen(now_at, 0, 1_000)))
    with pytest.raises(Frozen, match="the system is frozen: year's end; open again") as caught:
        await deploy(rig)
    assert "--override-freeze" in caught.value.remedy
    assert rig.plane.records.rollout("web") is None
    await deploy(rig, terms=Terms(override="a hole that is exploited"))
    assert await rig.end_rollout() == "promoted"
    change = next(c for c in rig.plane.records.changes() if c.what.startswith("deploy web"))
    assert change.what.endswith("against windows and freezes: a hole that is exploited")
    await rig.plane.rollouts.rollback("web", ME)
    assert await rig.end_rollout() == "promoted"
    await rig.down()


async def test_a_freeze_that_begins_holds_a_rollout_but_no_way_back() -> None:
    now_at = FakeWorld().time()
    rig = await begun(replace(WEB, calendars=frozen(now_at, 1, 400)))
    await deploy(rig)
    await rig.pass_time(20.0)
    assert "is frozen" in newest(rig).waiting
    assert share(rig, "new") == 3_000
    with pytest.raises(Frozen):
        await rig.plane.rollouts.steer("web", "promote", ME)
    rig.bad.add("new")
    assert await rig.end_rollout() == "rolled back"
    await rig.down()


async def test_a_scheduled_deploy_begins_at_its_time_and_not_in_a_freeze() -> None:
    now_at = FakeWorld().time()
    rig = await begun(replace(WEB, calendars=frozen(now_at, 10, 60)))
    await deploy(rig, terms=Terms(scheduled=True, begin_at=now_at + 30))
    await rig.pass_time(40.0)
    assert newest(rig).state is RolloutState.SCHEDULED
    assert "is frozen" in newest(rig).waiting
    assert len(rig.live()) == 2
    await rig.plane.commands.scale("web", 3, ME)  # nothing is under way yet
    with pytest.raises(Busy):
        await deploy(rig, "other")
    await rig.kill()
    await rig.up()
    await rig.pass_time(40.0)
    assert newest(rig).instances == 3
    assert await rig.end_rollout() == "promoted"
    assert rig.releases() == ["new"] * 3
    await rig.down()


async def test_a_scheduled_deploy_can_be_called_off() -> None:
    rig = await begun()
    await deploy(rig, terms=Terms(scheduled=True, begin_at=rig.world.time() + 1_000))
    await rig.plane.rollouts.rollback("web", ME)
    assert await rig.end_rollout() == "rolled back"
    assert newest(rig).called_off
    await rig.down()


async def train(rig: Rig, name: str = "checkout-42") -> list[Rollout]:
    return await rig.plane.rollouts.deploy_all(BOTH, ME, Terms(train=name))


async def test_services_of_a_train_are_promoted_together() -> None:
    rig = await begun(ORDERS, PAYMENT)
    await train(rig)
    assert await rig.end_rollout("orders") == "promoted"
    assert await rig.end_rollout("payment") == "promoted"
    salts = {t.split.salt for t in rig.traffic.table.services}
    assert salts == {"train-checkout-42"}
    with pytest.raises(Busy, match="taken"):
        await train(rig)
    await rig.down()


@pytest.mark.parametrize("bad", ["1.5", "2.1"])
async def test_one_bad_release_takes_the_whole_train_back(bad: str) -> None:
    rig = await begun(ORDERS, PAYMENT)
    rig.bad.add(bad)
    await train(rig)
    for second in range(20):
        await rig.pass_time(1.0)
        if second == 3:
            await rig.kill()
            await rig.up()
    assert await rig.end_rollout("orders") == "rolled back"
    assert await rig.end_rollout("payment") == "rolled back"
    assert any("train checkout-42: " in newest(rig, name).reason for name in ("orders", "payment"))
    await rig.down()


async def test_verbs_on_one_of_a_train_are_for_all() -> None:
    rig = await begun(ORDERS, PAYMENT)
    await train(rig)
    await rig.plane.rollouts.steer("payment", "pause", ME)
    assert newest(rig, "orders").paused
    await rig.plane.rollouts.steer("checkout-42", "resume", ME)
    assert not newest(rig, "payment").paused
    await rig.plane.rollouts.rollback("orders", ME)
    assert await rig.end_rollout("payment") == "rolled back"
    await rig.down()


async def test_a_promoted_train_goes_back_together_by_hand_and_by_itself() -> None:
    services = [replace(each, rollout=replace(POLICY, bake_s=60.0)) for each in (ORDERS, PAYMENT)]
    rig = await begun(*services)
    before = {name: rig.releases(name)[0] for name in ("orders", "payment")}
    await train(rig)
    await rig.end_rollout("orders")
    await rig.end_rollout("payment")
    rig.bad.add("2.1")
    await rig.pass_time(30.0)
    for name in ("orders", "payment"):
        undone = newest(rig, name)
        assert (undone.after, undone.automatic, undone.train) == (before[name], True, "checkout-42-undo")
        assert undone.state is RolloutState.PROMOTED
    await rig.down()


async def test_half_a_train_never_exists() -> None:
    rig = await begun(ORDERS, PAYMENT)
    stable = rig.releases("payment")[0]
    wrong = [
        ([BOTH[0], replace(BOTH[1], version=stable)], Terms(train="t"), GaplessError),
        ([BOTH[0], replace(BOTH[1], service="paymnt")], Terms(train="t"), UnknownName),
        ([BOTH[0], BOTH[0]], Terms(train="t"), ConfigError),
        (BOTH, Terms(), ConfigError),
        (BOTH[:1], Terms(train="t"), ConfigError),
        (BOTH, Terms(train="orders"), Busy),
    ]
    for orders, terms, error in wrong:
        with pytest.raises(error):
            await rig.plane.rollouts.deploy_all(orders, ME, terms)
    await rig.plane.rollouts.deploy("payment", None, "2.0", {"A": "0"}, ME)
    with pytest.raises(Busy):
        await train(rig)
    assert rig.plane.records.rollout("orders") is None
    assert rig.plane.records.train("t") is None
    await rig.down()


async def test_a_member_that_leaves_the_system_takes_the_train_back() -> None:
    rig = await begun(ORDERS, PAYMENT)
    await train(rig)
    await rig.pass_time(1.5)
    await rig.kill()
    del rig.services["payment"]
    rig.services["orders"] = replace(ORDERS, needs=())
    await rig.up()
    assert await rig.end_rollout("orders") == "rolled back"
    await rig.down()


async def test_a_dry_run_tells_what_would_happen_and_changes_nothing() -> None:
    rig = await begun(replace(GATED, calendars=frozen(FakeWorld().time(), 0, 3_600)))
    await rig.pass_time(61.0)
    revision = rig.plane.records.revision
    outline = await rig.plane.dry_run.outline([Order(service="web", version="new")], Terms())
    whats = [happening.what for happening in outline.happenings]
    assert [what for what in whats if "%" in what] == ["30 % of the users to new", "100 % of the users to new"]
    assert outline.ends == {"web": "promoted"}
    assert outline.happenings[-1].after_s > 3_500
    assert any("would be refused now: the system is frozen" in warning for warning in outline.warnings)
    assert any("3 instances" in warning or "4 instances" in warning for warning in outline.warnings)
    assert any("approval" in happening.why for happening in outline.happenings)
    assert rig.plane.records.revision == revision
    assert [i.phase for i in rig.live()] == [Phase.READY] * 2
    await rig.down()
