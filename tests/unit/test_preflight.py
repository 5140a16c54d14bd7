"""What a rollout will need, against what there is."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapless.core.errors import RiskTooHigh
from gapless.core.model import Amount, MirrorRule, RolloutPolicy, Service, Strategy
from gapless.core.model.pools import DeclaredPool
from gapless.core.protect import LimitRule, Protect, RateRule
from gapless.rollout.plan import plan_for
from gapless.rollout.preflight import Coming, Line, Machine, Peaks, Risk, crowd, preflight
from gapless.testing.signals import FakeSignals
from tests.unit.control_kit import ME, WEB, Rig

DB = DeclaredPool(name="db", size=10, most=100)
SERVICE = Service(
    name="orders",
    instances=4,
    workers=2,
    pools=(DB,),
    protect=Protect(rate=RateRule(limit=500), limit=LimitRule(max=50)),
    rollout=RolloutPolicy(strategy=Strategy.BLUE_GREEN),
)
MACHINE = Machine(memory_bytes=8 << 30, used_bytes=2 << 30, descriptors=1024, processors=16)
PEAKS = Peaks(
    recorded_s=86_400,
    requests_per_s=420.0,
    concurrent=100.0,
    memory_bytes=256 << 20,
    descriptors=200,
    in_pool={"db": 20.0},
)


def lines(
    service: Service = SERVICE, peaks: Peaks = PEAKS, machine: Machine = MACHINE, *others: Service
) -> dict[str, Line]:
    return {line.what: line for line in preflight(service, [service, *others], peaks, machine).lines}


def test_each_line_has_its_number_limit_headroom_and_remedy() -> None:
    found = lines()
    assert (found["rate"].used, found["rate"].limit, found["rate"].risk) == (420.0, 500.0, Risk.MEDIUM)
    assert found["rate"].remedy == "Raise protect.rate."
    assert (found["concurrency"].limit, found["concurrency"].headroom) == (400, 0.75)
    assert (found["pool db"].used, found["pool db"].limit) == (20.0, 80)
    # Blue-green: 8 instances x 2 workers x 10 at once.
    assert (found["connections of db"].used, found["connections of db"].risk) == (160, Risk.HIGH)
    assert found["memory"].used == (2 << 30) + 4 * (256 << 20)
    assert found["descriptors"].used == 100
    assert found["processors"].risk is Risk.LOW


def test_services_that_share_a_pool_add_up() -> None:
    other = Service(name="billing", instances=2, workers=1, pools=(DeclaredPool(name="db", size=5),))
    rolling = replace(SERVICE, rollout=RolloutPolicy(strategy=Strategy.ROLLING))
    assert lines(rolling, PEAKS, MACHINE, other)["connections of db"].used == 5 * 2 * 10 + 10


def test_what_is_not_recorded_is_unknown_and_no_low_risk() -> None:
    found = preflight(SERVICE, [SERVICE], Peaks(), Machine())
    unknown = {line.what for line in found.lines if line.risk is Risk.UNKNOWN}
    assert {"record", "rate", "concurrency", "pool db", "memory", "descriptors"} <= unknown
    assert found.risk is Risk.HIGH  # the database's connections need no record
    assert preflight(replace(SERVICE, pools=()), [], Peaks(), Machine()).risk is Risk.UNKNOWN


def coming(service: Service = SERVICE, peaks: Peaks = PEAKS, **known: object) -> dict[str, Line]:
    given = Coming(release="1.5", **{"present": SERVICE, **known})  # type: ignore[arg-type]
    return {line.what: line for line in preflight(service, [service], peaks, MACHINE, given).lines}


def test_the_pools_of_the_coming_release_are_weighed_beside_those_of_the_present_one() -> None:
    larger = replace(SERVICE, pools=(DeclaredPool(name="db", size=3, most=100),))
    found = coming(larger)
    assert found["pool db"].limit == 3 * 2 * 4
    assert found["pool db"].risk is Risk.MEDIUM, "20 in use at the peak"
    assert found["connections of db"].used == 4 * 2 * 10 + 4 * 2 * 3
    assert found["definition"].remedy == "`gapless apply` before the deploy."
    assert "its pools of orders" in found["definition"].told
    assert "definition" not in coming()


def test_what_the_release_itself_showed_goes_before_what_is_declared() -> None:
    found = coming(room={"db": 5.0})
    assert (found["pool db"].limit, found["pool db"].risk) == (20.0, Risk.HIGH)
    assert "5 in an instance of 1.5" in found["pool db"].told
    assert found["connections of db"].used == 4 * 2 * 10 + 4 * 5


def test_a_pool_that_nobody_declared_is_unknown_in_a_release_that_never_ran() -> None:
    peaks = replace(PEAKS, in_pool={"cache": 10.0}, pool_room={"cache": 40.0})
    assert coming(peaks=peaks)["pool cache"].risk is Risk.UNKNOWN
    assert "never run" in coming(peaks=peaks)["pool cache"].told
    assert coming(peaks=peaks, room={"cache": 10.0})["pool cache"].risk is Risk.LOW
    assert coming(peaks=peaks, room={"cache": 3.0})["pool cache"].risk is Risk.MEDIUM
    full = replace(peaks, in_pool={"cache": 39.0})
    assert coming(peaks=full)["pool cache"].risk is Risk.MEDIUM, "already with the present sizes"


@given(was=st.integers(1, 50), now=st.integers(1, 50), strategy=st.sampled_from(Strategy), instances=st.integers(1, 9))
def test_no_more_connections_than_all_at_once_with_the_larger_size(
    was: int, now: int, strategy: Strategy, instances: int
) -> None:
    policy = RolloutPolicy(strategy=strategy)
    before = Service(name="orders", instances=instances, pools=(replace(DB, size=was),), rollout=policy)
    after = replace(before, pools=(replace(DB, size=now),))
    used = coming(after, present=before)["connections of db"].used
    most = crowd(policy, instances).most
    assert used
    assert max(was, now) <= used <= most * max(was, now)
    assert used >= instances * now


def test_recorded_pools_count_although_nobody_declared_them() -> None:
    peaks = replace(PEAKS, in_pool={"cache": 18.0}, pool_room={"cache": 20.0})
    assert lines(SERVICE, peaks)["pool cache"].risk is Risk.MEDIUM


def test_a_mirror_with_effects_is_a_risk() -> None:
    rule = MirrorRule(methods=("GET", "POST"))
    found = lines(replace(SERVICE, rollout=RolloutPolicy(mirror=rule)))["mirror"]
    assert found.risk is Risk.MEDIUM
    assert "POST have their effects twice" in found.told


def test_too_many_workers_are_never_a_high_risk() -> None:
    assert lines(SERVICE, PEAKS, replace(MACHINE, processors=1))["processors"].risk is Risk.MEDIUM


POLICIES = st.builds(
    RolloutPolicy,
    strategy=st.sampled_from(Strategy),
    surge=st.builds(Amount, count=st.integers(0, 5)),
    unavailable=st.builds(Amount, count=st.integers(0, 5)),
)


@given(policy=POLICIES, instances=st.integers(1, 12))
def test_the_crowd_is_never_less_than_any_step_has(policy: RolloutPolicy, instances: int) -> None:
    found = crowd(policy, instances)
    plan = plan_for(policy, instances)
    assert found.most >= max(step.new_instances + step.old_instances for step in plan.steps)
    assert found.most >= instances
    assert 1 <= found.fewest <= instances


@given(used=st.floats(0, 1e6), limit=st.integers(1, 10**6))
def test_risk_rises_with_use(used: float, limit: int) -> None:
    service = replace(SERVICE, protect=Protect(rate=RateRule(limit=limit)))
    line = lines(service, replace(PEAKS, requests_per_s=used))["rate"]
    wanted = Risk.HIGH if used >= limit else Risk.MEDIUM if used >= 0.8 * limit else Risk.LOW
    assert line.risk is wanted or abs(used / limit - 0.8) < 1e-9
    assert bool(line.remedy) == (line.risk is not Risk.LOW)


async def test_peaks_come_from_what_was_recorded_by_littles_law() -> None:
    rig = Rig(replace(WEB, protect=Protect(limit=LimitRule(max=10))))
    signals = rig.signals = FakeSignals(rig.world)
    await rig.up()
    await rig.settle()
    signals.put_steady("gapless_requests_total", {"service": "web"}, per_s=30)
    signals.put_gauge("process_resident_memory_bytes", {"service": "web", "instance": "a"}, 1000.0)
    signals.put_gauge("process_resident_memory_bytes", {"service": "web", "instance": "b"}, 3000.0)
    signals.put_gauge("process_resident_memory_bytes", {"service": "other", "instance": "c"}, 9000.0)
    signals.put_gauge("gapless_requests_in_flight", {"service": "web"}, 4.0)
    signals.put_gauge("pool_in_use", {"service": "web", "pool": "db"}, 7.0)
    signals.put_gauge("pool_max_size", {"service": "web", "pool": "db"}, 8.0)
    found = {line.what: line for line in (await rig.plane.preflight.report("web")).lines}
    assert found["record"].used == pytest.approx(3600, rel=0.05)
    assert found["concurrency"].used == 4.0
    assert (found["pool db"].used, found["pool db"].limit) == (7.0, 8.0)
    for instance, size in (("c", 4.0), ("d", 3.0)):
        labels = {"service": "web", "release": "2", "instance": instance, "pool": "db"}
        signals.put_gauge("pool_max_size", labels, size)
    file = {"web": replace(WEB, protect=Protect(limit=LimitRule(max=1)))}
    rig.plane.preflight._file = lambda: file
    weighed = {line.what: line for line in (await rig.plane.preflight.report("web", "2", by_file=True)).lines}
    assert (weighed["pool db"].limit, weighed["pool db"].risk) == (6.0, Risk.HIGH)
    assert (weighed["concurrency"].limit, weighed["definition"].risk) == (2, Risk.MEDIUM)
    in_force = {line.what: line for line in (await rig.plane.preflight.report("web", "2")).lines}
    assert (in_force["concurrency"].limit, "definition" in in_force) == (20, False)
    signals.away = "gone"
    assert (await rig.plane.preflight.report("web")).lines[0].risk is Risk.UNKNOWN
    await rig.down()


async def test_a_high_risk_refuses_a_deploy_only_where_the_policy_says_so() -> None:
    crowded = replace(WEB, pools=(DeclaredPool(name="db", size=90, most=100),))
    for blocks in (False, True):
        rig = Rig(replace(crowded, rollout=replace(WEB.rollout, preflight_blocks=blocks)))
        await rig.up()
        await rig.settle()
        if blocks:
            with pytest.raises(RiskTooHigh, match=r"web is not deployed: connections of db: .* \(\d+ of 100\)"):
                await rig.plane.rollouts.deploy("web", None, "2", {"V": "2"}, ME)
            assert rig.plane.records.rollout("web") is None
        else:
            await rig.plane.rollouts.deploy("web", None, "2", {"V": "2"}, ME)
        await rig.down()
