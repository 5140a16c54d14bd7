"""What gates decide, and the loop that has them run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless.control.gates.scene import Scene
from gapless.control.rollouts import Order, Terms
from gapless.core.model import (
    Gate,
    GateKind,
    GateResult,
    GateState,
    MirrorRule,
    Release,
    RolloutPolicy,
    Route,
    Strategy,
)
from gapless.core.model.gates import MIRROR_GATE, CommandGate, CoverageGate, SuiteGate
from gapless.rollout.gates import (
    cached_pass,
    definition_of,
    described,
    digest_of,
    gating,
    mirror_due,
    names,
    to_run,
    ungated,
)
from gapless.rollout.reports.outcome import GateOutcome, passes, refuses
from gapless.testing.world import FakeWorld
from tests.unit.control_kit import ME, POLICY, WEB, Rig

GATES = (
    Gate(name="unit", tests=SuiteGate(argv=("pytest",))),
    Gate(name="scan", coverage=CoverageGate(file="c.xml")),
    Gate(name="own", command=CommandGate(argv=("./check",))),
)
RULE = MirrorRule()


def result(name: str, state: GateState, **more: object) -> GateResult:
    base = GateResult(service="web", rollout=1, name=name, kind=GateKind.TESTS, release="2", digest="d", definition="x")
    return replace(base, state=state, **more)  # type: ignore[arg-type]


STATES = st.one_of(st.none(), st.sampled_from(GateState))


@given(states=st.tuples(STATES, STATES, STATES, STATES), mirrored=st.booleans(), adopted=st.booleans())
def test_users_come_only_when_every_gate_has_passed_and_one_refusal_is_the_end(
    states: tuple[GateState | None, ...], mirrored: bool, adopted: bool
) -> None:
    policy = RolloutPolicy(gates=GATES, mirror=RULE if mirrored else None)
    results = [
        result(name, state) for name, state in zip(("unit", "scan", "own", MIRROR_GATE), states, strict=True) if state
    ]
    found = gating(policy, results)
    counting = states if mirrored else states[:3]
    assert found.open == all(state is GateState.PASSED for state in counting)
    assert bool(found.refusal) == (GateState.REFUSED in counting)
    mine = {r.name for r in results if r.state is GateState.RUNNING} if not adopted else set()
    started = to_run(policy, results, mine)
    if GateState.REFUSED in states:
        assert started == ()
    else:
        begun = {r.name for r in results if r.state is GateState.PASSED} | mine
        assert {gate.name for gate in started} == {"unit", "scan", "own"} - begun
    due = mirror_due(policy, results, shifting=False)
    assert due == (
        mirrored and all(s is GateState.PASSED for s in states[:3]) and states[3] in (None, GateState.RUNNING)
    )


def test_the_mirror_goes_on_while_users_move_only_when_asked_for() -> None:
    passed = [result(MIRROR_GATE, GateState.PASSED)]
    assert not mirror_due(RolloutPolicy(mirror=RULE), passed, shifting=True)
    assert mirror_due(RolloutPolicy(mirror=replace(RULE, while_shifting=True)), passed, shifting=True)


def test_a_refusal_is_told_with_its_output() -> None:
    refused = [result("unit", GateState.REFUSED, reason="1 of 2 tests failed", output="E  assert 1 == 2")]
    found = gating(RolloutPolicy(gates=GATES), refused)
    assert found.refusal == "gate unit refuses: 1 of 2 tests failed"
    assert found.log == "E  assert 1 == 2"


def test_a_pass_is_taken_over_for_the_same_content_settings_and_gate_only() -> None:
    release = Release(service="web", version="2", digest="abc", source="", env={"A": "1"})
    gate = GATES[0]
    earlier = result("unit", GateState.PASSED, digest=digest_of(release), definition=definition_of(gate))
    assert cached_pass(gate, digest_of(release), [earlier]) == earlier
    assert cached_pass(gate, digest_of(replace(release, env={"A": "2"})), [earlier]) is None
    assert (
        cached_pass(replace(gate, tests=SuiteGate(argv=("pytest", "-k", "x"))), digest_of(release), [earlier]) is None
    )
    assert cached_pass(gate, digest_of(release), [replace(earlier, state=GateState.REFUSED)]) is None
    assert cached_pass(GATES[1], digest_of(release), [replace(earlier, name="scan")]) is None


def test_a_way_back_has_no_gates() -> None:
    assert names(ungated(RolloutPolicy(gates=GATES, mirror=RULE))) == ()


def test_a_dry_run_names_every_gate_and_warns_of_doubled_effects() -> None:
    told = described(RolloutPolicy(gates=GATES, mirror=replace(RULE, methods=("GET", "POST"))))
    assert [line.split(":")[0] for line in told] == [
        "gate unit (tests)",
        "gate scan (coverage)",
        "gate own (command)",
        "mirror",
    ]
    assert "POST have their effects twice" in told[-1]


class Scripted:
    """Runs gates as a test says: an outcome, or for ever."""

    def __init__(self, world: FakeWorld) -> None:
        self.world = world
        self.outcomes: dict[str, GateOutcome] = {}
        self.ran: list[str] = []
        self.scenes: list[Scene] = []
        self.ended: list[str] = []

    async def __call__(self, gate: Gate, scene: Scene) -> GateOutcome:
        self.ran.append(gate.name)
        self.scenes.append(scene)
        try:
            while gate.name not in self.outcomes:
                await self.world.sleep(0.1)
            return self.outcomes[gate.name]
        finally:
            self.ended.append(gate.name)


def gated() -> Rig:
    rig = Rig(replace(WEB, rollout=replace(POLICY, gates=GATES)))
    rig.run_gate = Scripted(rig.world)
    return rig


async def begin(rig: Rig) -> Scripted:
    """A rollout that waits for its gates."""
    run = rig.run_gate
    assert isinstance(run, Scripted)
    await rig.up()
    await rig.settle()
    await rig.plane.rollouts.deploy("web", None, "2", {"V": "2"}, ME)
    while len(run.ran) < 3:
        await rig.pass_time(0.5)
    return run


def state_of(rig: Rig) -> str:
    rollout = rig.plane.records.rollout("web")
    assert rollout
    return str(rollout.state)


async def test_gates_run_together_when_instances_are_ready_and_then_users_come() -> None:
    rig = gated()
    run = await begin(rig)
    assert sorted(run.ran) == ["own", "scan", "unit"]
    assert all(scene.address and scene.stable and scene.release == "2" for scene in run.scenes)
    await rig.pass_time(20)
    assert state_of(rig) == "starting"
    run.outcomes = {gate.name: passes("fine") for gate in GATES}
    assert await rig.end_rollout() == "promoted"
    assert {c.what for c in rig.plane.records.changes()} >= {f"rollout 1 of web: gate {g.name} passes 2" for g in GATES}
    assert run.ran.count("unit") == 1
    await rig.down()


async def test_one_refusal_ends_the_rollout_before_a_user_has_met_it_and_ends_the_other_gates() -> None:
    rig = gated()
    run = await begin(rig)
    run.outcomes = {"own": refuses("`./check` exited with status 3", "no column price")}
    assert await rig.end_rollout() == "rolled back"
    rollout = rig.plane.records.rollout("web")
    assert rollout
    assert rollout.refused
    assert rollout.reason == "gate own refuses: `./check` exited with status 3"
    assert rollout.log == "no column price"
    await rig.pass_time(2)
    assert sorted(run.ended) == ["own", "scan", "unit"]
    await rig.down()


async def test_a_gate_whose_control_plane_is_killed_is_run_again_by_the_next_one_and_never_half_counted() -> None:
    rig = gated()
    run = await begin(rig)
    run.outcomes = {"unit": passes("3 tests passed")}
    while not [r for r in rig.plane.records.gate_results("web", 1) if r.state is GateState.PASSED]:
        await rig.pass_time(0.5)
    await rig.kill()
    again = rig.run_gate = Scripted(rig.world)
    await rig.up()
    await rig.pass_time(3)
    assert sorted(again.ran) == ["own", "scan"]
    again.outcomes = {gate.name: passes("fine") for gate in GATES}
    assert await rig.end_rollout() == "promoted"
    await rig.down()


async def test_a_release_that_passed_its_tests_need_not_pass_them_again() -> None:
    rig = gated()
    run = await begin(rig)
    run.outcomes = {"unit": passes("3 tests passed"), "own": refuses("no")}
    await rig.end_rollout()
    run.outcomes = {gate.name: passes("fine") for gate in GATES}
    await rig.plane.rollouts.deploy("web", None, "2", {"V": "2"}, ME)
    assert await rig.end_rollout() == "promoted"
    assert run.ran.count("unit") == 1
    assert run.ran.count("scan") == 2
    taken = next(r for r in rig.plane.records.gate_results("web", 2) if r.name == "unit")
    assert (taken.cached_from, taken.reason) == (1, "3 tests passed (in rollout 1)")
    await rig.down()


async def test_promoting_by_hand_does_not_wait_for_gates() -> None:
    rig = gated()
    await begin(rig)
    await rig.plane.rollouts.steer("web", "promote", ME)
    assert await rig.end_rollout() == "promoted"
    await rig.down()


@pytest.mark.parametrize("broken", [RuntimeError("a defect"), OSError(28, "no space")])
async def test_a_gate_that_cannot_be_run_refuses(broken: Exception) -> None:
    rig = gated()

    async def run(gate: Gate, scene: Scene) -> GateOutcome:
        raise broken

    rig.run_gate = run
    await rig.up()
    await rig.settle()
    await rig.plane.rollouts.deploy("web", None, "2", {"V": "2"}, ME)
    assert await rig.end_rollout() == "rolled back"
    await rig.down()


@pytest.mark.parametrize("strategy", Strategy)
@pytest.mark.parametrize("passed", [True, False])
async def test_every_strategy_waits_for_its_gates(strategy: Strategy, passed: bool) -> None:
    rig = Rig(replace(WEB, rollout=replace(POLICY, strategy=strategy, gates=GATES)))
    run = rig.run_gate = Scripted(rig.world)
    await begin(rig)
    await rig.pass_time(5)
    assert state_of(rig) == "starting"
    run.outcomes = {gate.name: passes("fine") if passed else refuses("no") for gate in GATES}
    assert await rig.end_rollout() == ("promoted" if passed else "rolled back")
    rollout = rig.plane.records.rollout("web")
    assert rollout
    assert rollout.refused is not passed
    await rig.down()


async def test_a_train_is_refused_as_a_whole_by_a_gate_of_one_service() -> None:
    other = replace(WEB, name="api", routes=(Route(path="/api"),))
    rig = Rig(replace(WEB, rollout=replace(POLICY, gates=GATES)), other)
    run = rig.run_gate = Scripted(rig.world)
    await rig.up()
    await rig.settle()
    orders = [Order(service=name, version="2", source=Path("v1"), env={"V": "2"}) for name in ("web", "api")]
    await rig.plane.rollouts.deploy_all(orders, ME, Terms(train="both"))
    while len(run.ran) < 3:
        await rig.pass_time(0.5)
    await rig.pass_time(5)
    assert not any(r.shifted_at for name in ("web", "api") if (r := rig.plane.records.rollout(name)))
    run.outcomes = {"own": refuses("no column price")}
    for name in ("web", "api"):
        assert await rig.end_rollout(name) == "rolled back"
    assert not any(r.shifted_at for name in ("web", "api") if (r := rig.plane.records.rollout(name)))
    await rig.down()
