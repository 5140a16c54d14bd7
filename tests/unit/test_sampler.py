"""Readings of business metrics on their way to a rollout's verdict."""

from __future__ import annotations

from dataclasses import replace

from gapless.core.model import BUCKETS, MetricRule
from gapless.testing.signals import FakeSignals
from tests.unit.control_kit import ME, POLICY, WEB, Rig

SOLD = MetricRule(name="conversion", metric="paid_total", per="carts_total")
BASKET = MetricRule(name="basket", query='avg(basket{release="$release", service="$service"})', tolerance=0.1)


class FakeQueries:
    """`core.ports.Queries`: what each release's basket is worth."""

    def __init__(self, **baskets: float) -> None:
        self.baskets = baskets
        self.asked: list[str] = []

    async def instant(self, query: str) -> float | None:
        self.asked.append(query)
        return next((value for name, value in self.baskets.items() if f'release="{name}"' in query), None)


def judged_by(*rules: MetricRule) -> Rig:
    policy = replace(POLICY, steps=(3_000, BUCKETS), metrics=rules, patience_s=90.0)
    return Rig(replace(WEB, rollout=policy))


async def deployed(rig: Rig) -> str:
    plane = await rig.up()
    await rig.settle()
    rollout = await plane.rollouts.deploy("web", None, "v2", {"A": "2"}, ME)
    return rollout.before


async def selling(rig: Rig, before: str, canary: float, stable: float) -> None:
    """Carts and payments of both releases, scraped every 5 s, until the rollout has ended."""
    signals = rig.signals
    assert isinstance(signals, FakeSignals)
    for tick in range(60):
        for release, of, share in (("v2", 30, canary), (before, 70, stable)):
            labels = {"service": "web", "release": release}
            signals.put("carts_total", labels, [(rig.world.time(), tick * of)])
            signals.put("paid_total", labels, [(rig.world.time(), tick * of * share)])
        await rig.pass_time(5.0)
        rollout = rig.plane.records.rollout("web")
        if rollout and rollout.state.ended:
            return


async def test_a_release_that_sells_less_goes_back() -> None:
    rig = judged_by(SOLD)
    rig.signals = FakeSignals(rig.world)
    before = await deployed(rig)
    await selling(rig, before, 0.02, 0.3)
    rollout = rig.plane.records.rollout("web")
    assert rollout
    assert (rollout.winner, rollout.reason.startswith("conversion is worse")) == (before, True), rollout.reason
    await rig.down()


async def test_a_release_that_sells_as_well_is_promoted() -> None:
    rig = judged_by(SOLD)
    rig.signals = FakeSignals(rig.world)
    await selling(rig, await deployed(rig), 0.3, 0.3)
    assert await rig.end_rollout() == "promoted"
    await rig.down()


async def test_queries_are_asked_for_both_releases() -> None:
    rig = judged_by(BASKET)
    before = await deployed(rig)
    await rig.kill()
    rig.queries = FakeQueries(**{"v2": 20.0, before: 40.0})
    await rig.up()
    assert await rig.end_rollout() == "rolled back"
    rollout = rig.plane.records.rollout("web")
    assert rollout
    assert "basket was worse at 3 readings in a row: 20 against 40" in rollout.reason
    assert 'avg(basket{release="v2", service="web"})' in rig.queries.asked
    await rig.down()


async def test_metrics_that_nobody_records_hold_until_the_patience_is_over() -> None:
    rig = judged_by(SOLD)
    rig.signals = FakeSignals(rig.world, away="the record is away")
    before = await deployed(rig)
    await rig.pass_time(20.0)
    rollout = rig.plane.records.rollout("web")
    assert rollout
    assert not rollout.state.ended
    await rig.pass_time(90.0)
    assert await rig.end_rollout() == "rolled back"
    rollout = rig.plane.records.rollout("web")
    assert rollout
    assert "conversion: 0 of 20 carts_total recorded" in rollout.reason
    assert rollout.winner == before
    await rig.down()
