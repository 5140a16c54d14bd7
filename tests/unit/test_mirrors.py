"""The loop that has requests mirrored, on a pretended comparer."""

from __future__ import annotations

from dataclasses import replace

from gapless.control.gates.scene import Scene
from gapless.core.errors import GaplessError
from gapless.core.model import Address, GateState, MirrorRule
from gapless.core.model.mirror import MirrorPlan, MirrorTally
from tests.unit.control_kit import ME, POLICY, WEB, Rig
from tests.unit.test_mirror import seen

RULE = MirrorRule(share=500, samples=50, for_s=2.0, max_difference=0.01, patience_s=60.0)


class FakeComparer:
    def __init__(self, plan: MirrorPlan) -> None:
        self.plans = [plan]
        self.address: Address | None = Address(host="127.0.0.1", port=4000)
        self.tally = MirrorTally()
        self.stopped = False

    def follow(self, plan: MirrorPlan) -> None:
        self.plans.append(plan)

    async def stop(self) -> None:
        self.stopped, self.address = True, None


class Comparers:
    """Makes them; `broken`: none can be started."""

    def __init__(self) -> None:
        self.made: list[FakeComparer] = []
        self.broken = False

    async def __call__(self, plan: MirrorPlan, scene: Scene) -> FakeComparer:
        if self.broken:
            raise GaplessError("no room for a process")
        self.made.append(FakeComparer(plan))
        return self.made[-1]


async def begin(rule: MirrorRule = RULE) -> tuple[Rig, Comparers]:
    """A rollout whose requests are mirrored."""
    rig, comparers = Rig(replace(WEB, rollout=replace(POLICY, mirror=rule))), Comparers()
    rig.start_comparer = comparers
    await rig.up()
    await rig.settle()
    await rig.plane.rollouts.deploy("web", None, "2", {"V": "2"}, ME)
    for _ in range(200):
        if mirror_of(rig):
            return rig, comparers
        await rig.pass_time(0.25)
    raise AssertionError("never mirrored")


def mirror_of(rig: Rig) -> object:
    return rig.traffic.table.services[0].mirror


def result(rig: Rig) -> tuple[GateState, str]:
    (found,) = rig.plane.records.gate_results("web", 1)
    return found.state, found.reason


async def test_equal_answers_let_users_come_and_the_mirror_ends() -> None:
    rig, comparers = await begin()
    (comparer,) = comparers.made
    assert len(comparer.plans[0].new) == 1
    assert len(comparer.plans[0].stable) == 2
    await rig.pass_time(5)
    assert result(rig)[0] is GateState.RUNNING
    comparer.tally = seen(60)
    assert await rig.end_rollout() == "promoted"
    assert result(rig) == (GateState.PASSED, "60 of 60 answers are equal; p99 11 ms against 11 ms")
    assert mirror_of(rig) is None
    assert comparer.stopped
    change = next(c for c in rig.plane.records.changes() if c.what == "rollout 1 of web: gate mirror passes 2")
    assert change.numbers["compared"] == 60
    await rig.down()


async def test_differing_answers_refuse_the_release_before_a_user_has_met_it() -> None:
    rig, comparers = await begin()
    comparers.made[0].tally = replace(seen(60, 20), examples=("GET /orders: $.total: number → string",))
    assert await rig.end_rollout() == "rolled back"
    rollout = rig.plane.records.rollout("web")
    assert rollout
    assert rollout.refused
    assert rollout.reason.startswith("gate mirror refuses: 20 of 60 answers differ (surely above")
    assert rollout.log == "GET /orders: $.total: number → string"
    await rig.pass_time(2)
    assert mirror_of(rig) is None
    await rig.down()


async def test_without_requests_nothing_is_promoted() -> None:
    rig, _ = await begin()
    assert await rig.end_rollout() == "rolled back"
    assert "no sufficient evidence within 60 s: 0 of 50 answers compared" in result(rig)[1]
    await rig.down()


async def test_a_comparer_that_ends_is_started_anew_and_one_that_keeps_ending_refuses() -> None:
    rig, comparers = await begin()
    for _ in range(2):
        await comparers.made[-1].stop()
        await rig.pass_time(2)
        assert mirror_of(rig)
    assert len(comparers.made) == 3
    comparers.broken = True
    await comparers.made[-1].stop()
    assert await rig.end_rollout() == "rolled back"
    assert "the comparer ended " in result(rig)[1]
    await rig.down()


async def test_a_killed_control_plane_mirrors_again_from_the_beginning() -> None:
    rig, comparers = await begin()
    comparers.made[0].tally = seen(40)
    await rig.pass_time(3)
    await rig.kill()
    await rig.up()
    await rig.pass_time(3)
    assert len(comparers.made) == 2
    assert "0 of 50 answers compared" in result(rig)[1]
    comparers.made[1].tally = seen(50)
    assert await rig.end_rollout() == "promoted"
    await rig.down()


async def test_while_users_move_it_goes_on_if_asked_to_and_rolls_back() -> None:
    rig, comparers = await begin(replace(RULE, while_shifting=True))
    (comparer,) = comparers.made
    comparer.tally = seen(50)
    for _ in range(40):
        await rig.pass_time(0.25)
        rollout = rig.plane.records.rollout("web")
        if rollout and rollout.shifted_at:
            break
    assert mirror_of(rig)
    comparer.tally = seen(90, 30)
    assert await rig.end_rollout() == "rolled back"
    assert "30 of 90 answers differ" in result(rig)[1]
    await rig.down()
